//! The request of `coord lock` or `coord elect`: what to acquire and how. Also their exit statuses.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use anyhow::Error;
use coord_core::error::PrimitiveError;
use coord_core::queue::Contender;

use crate::exit::{ExitError, report};

/// Exit status: the lock, the leadership or the queue entry was lost.
pub(super) const LOST_STATUS: u8 = 122;
/// Exit status: the lock is taken, by another client or a foreign key, and `--try` does not wait.
pub(super) const TAKEN_STATUS: u8 = 123;
/// Exit status: not acquired within `--timeout`.
pub(super) const TIMED_OUT_STATUS: u8 = 124;
/// Exit status: coord failed, for example because the store is unavailable.
pub(super) const FAILED_STATUS: u8 = 125;

/// The section on exit statuses in the help of both subcommands. `$only` is the row of one of them.
macro_rules! exit_status {
    ($only:literal) => {
        concat!(
            "\
Exit status:
  that of CMD, or 128 + n if signal n ended CMD; if CMD did not run, or did not end by itself:
    0  without CMD: held until a signal was received, and released
    2  usage error
  122  lost: CMD did not run, was terminated, or had exited with 0 before the loss was detected
",
            $only,
            "  124  not acquired in time (--timeout)
  125  coord failed, for example because the store is unavailable
  126  CMD cannot be run
  127  CMD was not found
  128 + n  signal n was received while coord waited"
        )
    };
}
pub(crate) use exit_status;

/// Whether to wait in the queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum WaitMode {
    /// Wait, bounded by `--timeout`.
    Wait,
    /// Acquire only if that needs no wait.
    Try,
}

/// What to acquire, and how to hold it.
#[derive(Debug)]
pub(crate) struct HoldRequest {
    pub(crate) primitive: Primitive,
    pub(crate) name: String,
    /// The value of the key: empty for a lock, the candidate's value for an election.
    pub(crate) value: String,
    pub(crate) wait_mode: WaitMode,
    /// The number of slots of a semaphore; `None` for a lock or an election.
    pub(crate) slots: Option<u32>,
    /// The minimum time to hold a lock, also if the command ends sooner.
    pub(crate) hold_at_least: Option<Duration>,
    /// Whether to acquire again after a loss.
    pub(crate) again: bool,
}

/// What a holder owns: a lock or one of its slots, or the leadership.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Primitive {
    Lock,
    Election,
}

impl Primitive {
    /// The name of the subcommand, for messages.
    pub(super) const fn subcommand(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Election => "elect",
        }
    }

    /// The variables that the command receives.
    pub(super) fn variables(self, held: &Contender) -> Vec<(&'static str, OsString)> {
        // Unescaped, because the command uses it as a key.
        let key = || OsString::from_vec(held.key().to_vec());
        let token = ("COORD_FENCING_TOKEN", held.fencing_token().to_string().into());
        match self {
            Self::Lock => vec![
                ("COORD_LOCK_KEY", key()),
                token,
                ("ETCD_LOCK_KEY", key()),
                ("ETCD_LOCK_REV", held.header().revision.to_string().into()),
            ],
            Self::Election => vec![("COORD_ELECTION_KEY", key()), token],
        }
    }
}

impl HoldRequest {
    /// Prints a message on standard error.
    pub(super) fn report(&self, message: &str) {
        report(self.primitive.subcommand(), message);
    }
}

/// A failure of coord itself.
pub(super) fn failure(error: impl Into<Error>) -> ExitError {
    ExitError::from_error(FAILED_STATUS, error)
}

/// The error of a primitive during the operation that `operation` names.
pub(super) fn primitive_failure(
    error: PrimitiveError,
    operation: impl FnOnce() -> String,
) -> ExitError {
    match error {
        PrimitiveError::Lost(_) => ExitError::from_error(LOST_STATUS, error),
        error => failure(Error::new(error).context(operation())),
    }
}
