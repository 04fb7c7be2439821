//! The errors of a transaction, and the conflicts between transactions.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, LossReason, Outcome, PrimitiveError};
use crate::kv::Revision;

/// The error of a transaction: it was not committed, or its outcome is unknown.
///
/// `E` is the error of the closure. If it implements `Debug` and `Display`, this type implements
/// [`std::error::Error`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StmError<E> {
    /// The closure returned this error. Nothing was written.
    #[error("the transaction was aborted: {0}")]
    Aborted(E),
    /// The last attempt conflicted, and the budget of [`Retry`](super::Retry) is spent. Nothing was
    /// written.
    #[error(
        "retries exhausted after {attempts} attempts in {elapsed:?}; last conflicts: {}: raise the \
         budget with `retry`, or write less to these keys",
        list(.conflicts)
    )]
    RetriesExhausted {
        /// The number of attempts.
        attempts: u32,
        /// The time from the start of the transaction.
        elapsed: Duration,
        /// The conflicts of the last attempt.
        conflicts: Vec<Conflict>,
    },
    /// The commit may have been applied. [`Stm::exactly_once`](super::Stm::exactly_once) resolves
    /// most such commits.
    #[error("the transaction may have been committed: {0}")]
    OutcomeUnknown(#[source] Error),
    /// The session that [`Stm::exactly_once`](super::Stm::exactly_once) was given is lost. Nothing
    /// was written. Open another session and make another [`Stm`](super::Stm) with it.
    #[error("the session of the transaction's idempotency keys is lost: {0}")]
    Lost(#[source] LossReason),
    /// The backend failed. Nothing was written.
    #[error(transparent)]
    Backend(Error),
}

impl<E> StmError<E> {
    /// Returns whether the writes were surely not applied.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            // No commit was sent, or each was rejected.
            Self::Aborted(_) | Self::RetriesExhausted { .. } | Self::Lost(_) | Self::Backend(_) => {
                Outcome::NotApplied
            }
            Self::OutcomeUnknown(_) => Outcome::Unknown,
        }
    }

    /// Returns the reason of the session's loss, if that ended the transaction.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        if let Self::Lost(reason) = self { Some(*reason) } else { None }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<StmError<E>> for PrimitiveError {
    /// An error of the closure, and retries that are exhausted, become
    /// [`PrimitiveError::Recipe`].
    fn from(error: StmError<E>) -> Self {
        match error {
            StmError::Lost(reason) => reason.into(),
            StmError::Backend(error) | StmError::OutcomeUnknown(error) => error.into(),
            error => Self::of_recipe(error),
        }
    }
}

/// A key that changed after a transaction had read it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The key.
    pub key: Bytes,
    /// The mod revision that the transaction has read; `None` if the key did not exist.
    pub read: Option<Revision>,
    /// The mod revision that its commit has found; `None` if the key did not exist.
    pub found: Option<Revision>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_or = |revision: Option<Revision>, absent: &str| {
            revision.map_or_else(|| absent.to_owned(), |revision| format!("at {revision}"))
        };
        let (read, found) = (at_or(self.read, "as absent"), at_or(self.found, "absent"));
        write!(f, "\"{}\" read {read}, found {found}", self.key.escape_ascii())
    }
}

fn list(conflicts: &[Conflict]) -> String {
    conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
