//! Why a transaction did not commit, or may not have.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Outcome};
use crate::kv::Revision;
use crate::loss::LossReason;

/// Why a transaction did not commit, or may not have.
///
/// `E` is the error of the closure.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StmError<E> {
    /// The closure gave up; this is its error. Nothing was written.
    #[error("the transaction was given up: {0}")]
    GivenUp(E),
    /// It conflicted with others until the budget for retries was spent. Nothing was written.
    #[error(
        "conflicts until the budget was spent, {attempts} attempts in {elapsed:?}; the last: {}: \
         allow more with `retry`, or write less to the same keys",
        Listed(.conflicts)
    )]
    Exhausted {
        /// How many attempts were made.
        attempts: u32,
        /// How long they took.
        elapsed: Duration,
        /// What the last of them conflicted on.
        conflicts: Vec<Conflict>,
    },
    /// The commit may have been applied, and there is no marker to tell:
    /// [`Stm::exactly_once`](super::Stm::exactly_once).
    #[error("the transaction may have been committed: {0}")]
    OutcomeUnknown(Error),
    /// The session that [`Stm::exactly_once`](super::Stm::exactly_once) was given is lost: open
    /// another one, and make another [`Stm`](super::Stm) with it. Nothing was written.
    #[error("the session of the transaction's idempotency keys is lost: {0}")]
    Lost(LossReason),
    /// The backend failed. Nothing was written.
    #[error(transparent)]
    Backend(Error),
}

impl<E> StmError<E> {
    /// What became of the writes.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            // Nothing of these attempts was sent, or it was refused.
            Self::GivenUp(_) | Self::Exhausted { .. } | Self::Lost(_) | Self::Backend(_) => {
                Outcome::NotApplied
            }
            Self::OutcomeUnknown(_) => Outcome::Unknown,
        }
    }

    /// Why the session was lost, if that is what ended the transaction.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        match self {
            Self::Lost(reason) => Some(*reason),
            Self::GivenUp(_)
            | Self::Exhausted { .. }
            | Self::OutcomeUnknown(_)
            | Self::Backend(_) => None,
        }
    }
}

/// A key that was changed after a transaction had read it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The key.
    pub key: Bytes,
    /// The revision that had changed it last when the transaction read it; zero if it was not
    /// there.
    pub seen: Revision,
    /// The revision that had changed it last when the commit failed; zero if it was not there.
    pub found: Revision,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, seen, found } = self;
        write!(f, "\"{}\" seen at {seen}, found at {found}", key.escape_ascii())
    }
}

struct Listed<'a>(&'a [Conflict]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, conflict) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{conflict}")?;
        }
        Ok(())
    }
}
