//! The guard of a writer.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::{KIND, ReadGuard, RwLock, Usage};
use crate::error::{LossReason, PrimitiveError, ReleaseError};
use crate::kv::{Compare, FencingToken, Header, Txn, TxnResponse};
use crate::queue::{Contender, Held};
use crate::session::Session;
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
/// [`Session::close`] on every path out of `main`, or do the work in
/// [`SessionBuilder::run`](crate::session::SessionBuilder::run).
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

    /// Returns the key of this guard in the queue.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// Returns the session that holds the lock.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.contender.session()
    }

    /// Returns the header of the response that confirmed the lock.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.contender.header()
    }

    /// Returns the fencing token. Every later writer has a larger one, so a resource can reject
    /// writes with a smaller token than the largest it has received.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Returns a compare, for a transaction, that holds as long as the lock is held.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        self.contender.held_condition()
    }

    /// Applies `txn` if the lock is still held. The store evaluates that condition in the same
    /// transaction.
    ///
    /// `txn` may have one operation less than the limit of the backend.
    ///
    /// # Errors
    /// - `Lost` if the lock is lost: nothing was applied.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.contender.txn(txn).await
    }

    /// Waits until the lock is lost, and returns the reason. A watch that has fallen silent delays
    /// the report by the TTL of the session at most.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// Returns a token that is cancelled when the lock is lost, released, or downgraded. Each call
    /// returns a new token; cancelling it does not affect the guard.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.contender.cancellation_token()
    }

    /// Runs `future` while the lock is held. If the lock is lost, `future` is dropped.
    ///
    /// # Errors
    /// The reason of the loss. The side effects of `future` until then remain.
    ///
    /// # Cancel safety
    /// Dropping this future drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        self.contender.run_while_held(future.instrument(self.span.clone())).await
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

impl Held for WriteGuard {
    fn contender(&self) -> &Contender {
        &self.contender
    }

    fn into_contender(self) -> Contender {
        self.contender
    }
}
