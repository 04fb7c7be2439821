//! The guard of a shard that a member owns.

use bytes::Bytes;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Span;

use crate::error::ReleaseError;
use crate::kv::FencingToken;
use crate::queue::{Contender, contender_methods, held_methods, impl_held};
use crate::telemetry::queue as events;

/// The guard of a shard that this member owns. No other member owns the shard until the guard is
/// dropped or released, or the session is lost.
///
/// When the shard is assigned to another member, [`revoked`](Self::revoked) returns. Then end the
/// work on the shard, however long that takes, and drop or [release](Self::release) the guard: only
/// that hands the shard over. A guard that is kept keeps the other member waiting.
///
/// When the session is lost, [`lost`](Self::lost) returns, before another member can own the shard:
/// then stop at once. [`run_while_held`](Self::run_while_held) drops its future then; if the shard
/// is only revoked, the future continues. Both cost a watch, and 1 read in each TTL of the session.
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

    held_methods!("the shard");
    contender_methods!("the shard");

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

impl_held!(Shard);
