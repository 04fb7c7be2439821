//! What the end of a subcommand means to a shell.

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;

use coord_core::PrimitiveError;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

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

    /// The message, or that there was a loss which has been reported.
    pub(crate) fn why(&self) -> &str {
        self.message.as_deref().unwrap_or("lost")
    }

    pub(crate) const fn silent(status: u8) -> Self {
        Self { status, message: None }
    }

    pub(crate) fn misused(message: impl Into<String>) -> Self {
        Self::new(Self::MISUSED, message)
    }

    /// This error, with the status that it has in some subcommands.
    pub(crate) fn failed(status: u8, error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        let status = if error.is::<Misused>() { Self::MISUSED } else { status };
        Self::new(status, told(&error))
    }
}

/// The command line, or the environment beside it, is wrong: trying again cannot help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misused(pub(crate) String);

/// An error and its causes. Errors of the store tell theirs themselves, shorter than those do.
fn told(error: &anyhow::Error) -> String {
    let mut told = Vec::new();
    for cause in error.chain() {
        told.push(cause.to_string());
        if cause.is::<coord_core::Error>() || cause.is::<PrimitiveError>() {
            break;
        }
    }
    told.join(": ")
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

/// Waits until nobody reads standard output any more. Who has nothing to print for long would not
/// find out; where the system does not tell, as of a file, this waits for ever.
pub(crate) async fn nobody_reads() {
    // Not made non-blocking, for others may share it: it is watched, and never written to.
    let watched = std::io::stdout().as_fd().try_clone_to_owned();
    if let Ok(out) = watched.and_then(Sender::from_owned_fd_unchecked)
        && out.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Prints a message on standard error. A message may quote names, keys and what a server sent, so
/// it is escaped as a whole.
pub(crate) fn complain(subcommand: &str, message: &str) {
    // Where it cannot be said, there is still work to do: a command to be stopped, for one.
    let message = crate::text::line(message.as_bytes());
    let _ = writeln!(std::io::stderr(), "coord {subcommand}: {message}");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anyhow::Context as _;
    use coord_core::{Error, Outcome};

    use super::*;

    #[test]
    fn store_error_reports_its_cause_once() {
        let error = Error::Unavailable {
            outcome: Outcome::NotApplied,
            reason: "cannot connect to a:1: refused".to_owned(),
            source: Some(Arc::new(std::io::Error::other("refused"))),
        };
        let error = Err::<(), _>(error).context("connect").expect_err("it is an error");
        let end = End::failed(End::FAILED, error);
        let expected = "connect: the store is unavailable: cannot connect to a:1: refused";
        assert_eq!((end.status, end.message.as_deref()), (1, Some(expected)));
    }

    #[test]
    fn usage_error_keeps_status_2_in_every_subcommand() {
        let end = End::failed(125, Misused("--key is given without --cert".to_owned()));
        assert_eq!(end.status, End::MISUSED);
    }
}
