//! Losing what one holds, as a value.
//!
//! A lock in a distributed system is held until somebody says otherwise, and then the holder must
//! be told: that is the commonest wish of the users of every such library. Here loss is a value
//! that can be awaited, [`LossReason`], and the other half of every primitive's error.

use std::fmt;

use crate::error::{Error, Outcome};

/// Why a session, or something held on it, is held no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// The lease's whole time passed before a keep-alive was confirmed: the process was suspended,
    /// or the runtime did not get to the session's task. The store has ended the lease, or may at
    /// any moment.
    Expired,
    /// The store no longer knows the lease although its time was not over: somebody revoked it.
    Revoked,
    /// No keep-alive was confirmed in time. The session ends itself a little before the store
    /// could end the lease, so that nobody else holds what it held while it still believes in it.
    DeadlineUnconfirmed,
    /// The session was closed by its owner.
    Closed,
    /// The session's lease was handed over with [`Session::orphan`](crate::Session::orphan).
    Orphaned,
    /// Somebody deleted the key although the lease lives, as far as the store could be asked.
    KeyDeleted,
}

impl LossReason {
    /// Whether the owner of the session wanted it so.
    pub(crate) const fn is_deliberate(self) -> bool {
        matches!(self, Self::Closed | Self::Orphaned)
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the lease's time was over before a keep-alive was confirmed",
            Self::Revoked => "the lease was revoked",
            Self::DeadlineUnconfirmed => "no keep-alive was confirmed in time",
            Self::Closed => "the session was closed",
            Self::Orphaned => "the session's lease was handed over",
            Self::KeyDeleted => "the key was deleted by somebody else",
        })
    }
}

impl From<LossReason> for PrimitiveError {
    fn from(reason: LossReason) -> Self {
        Self::Lost(reason)
    }
}

/// The error of a primitive: what it needed is lost, or the backend failed.
///
/// Callers act differently on the two: a loss is final, and the work that relied on what was held
/// must stop; a backend's error tells by its own [`outcome`](Error::outcome) and
/// [`is_retryable`](Error::is_retryable) whether to try again.
///
/// The third is met only by calls that block: see
/// [`Mutex::blocking_lock`](crate::Mutex::blocking_lock).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrimitiveError {
    /// The session, or what was held on it, is lost.
    #[error("lost: {0}")]
    Lost(LossReason),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] Error),
    /// A call that blocks its thread was made where tasks run, which would all stand still.
    #[error(
        "a thread that runs tasks must not block: await the lock here, or in spawn_blocking call Handle::current().block_on(mutex.lock())"
    )]
    WouldBlockTasks,
}

impl PrimitiveError {
    /// What became of the request. After a loss, what was to be done while holding was not done.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Lost(_) => Outcome::NotApplied,
            Self::Backend(error) => error.outcome(),
            // Refused before anything was sent.
            Self::WouldBlockTasks => Outcome::NotApplied,
        }
    }

    /// Whether the same call may succeed later. A loss is final.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Lost(_) | Self::WouldBlockTasks => false,
            Self::Backend(error) => error.is_retryable(),
        }
    }

    /// Why it was lost, if it was.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        match self {
            Self::Lost(reason) => Some(*reason),
            Self::Backend(_) | Self::WouldBlockTasks => None,
        }
    }
}
