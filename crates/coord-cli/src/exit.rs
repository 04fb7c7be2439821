//! Exit statuses, error messages and output of the subcommands.
//!
//! A subcommand returns an [`ExitError`] when it did not do its work; `main` prints the message and
//! exits with the status. The statuses 0 to 4 mean the same in every subcommand that uses them,
//! except in `check`, which has its own (`check.rs`); `lock` and `elect` define their own from 122
//! (`hold/request.rs` and `hold/child.rs`).

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;

use coord_core::error::PrimitiveError;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

/// The exit status and message of a subcommand that did not do its work.
#[derive(Debug)]
pub(crate) struct ExitError {
    pub(crate) status: u8,
    /// `None` if there is nothing to add: the command that `coord` ran has failed, a signal ended
    /// the wait, or the output or an earlier message gives the reason.
    pub(crate) message: Option<String>,
}

impl ExitError {
    /// The subcommand failed, or an invariant of a benchmark was violated.
    pub(crate) const FAILED: u8 = 1;
    /// The command line is wrong. clap exits with the same status.
    pub(crate) const USAGE: u8 = 2;
    /// A benchmark did not end within its timeout.
    pub(crate) const TIMED_OUT: u8 = 3;
    /// There is no holder, no leader, no member, or no message.
    pub(crate) const NOT_HELD: u8 = 4;

    pub(crate) fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: Some(message.into()) }
    }

    /// The message; "lost" for a loss whose message was printed before.
    pub(crate) fn reason(&self) -> &str {
        self.message.as_deref().unwrap_or("lost")
    }

    /// An exit status without a message.
    pub(crate) const fn silent(status: u8) -> Self {
        Self { status, message: None }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Self::USAGE, message)
    }

    /// The exit status `status` with the message of `error`. A [`UsageError`] keeps its own status.
    pub(crate) fn from_error(status: u8, error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        let status = if error.is::<UsageError>() { Self::USAGE } else { status };
        Self::new(status, describe(&error))
    }
}

/// A wrong command line, or a wrong variable of the environment: a retry cannot succeed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// The message of an error and of its causes. It ends at the first error of the library, because
/// such an error includes its own causes.
fn describe(error: &anyhow::Error) -> String {
    let mut messages = Vec::new();
    for cause in error.chain() {
        messages.push(cause.to_string());
        if cause.is::<coord_core::Error>() || cause.is::<PrimitiveError>() {
            break;
        }
    }
    messages.join(": ")
}

impl From<anyhow::Error> for ExitError {
    fn from(error: anyhow::Error) -> Self {
        Self::from_error(Self::FAILED, error)
    }
}

/// Prints a line on standard output and flushes standard output. Returns `false` if it is a pipe
/// whose reader has closed it.
pub(crate) fn print(line: impl Display) -> Result<bool, anyhow::Error> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow::Error::new(error).context("standard output")),
    }
}

/// Waits until the reader of standard output has closed it.
///
/// A subcommand that prints nothing for a long time would not detect the closed pipe otherwise.
/// Where the system does not report the end of a reader, as for a file, this never returns.
pub(crate) async fn stdout_closed() {
    // Not made non-blocking, because other processes may share the pipe: it is polled only.
    let watched = std::io::stdout().as_fd().try_clone_to_owned();
    if let Ok(out) = watched.and_then(Sender::from_owned_fd_unchecked)
        && out.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Prints a message on standard error, as `coord SUBCOMMAND: MESSAGE`. The message is escaped,
/// because it may quote names, keys and text from a server.
pub(crate) fn report(subcommand: &str, message: &str) {
    // A failed write is ignored, because the caller may still have a command to stop.
    let message = crate::text::escape(message.as_bytes());
    let _ = writeln!(std::io::stderr(), "coord {subcommand}: {message}");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anyhow::Context as _;
    use coord_core::{Error, error::Outcome};

    use super::*;

    #[test]
    fn store_error_reports_its_cause_once() {
        let error = Error::Unavailable {
            outcome: Outcome::NotApplied,
            reason: "cannot connect to a:1: refused".to_owned(),
            source: Some(Arc::new(std::io::Error::other("refused"))),
        };
        let error = Err::<(), _>(error).context("connect").expect_err("it is an error");
        let error = ExitError::from_error(ExitError::FAILED, error);
        let expected = "connect: the store is unavailable: cannot connect to a:1: refused";
        assert_eq!((error.status, error.message.as_deref()), (1, Some(expected)));
    }

    #[test]
    fn usage_error_keeps_status_2_beside_another_status() {
        let usage = UsageError("--key is given without --cert".to_owned());
        let error = ExitError::from_error(125, usage);
        assert_eq!(error.status, ExitError::USAGE);
    }
}
