//! Files of histories: coord's own format, and those of other checkers.
//!
//! | module | format | expresses |
//! |---|---|---|
//! | [`json_lines`] | coord's own | everything; a request becomes a note |
//! | [`elle`] | Elle's, in JSON Lines or EDN: for elle-cli, adya | puts and appends of keys |
//! | [`plume`] | the text of Plume and AWDIT | puts of keys |
//! | [`porcupine`] | porcupine's operations as JSON | transactions of one key |
//!
//! A format of another checker has no revisions and no ranges, and most have no deletions. Writing
//! a history that such a format cannot express fails with an error that names the event: a file
//! without that event would be another history.

mod bytes;
mod edn;
pub mod elle;
pub mod json_lines;
mod operations;
pub mod plume;
pub mod porcupine;

use std::io;

/// The error of reading or writing a history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not of the format.
    #[error("line {line}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The file has another version of the format.
    #[error(
        "version {version} of the format is not supported: the supported version is {supported}"
    )]
    Version {
        /// The version of the file.
        version: u64,
        /// The version that is supported.
        supported: u64,
    },
    /// The format cannot express an event.
    #[error("{format} cannot express event {event}: {reason}")]
    NotExpressible {
        /// The format.
        format: &'static str,
        /// The number of the event in the history, from 0.
        event: usize,
        /// What the format lacks.
        reason: String,
    },
}

impl FormatError {
    fn syntax(line: usize, message: impl ToString) -> Self {
        Self::Syntax { line, message: message.to_string() }
    }
}
