//! The guard of a shard that a member owns.

use bytes::Bytes;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, Span};

use crate::error::{LossReason, PrimitiveError, ReleaseError};
use crate::kv::{Compare, FencingToken, Header, Txn, TxnResponse};
use crate::queue::{Contender, Held};
use crate::session::Session;
use crate::telemetry::queue as events;

/// The guard of a shard that this member owns. No other member owns the shard until the guard is
/// dropped or released, or the session is lost.
///
/// When the shard is assigned to another member, [`revoked`](Self::revoked) returns. Then end the
/// work on the shard, however long that takes, and drop or [release](Self::release) the guard: only
/// that hands the shard over. A guard that is kept keeps the other member waiting.
///
/// When the session is lost, [`lost`](Self::lost) returns, before another member can own the shard:
/// then stop at once.
///
/// ```
/// use coord_core::recipes::Shard;
///
/// /// Processes the jobs of a shard, one after the other.
/// async fn process(shard: Shard) -> Result<(), coord_core::error::PrimitiveError> {
///     let work = async {
///         loop {
///             // one job, with shard.txn() or shard.fencing_token()
/// #           tokio::task::yield_now().await;
///             if shard.is_revoked() {
///                 break; // drained
///             }
///         }
///     };
///     shard.run_while_held(work).await?; // dropped in the middle only by a loss
///     Ok(shard.release().await?)
/// }
/// ```
#[derive(Debug)]
#[must_use = "dropping the guard hands the shard over"]
pub struct Shard {
    contender: Contender,
    name: Bytes,
    /// Cancelled when the shard is assigned to another member.
    revoked: CancellationToken,
    /// Notifies the member that the guard is gone.
    _gone: DropGuard,
    /// Open as long as the guard exists.
    span: Span,
}

impl Shard {
    pub(super) fn new(
        contender: Contender,
        name: Bytes,
        revoked: CancellationToken,
        gone: DropGuard,
    ) -> Self {
        let token = contender.fencing_token().0;
        let span = events::hold_span("shard", &contender.name(), token);
        Self { contender, name, revoked, _gone: gone, span }
    }

    /// Returns the name of the shard.
    #[must_use]
    pub const fn name(&self) -> &Bytes {
        &self.name
    }

    /// Returns the fencing token. Every later owner of the shard has a larger one, so a resource
    /// can reject writes with a smaller token than the largest it has received.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Returns the owner's key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// Returns the session that owns the shard.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.contender.session()
    }

    /// Returns the header of the response that confirmed the ownership.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.contender.header()
    }

    /// Returns a compare, for a transaction, that holds as long as the shard is owned.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        self.contender.held_condition()
    }

    /// Applies `txn` if the shard is still owned. The store evaluates that condition in the same
    /// transaction.
    ///
    /// `txn` may have one operation less than the limit of the backend.
    ///
    /// # Errors
    /// - `Lost` if the shard is lost: nothing was applied.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.contender.txn(txn).await
    }

    /// Returns whether the shard is to be handed over, as [`revoked`](Self::revoked) reports.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.revoked.is_cancelled()
    }

    /// Waits until the shard is to be handed over: it is assigned to another member, or this member
    /// has left, failed or lost its session. A shard that is revoked stays revoked. It sends no
    /// request.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn revoked(&self) {
        self.revoked.cancelled().await;
    }

    /// Waits until the shard is lost, and returns the reason. A watch that has fallen silent delays
    /// the report by the TTL of the session at most.
    ///
    /// Cost: a watch, and 1 read in each TTL of the session.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// Returns a token that is cancelled when the shard is lost or released. Each call returns a
    /// new token; cancelling it does not affect the guard.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.contender.cancellation_token()
    }

    /// Runs `future` while the shard is owned. If the shard is lost, `future` is dropped. If it is
    /// only revoked, `future` continues.
    ///
    /// Cost: as [`lost`](Self::lost).
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

    /// Hands the shard over, and waits for the confirmation. If the shard is still assigned to this
    /// member, the member acquires it again.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: release again, or drop it, and the session task
    /// continues to delete the key. Its cause is `Lost` if the shard was lost before the request or
    /// while it was in flight.
    ///
    /// # Cancel safety
    /// Dropping the future hands the shard over all the same, in the background.
    pub async fn release(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}

impl Held for Shard {
    fn contender(&self) -> &Contender {
        &self.contender
    }

    fn into_contender(self) -> Contender {
        self.contender
    }
}
