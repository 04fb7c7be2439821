//! Leadership: the guard of an elected leader.

use tracing::Span;

use super::Proclaimer;
use crate::error::{PrimitiveError, ReleaseError};
use crate::kv::{FencingToken, Header, IntoBytes};
use crate::queue::{Contender, ReleaseRequest, contender_methods, held_methods, impl_held};
use crate::telemetry::queue as events;

/// The guard of a leadership. It reports the loss of the leadership, and resigns when it is
/// dropped.
///
/// Dropping it resigns in the background; [`resign`](Self::resign) waits for the confirmation. It
/// can be moved into a task.
///
/// Work that ends when the leadership is lost:
///
/// ```
/// use coord_core::{Client, Election, Session, error::LossReason};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let leadership = Election::new(&session, "scheduler").campaign("me").await?;
/// assert_eq!(leadership.run_while_held(async { "planned" }).await, Ok("planned"));
///
/// session.close().await?;
/// let endless = std::future::pending::<()>();
/// assert_eq!(leadership.run_while_held(endless).await, Err(LossReason::Closed));
/// # Ok(())
/// # }
/// ```
///
/// # When the program ends
/// After a drop, the session task sends the request, so the runtime must still run. A program that
/// returns from `main`, panics, or exits while it leads leaves its key in the store, and no other
/// candidate leads until the session's lease expires. Do the work in
/// [`SessionBuilder::run`](crate::session::SessionBuilder::run), which closes the session when the
/// work has returned, failed or panicked, or await [`resign`](Self::resign) on every path out of
/// `main`.
#[derive(Debug)]
#[must_use = "dropping the leadership resigns"]
pub struct Leadership {
    contender: Contender,
    /// Open as long as the guard exists.
    span: Span,
}

impl Leadership {
    pub(super) fn new(contender: Contender) -> Self {
        let name = contender.name();
        let span = events::hold_span("election", &name, contender.fencing_token().0);
        Self { contender, span }
    }

    held_methods!("the leadership");
    contender_methods!("the leadership");

    /// Returns the fencing token. Every later leader has a larger one, so a resource can reject
    /// writes with a smaller token than the largest it has received.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Waits until another client requests the release, and returns the request. If there is one
    /// already, it returns at once. The leadership stays held: the holder decides whether and when
    /// to resign.
    ///
    /// Cost: 1 read and a watch, and 1 or 2 reads each 55 s; without a request also a new watch
    /// then, if the old one reports no progress. Without this call requests
    /// cost nothing, and are ignored.
    ///
    /// # Errors
    /// - `Lost` if the session is lost. A deleted key is not detected: see [`lost`](Self::lost).
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn release_requested(&self) -> Result<ReleaseRequest, PrimitiveError> {
        self.contender.release_requested().await
    }

    /// Changes the value that observers receive.
    ///
    /// # Errors
    /// - `Lost` if the leadership is lost: nothing was changed.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.contender.set_value(value).await
    }

    /// Returns a handle that changes the value from another task, as long as this leader leads.
    #[must_use]
    pub fn proclaimer(&self) -> Proclaimer {
        Proclaimer::new(self.contender.ownership().clone())
    }

    /// Resigns, and waits for the confirmation. The next candidate leads from then on.
    ///
    /// Stop the work first: if it continues while the leader resigns, two leaders are at work.
    /// Closing the session resigns too.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the leadership unchanged: resign again, or drop it, and the session
    /// task continues to delete the key. Its cause is `Lost` if the leadership was lost before the
    /// request or while it was in flight; then another attempt cannot help. If an earlier attempt
    /// may have been applied, a later attempt that finds the key deleted succeeds.
    ///
    /// # Cancel safety
    /// Dropping the future resigns all the same, in the background.
    pub async fn resign(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}

impl_held!(Leadership);
