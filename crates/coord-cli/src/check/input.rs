//! The files of `coord check`: the history in its format, and what the subcommand writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use coord_testkit::history::History;
use coord_testkit::history::formats::{FormatError, elle, json_lines, plume, porcupine};

use super::ERROR_STATUS;
use crate::exit::ExitError;

/// How much of the first line is read to detect the format.
const FIRST_READ_MAX: u64 = 1 << 20;

/// The history that is checked.
#[derive(Args, Debug)]
pub(super) struct Input {
    /// File of the history; `-` reads standard input
    #[arg(value_name = "HISTORY")]
    history: PathBuf,
    /// Format of the file; without it, the first line decides
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Order of the commits of a file of Elle's: a JSON object from the index of each completion to
    /// a position
    #[arg(long, value_name = "FILE")]
    transaction_order: Option<PathBuf>,
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// coord's own JSON Lines
    Coord,
    /// Elle's JSON or EDN, as Jepsen writes it
    Elle,
    /// The text of Plume and AWDIT
    Plume,
    /// Operations of porcupine as JSON, as coord writes them
    Porcupine,
}

/// Why a history could not be checked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("{file}: cannot be read: {source}: name a readable file, or - for standard input")]
    Read { file: String, source: io::Error },
    #[error("{file}: {source}: correct the file, or name its format with --format")]
    Format { file: String, source: FormatError },
    #[error("{file}: not UTF-8 from byte {byte} on: the format is text: save it as UTF-8")]
    Encoding { file: String, byte: usize },
    #[error(
        "{file}: no transaction order: {source}: it must be a JSON object from indices to positions, \
         such as {{\"1\": 7}}"
    )]
    Order { file: String, source: serde_json::Error },
    #[error("--transaction-order is for Elle's format: leave it out, or name --format elle")]
    NoOrder,
    #[error("{file}: cannot be written: {source}: name a file in a folder that exists")]
    Write { file: String, source: io::Error },
}

impl From<CheckError> for ExitError {
    fn from(error: CheckError) -> Self {
        Self::new(ERROR_STATUS, error.to_string())
    }
}

impl Input {
    /// The file as messages name it.
    fn name(&self) -> String {
        if self.is_stdin() {
            "standard input".to_owned()
        } else {
            self.history.display().to_string()
        }
    }

    fn is_stdin(&self) -> bool {
        self.history == Path::new("-")
    }

    /// Reads the history.
    pub(super) fn read(&self) -> Result<History, CheckError> {
        let file = self.name();
        let unreadable = |source| CheckError::Read { file: file.clone(), source };
        let wrong = |source: FormatError| match source {
            FormatError::Io(source) => CheckError::Read { file: file.clone(), source },
            source => CheckError::Format { file: file.clone(), source },
        };
        let mut input: Box<dyn BufRead> = if self.is_stdin() {
            Box::new(io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(&self.history).map_err(unreadable)?))
        };
        let mut first = Vec::new();
        // The first line of coord's own format is short. A stream without line ends must not fill
        // the memory before its format is known.
        input.by_ref().take(FIRST_READ_MAX).read_until(b'\n', &mut first).map_err(unreadable)?;
        let format = self.format.unwrap_or_else(|| detect(&first));
        let order = self.order(format)?;
        if format == Format::Coord {
            return json_lines::read((&first[..]).chain(input)).map_err(wrong);
        }
        input.read_to_end(&mut first).map_err(unreadable)?;
        let text = std::str::from_utf8(&first).map_err(|error| CheckError::Encoding {
            file: file.clone(),
            byte: error.valid_up_to(),
        })?;
        match format {
            Format::Plume => plume::read(text),
            Format::Porcupine => porcupine::read(text),
            Format::Elle | Format::Coord => elle::read(text, &order),
        }
        .map_err(wrong)
    }

    /// The order of the commits, if a file has it.
    fn order(&self, format: Format) -> Result<BTreeMap<u64, i64>, CheckError> {
        let Some(path) = &self.transaction_order else { return Ok(BTreeMap::new()) };
        if format != Format::Elle {
            return Err(CheckError::NoOrder);
        }
        let file = path.display().to_string();
        let text = std::fs::read(path)
            .map_err(|source| CheckError::Read { file: file.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| CheckError::Order { file, source })
    }
}

/// The format of a file, by its first line. Elle's operations have a type, porcupine's a client,
/// Plume's lines are reads and writes, and coord's header has a format.
fn detect(first: &[u8]) -> Format {
    let contains = |text: &[u8]| first.windows(text.len()).any(|part| part == text);
    if contains(b"\"type\"") || contains(b":type") {
        Format::Elle
    } else if contains(b"\"ClientId\"") {
        Format::Porcupine
    } else if first.starts_with(b"r(") || first.starts_with(b"w(") {
        Format::Plume
    } else {
        Format::Coord
    }
}

/// Writes a file.
pub(super) fn write(file: &Path, text: &str) -> Result<(), CheckError> {
    std::fs::write(file, text)
        .map_err(|source| CheckError::Write { file: file.display().to_string(), source })
}
