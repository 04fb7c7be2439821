//! What the end of a subcommand means to a shell.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Why a subcommand did not do its work: an exit status, and what to say about it.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) status: u8,
    /// `None` if it is somebody else's to say: a command that was run, for one.
    pub(crate) message: Option<String>,
}

impl End {
    /// It failed, or something that must always hold did not.
    pub(crate) const FAILED: u8 = 1;
    /// The command line is wrong; clap says the same.
    pub(crate) const MISUSED: u8 = 2;
    pub(crate) const TIMED_OUT: u8 = 3;
    /// Nobody is there to be shown.
    pub(crate) const NOBODY: u8 = 4;

    pub(crate) fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: Some(message.into()) }
    }

    pub(crate) const fn silent(status: u8) -> Self {
        Self { status, message: None }
    }

    pub(crate) fn misused(message: impl Into<String>) -> Self {
        Self::new(Self::MISUSED, message)
    }

    /// This error, with the status that it has in some subcommands.
    pub(crate) fn failed(status: u8, error: impl Into<anyhow::Error>) -> Self {
        Self::new(status, format!("{:#}", error.into()))
    }
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(Self::FAILED, error)
    }
}

/// Prints a line, at once. `false` if nobody reads any more.
pub(crate) fn print(line: impl Display) -> Result<bool, anyhow::Error> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow::Error::new(error).context("standard output")),
    }
}

#[expect(clippy::print_stderr, reason = "a program tells its user what goes wrong")]
pub(crate) fn complain(subcommand: &str, message: &str) {
    eprintln!("coord {subcommand}: {message}");
}
