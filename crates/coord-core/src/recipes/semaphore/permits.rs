//! The guard of acquired permits.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::error::{LossReason, PrimitiveError, ReleaseError};
use crate::kv::{Compare, Header, Txn, TxnResponse};
use crate::queue::{Contender, Held};
use crate::session::Session;
use crate::telemetry::queue as events;

/// The guard of acquired permits of a [`Semaphore`](super::Semaphore). It reports their loss, and
/// releases them when it is dropped.
///
/// Dropping it releases the permits in the background; [`release`](Self::release) waits for the
/// confirmation. It can be moved into a task.
///
/// It has no fencing token: several holders are at work at the same time, so a resource cannot
/// reject a holder because another one has acquired later. Use [`txn`](Self::txn) for data in the
/// store, and [`run_while_held`](Self::run_while_held) for any other work.
///
/// # When the program ends
/// After a drop, the session task sends the request, so the runtime must still run. A program that
/// returns from `main`, panics, or exits while it holds permits leaves its key in the store, and
/// its permits are free when the session's lease expires. Await [`release`](Self::release) or
/// [`Session::close`] on every path out of `main`, or do the work in
/// [`SessionBuilder::run`](crate::session::SessionBuilder::run).
#[derive(Debug)]
#[must_use = "dropping the guard releases the permits"]
pub struct SemaphorePermits {
    contender: Contender,
    permits: u32,
    /// Open as long as the guard exists.
    span: Span,
}

impl SemaphorePermits {
    pub(super) fn of(contender: Contender, permits: u32) -> Self {
        let name = contender.name();
        let span = events::hold_span("semaphore", &name, contender.fencing_token().0);
        Self { contender, permits, span }
    }

    /// Returns the number of permits.
    #[must_use]
    pub const fn permits(&self) -> u32 {
        self.permits
    }

    /// Returns the holder's key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// Returns the session that holds the permits.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.contender.session()
    }

    /// Returns the header of the response that confirmed the permits.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.contender.header()
    }

    /// Returns a compare, for a transaction, that holds as long as the permits are held.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        self.contender.held_condition()
    }

    /// Applies `txn` if the permits are still held. The store evaluates that condition in the same
    /// transaction.
    ///
    /// `txn` may have one operation less than the limit of the backend.
    ///
    /// # Errors
    /// - `Lost` if the permits are lost: nothing was applied.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.contender.txn(txn).await
    }

    /// Waits until the permits are lost, and returns the reason. A watch that has fallen silent
    /// delays the report by the TTL of the session at most.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// Returns a token that is cancelled when the permits are lost or released. Each call returns a
    /// new token; cancelling it does not affect the guard.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.contender.cancellation_token()
    }

    /// Runs `future` while the permits are held. If they are lost, `future` is dropped.
    ///
    /// ```
    /// use coord_core::{Client, Session, error::LossReason, recipes::Semaphore};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// let permits = Semaphore::new(&session, "downloads", 4).acquire(1).await?;
    /// assert_eq!(permits.run_while_held(async { 6 * 7 }).await, Ok(42));
    ///
    /// session.close().await?;
    /// let endless = std::future::pending::<()>();
    /// assert_eq!(permits.run_while_held(endless).await, Err(LossReason::Closed));
    /// # Ok(())
    /// # }
    /// ```
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

    /// Releases all permits of this guard, and waits for the confirmation.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: release again, or drop it, and the session task
    /// continues to delete the key. Its cause is `Lost` if the permits were lost before the request
    /// or while it was in flight.
    ///
    /// # Cancel safety
    /// Dropping the future releases the permits all the same, in the background.
    pub async fn release(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}

impl Held for SemaphorePermits {
    fn contender(&self) -> &Contender {
        &self.contender
    }

    fn into_contender(self) -> Contender {
        self.contender
    }
}
