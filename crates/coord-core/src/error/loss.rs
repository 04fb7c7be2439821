//! Loss reasons, and the error of primitives.

use std::fmt;
use std::sync::Arc;

use super::{Error, Outcome, Source};

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
///
/// The error of each recipe converts into this one, so `?` works on all of them in one function:
///
/// ```
/// use coord_core::error::PrimitiveError;
/// use coord_core::recipes::{Latch, Semaphore, SemaphoreError};
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
///
/// async fn load(session: &Session, limit: u32) -> Result<(), PrimitiveError> {
///     let permits = Semaphore::new(session, "loads", limit).acquire(1).await?;
///     Latch::new(session.client(), "loaded", 2)?.count_down("shard-1").await?;
///     permits.release().await?;
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// load(&session, 2).await?;
///
/// let Err(PrimitiveError::Recipe { error, .. }) = load(&session, 3).await else { panic!() };
/// let error = error.downcast_ref().expect("the error of the semaphore");
/// assert!(matches!(error, SemaphoreError::LimitDiffers { stored: 2, given: 3, .. }));
/// # Ok(())
/// # }
/// ```
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
    /// An error that only one recipe has, such as
    /// [`SemaphoreError::LimitDiffers`](crate::recipes::SemaphoreError), or that only a transaction
    /// has: the error of that recipe, or the [`StmError`](crate::stm::StmError), to be found with
    /// `downcast_ref`. It is neither a loss nor an error of the backend.
    #[error("{error}")]
    Recipe {
        /// The error of the recipe.
        error: Source,
        /// Whether the request was applied.
        outcome: Outcome,
    },
}

impl From<LossReason> for PrimitiveError {
    fn from(reason: LossReason) -> Self {
        Self::Lost(reason)
    }
}

impl PrimitiveError {
    /// The error of a recipe that is neither a loss nor an error of the backend. The recipe, or a
    /// condition of its transaction, has refused the request.
    pub(crate) fn of_recipe(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Recipe { error: Arc::new(error), outcome: Outcome::NotApplied }
    }

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
            Self::Recipe { outcome, .. } => *outcome,
        }
    }

    /// Returns whether the same call may succeed later. A loss is final. An error of a recipe is
    /// not retryable, because the caller must decide what to change.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Lost(_) | Self::WouldBlockTasks | Self::Recipe { .. } => false,
            Self::Backend(error) => error.is_retryable(),
        }
    }

    /// Returns the reason of the loss, if the error is one.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        match self {
            Self::Lost(reason) => Some(*reason),
            Self::Backend(_) | Self::WouldBlockTasks | Self::Recipe { .. } => None,
        }
    }
}
