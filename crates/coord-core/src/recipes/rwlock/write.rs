//! The guard of a writer.

use tracing::Span;

use super::{KIND, ReadGuard, RwLock, Usage};
use crate::error::ReleaseError;
use crate::kv::FencingToken;
use crate::queue::{Contender, contender_methods, held_methods, impl_held};
use crate::telemetry::queue as events;

/// The guard of a [`RwLock`] that is locked for writing. It reports the loss of the lock, and
/// unlocks when it is dropped.
///
/// Dropping it unlocks in the background; [`unlock`](Self::unlock) waits for the confirmation. It
/// can be moved into a task.
///
/// # When the program ends
/// After a drop, the session task sends the request, so the runtime must still run. A program that
/// returns from `main`, panics, or exits while it holds the lock leaves its keys in the store, and
/// other clients wait until the session's lease expires. Await [`unlock`](Self::unlock) or
/// [`Session::close`](crate::session::Session::close) on every path out of `main`, or do the work
/// in [`SessionBuilder::run`](crate::session::SessionBuilder::run).
#[derive(Debug)]
#[must_use = "dropping the guard unlocks the lock"]
pub struct WriteGuard {
    lock: RwLock,
    /// Its companion is the key of a reader.
    contender: Contender,
    /// Open as long as the guard exists.
    span: Span,
}

impl WriteGuard {
    /// The guard of an admitted writer.
    pub(super) fn of(lock: RwLock, contender: Contender) -> Self {
        let span = events::hold_span(KIND, &contender.name(), contender.fencing_token().0);
        Self { lock, contender, span }
    }

    held_methods!("the lock");
    contender_methods!("the lock");

    /// Returns the fencing token. Every later writer has a larger one, so a resource can reject
    /// writes with a smaller token than the largest it has received.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Unlocks, and waits for the confirmation.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: unlock again, or drop it, and the session task continues
    /// to delete the key. Its cause is `Lost` if the lock was lost before the request or while it
    /// was in flight.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks all the same, in the background.
    pub async fn unlock(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }

    /// Downgrades the lock: holds it for reading from then on. Readers up to the next writer enter;
    /// writers that wait still wait. It costs 1 request.
    ///
    /// # Errors
    /// [`ReleaseError`] returns this guard: downgrade again, or unlock. Its cause is `Lost` if the
    /// lock was lost.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks, in the background.
    pub async fn downgrade(mut self) -> Result<ReadGuard, ReleaseError<Self>> {
        let rule = self.lock.rule(Usage::Read, None);
        match self.contender.release_to_companion(&self.lock.readers, rule).await {
            Ok(reader) => {
                let token = self.fencing_token();
                Ok(ReadGuard::of(self.lock, reader, Some(token)))
            }
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}

impl_held!(WriteGuard);
