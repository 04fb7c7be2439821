//! Loss reasons, and the error of primitives.

use std::fmt;

use super::{Error, Outcome};

/// The reason why a session, or a lock or leadership on it, was lost.
///
/// A lock in a distributed system is held until its lease ends or another client deletes its key.
/// The loss is a value, so that the holder can await it, match on it and count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// The whole TTL of the lease passed without a confirmed keep-alive: the process was suspended,
    /// or the runtime did not poll the session task. The store has ended the lease, or may do so at
    /// any moment. Also reported, before the TTL has passed, when the runtime of the session is
    /// shut down, because no task keeps the lease alive any more.
    Expired,
    /// The store does not have the lease, although its TTL had not passed: another client revoked
    /// it.
    Revoked,
    /// No keep-alive was confirmed before the deadline. The session ends itself a little before the
    /// store could end the lease, so that no other client acquires what its owner still relies on.
    DeadlineUnconfirmed,
    /// The owner closed the session.
    Closed,
    /// The owner left the lease to an adopter with [`Session::orphan`](crate::Session::orphan).
    Orphaned,
    /// Another client deleted the key. As far as the store responded, the lease still exists.
    KeyDeleted,
}

impl LossReason {
    /// Whether the owner of the session caused the loss.
    pub(crate) const fn is_deliberate(self) -> bool {
        matches!(self, Self::Closed | Self::Orphaned)
    }
}

impl std::error::Error for LossReason {}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the lease expired before a keep-alive was confirmed",
            Self::Revoked => "the lease was revoked",
            Self::DeadlineUnconfirmed => "no keep-alive was confirmed before the deadline",
            Self::Closed => "the session was closed",
            Self::Orphaned => "the lease of the session was orphaned",
            Self::KeyDeleted => "another client deleted the key",
        })
    }
}

/// The error of a primitive: a loss, or a failed request.
///
/// Callers act differently on the two. A loss is final, and work that relied on the lock or
/// leadership must stop. An error of the backend has its own [`outcome`](Error::outcome) and
/// [`is_retryable`](Error::is_retryable). Only calls that block their thread return the third
/// variant: see [`Mutex::blocking_lock`](crate::Mutex::blocking_lock).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrimitiveError {
    /// The session, or the lock or leadership on it, is lost.
    #[error("lost: {0}")]
    Lost(#[source] LossReason),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] Error),
    /// A call that blocks its thread was made on a thread that has entered a tokio runtime: it
    /// might stop all tasks of the runtime. Nothing was sent.
    #[error(
        "blocking call on a thread that has entered a tokio runtime: await the lock here, or in \
         spawn_blocking call Handle::current().block_on(mutex.lock())"
    )]
    WouldBlockTasks,
}

impl From<LossReason> for PrimitiveError {
    fn from(reason: LossReason) -> Self {
        Self::Lost(reason)
    }
}

impl PrimitiveError {
    /// Returns whether the request was surely not applied. After a loss, no write that required the
    /// lock or leadership was applied. The creation or deletion of the queue key may have been
    /// applied, if that request was in flight when the session was lost.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Lost(_) => Outcome::NotApplied,
            Self::Backend(error) => error.outcome(),
            // Refused before anything was sent.
            Self::WouldBlockTasks => Outcome::NotApplied,
        }
    }

    /// Returns whether the same call may succeed later. A loss is final.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Lost(_) | Self::WouldBlockTasks => false,
            Self::Backend(error) => error.is_retryable(),
        }
    }

    /// Returns the reason of the loss, if the error is one.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        match self {
            Self::Lost(reason) => Some(*reason),
            Self::Backend(_) | Self::WouldBlockTasks => None,
        }
    }
}
