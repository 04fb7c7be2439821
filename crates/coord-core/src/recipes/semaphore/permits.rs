//! The guard of acquired permits.

use tracing::Span;

use crate::error::ReleaseError;
use crate::queue::{Contender, contender_methods, held_methods, impl_held};
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
/// Work that ends when the permits are lost:
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
/// # When the program ends
/// After a drop, the session task sends the request, so the runtime must still run. A program that
/// returns from `main`, panics, or exits while it holds permits leaves its key in the store, and
/// its permits are free when the session's lease expires. Await [`release`](Self::release) or
/// [`Session::close`](crate::session::Session::close) on every path out of `main`, or do the work
/// in [`SessionBuilder::run`](crate::session::SessionBuilder::run).
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

    held_methods!("the permits");
    contender_methods!("the permits");

    /// Returns the number of permits.
    #[must_use]
    pub const fn permits(&self) -> u32 {
        self.permits
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

impl_held!(SemaphorePermits);
