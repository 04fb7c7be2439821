//! coord's own format: JSON Lines, one event per line after a header line.
//!
//! ```text
//! {"format":"coord-history","version":1}
//! {"at":5,"process":"a","attempt":{"transaction":1,"number":1,
//!  "isolation":"serializable","began":2,"reads":[{"key":"x","revision":3,
//!  "value":"90"},{"key":"y"}],"writes":[{"key":"x","value":"80"}],
//!  "end":"committed","revision":9}}                            (one line)
//! {"at":6,"change":{"revision":9,"writes":[{"key":"x","value":"80"}]}}
//! {"at":7,"note":"done"}
//! ```
//!
//! - Times are nanoseconds.
//! - A key that was read without `revision` did not exist; a key that was written without `value`
//!   was deleted.
//! - A range has `start` and `end`, etcd's two fields, and the keys that were `found`.
//! - `end` is `committed`, with a revision, or `conflict`, `aborted`, `failed`, `unknown`.
//! - Bytes are text: a backslash is doubled, and a byte that is not UTF-8 is written in
//!   hexadecimal, such as `\xff`.
//! - A request that a process sent is written as a note.
//! - `inferred` is what the reader of a format without revisions has found.
//! - Blank lines are skipped. A line has at most 64 MiB.

mod inferred;
mod lines;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufRead, Read as _, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::lines::Line;
use super::FormatError;
use crate::history::{Event, EventKind, History};

/// The version of the format that is written and read.
const VERSION: u64 = 1;

/// The longest line that is read. A stream without line ends must not fill the memory.
const LINE_MAX_BYTES: u64 = 64 << 20;

/// The first line.
#[derive(Deserialize, Serialize)]
struct Header<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    version: u64,
}

/// Writes a history.
///
/// ```
/// use std::time::Duration;
///
/// use coord_testkit::history::{Event, EventKind, History, formats::json_lines};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kind = EventKind::Note("done".to_owned());
/// let history = History(vec![Event { at: Duration::from_nanos(7), process: None, kind }]);
/// let mut file = Vec::new();
/// json_lines::write(&history, &mut file)?;
/// let text = std::str::from_utf8(&file)?;
/// assert_eq!(text.lines().nth(1), Some("{\"at\":7,\"note\":\"done\"}"));
/// assert_eq!(json_lines::read(&file[..])?, history);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Io`.
pub fn write(history: &History, mut out: impl Write) -> Result<(), FormatError> {
    let header = Header { format: "coord-history".into(), version: VERSION };
    write_line(&mut out, &header)?;
    history.0.iter().try_for_each(|event| write_line(&mut out, &Line::from(event)))
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> Result<(), FormatError> {
    serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// Reads a whole history.
///
/// # Errors
/// `Io`, `Syntax`, `Version`.
pub fn read(input: impl BufRead) -> Result<History, FormatError> {
    events(input)?.collect::<Result<_, _>>().map(History)
}

/// Reads a history event by event, in the memory of one line.
///
/// # Errors
/// `Io`, `Syntax`, `Version`; an item of the iterator: `Io`, `Syntax`.
pub fn events(
    mut input: impl BufRead,
) -> Result<impl Iterator<Item = Result<Event, FormatError>>, FormatError> {
    let mut line = String::new();
    read_line(&mut input, &mut line, 1)?;
    let header: Header<'_> = serde_json::from_str(&line)
        .map_err(|error| FormatError::syntax(1, format!("no header of a history: {error}")))?;
    if header.format != "coord-history" {
        return Err(FormatError::syntax(
            1,
            format!("invalid format {:?}: must be coord-history", header.format),
        ));
    }
    if header.version != VERSION {
        return Err(FormatError::Version { version: header.version, supported: VERSION });
    }
    let (mut number, mut names) = (1, BTreeMap::new());
    Ok(std::iter::from_fn(move || {
        loop {
            line.clear();
            number += 1;
            match read_line(&mut input, &mut line, number) {
                Ok(0) => return None,
                Ok(_) if line.trim().is_empty() => {}
                Ok(_) => {
                    let event = parse(&line, &mut names);
                    return Some(event.map_err(|message| FormatError::syntax(number, message)));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }))
}

/// Reads a line, and returns its length; 0 at the end.
fn read_line(
    input: &mut impl BufRead,
    line: &mut String,
    number: usize,
) -> Result<usize, FormatError> {
    let length = input.by_ref().take(LINE_MAX_BYTES).read_line(line)?;
    if length as u64 == LINE_MAX_BYTES && !line.ends_with('\n') {
        let message = format!("the line is too long: at most {LINE_MAX_BYTES} bytes are read");
        return Err(FormatError::syntax(number, message));
    }
    Ok(length)
}

/// The event of a line, or what is wrong with it.
fn parse(line: &str, names: &mut BTreeMap<String, Arc<str>>) -> Result<Event, String> {
    let line: Line<'_> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let process = line.process.as_ref().map(|name| match names.get(&*name.0) {
        Some(name) => Arc::clone(name),
        None => {
            let name = name.0.to_string();
            Arc::clone(names.entry(name.clone()).or_insert_with(|| name.into()))
        }
    });
    let (at, kind) = (Duration::from_nanos(line.at), line.into_kind()?);
    if let EventKind::Attempt(attempt) = &kind
        && attempt.began > at
    {
        return Err(format!("the attempt ends at {at:?}, before it began at {:?}", attempt.began));
    }
    Ok(Event { at, process, kind })
}
