//! The guard of a held mutex.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Span;

use super::block_on;
use crate::error::{PrimitiveError, ReleaseError};
use crate::kv::FencingToken;
use crate::queue::{Contender, ReleaseRequest, contender_methods, held_methods, impl_held};
use crate::telemetry::queue as events;

/// The guard of a held [`Mutex`](super::Mutex). It reports the loss of the lock, and unlocks when
/// it is dropped.
///
/// Dropping it unlocks in the background; [`unlock`](Self::unlock) waits for the confirmation. It
/// can be moved into a task.
///
/// A transaction that is applied only while the lock is held:
///
/// ```
/// use coord_core::{Client, Mutex, Session, kv::{Put, Txn}};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let session = Session::builder(&client).open().await?;
/// let guard = Mutex::new(&session, "ledger").lock().await?;
/// guard.txn(Txn::new().and_then([Put::new("balance", "7")])).await?;
///
/// client.delete(guard.key()).await?; // an operator breaks the lock
/// let late = guard.txn(Txn::new().and_then([Put::new("balance", "8")])).await;
/// assert!(late.unwrap_err().loss().is_some());
/// assert_eq!(client.get("balance").await?.expect("put above").value, "7");
/// # Ok(())
/// # }
/// ```
///
/// Work that ends when the lock is lost:
///
/// ```
/// use coord_core::{Client, Mutex, Session, error::LossReason};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let guard = Mutex::new(&session, "ledger").lock().await?;
/// assert_eq!(guard.run_while_held(async { 6 * 7 }).await, Ok(42));
///
/// session.close().await?;
/// let endless = std::future::pending::<()>();
/// assert_eq!(guard.run_while_held(endless).await, Err(LossReason::Closed));
/// # Ok(())
/// # }
/// ```
///
/// # When the program ends
/// After a drop, the session task sends the request, so the runtime must still run. A program that
/// returns from `main`, panics, or exits while it holds the lock leaves its key in the store, and
/// other clients wait until the session's lease expires. Await [`unlock`](Self::unlock) or
/// [`Session::close`](crate::session::Session::close) on every path out of `main`, or do the work
/// in [`SessionBuilder::run`](crate::session::SessionBuilder::run), which closes the session when
/// the work has returned, failed or panicked.
#[derive(Debug)]
#[must_use = "dropping the guard unlocks the mutex"]
pub struct MutexGuard {
    contender: Contender,
    /// When the response that confirmed the lock was received.
    acquired: Instant,
    /// Open as long as the guard exists.
    span: Span,
}

impl MutexGuard {
    pub(super) fn of(contender: Contender) -> Self {
        let name = contender.name();
        let span = events::hold_span("mutex", &name, contender.fencing_token().0);
        Self { contender, acquired: Instant::now(), span }
    }

    held_methods!("the lock");
    contender_methods!("the lock");

    /// Returns the fencing token. Every later holder has a larger one, so a resource can reject
    /// writes with a smaller token than the largest it has received.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Waits until another client requests the release, and returns the request. If there is one
    /// already, it returns at once. The lock stays held: the holder decides whether and when to
    /// release it.
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

    /// Unlocks after a minimum hold time: not before `at_least` has passed since the lock was
    /// acquired.
    ///
    /// Use it for a short job that every machine starts by its own clock with
    /// [`Mutex::try_lock`](super::Mutex::try_lock). Without it, a machine whose clock is late would
    /// find the lock free and run the job again. Choose a time that is longer than the difference
    /// between the clocks.
    ///
    /// ```
    /// use coord_core::{Client, Mutex, Session};
    /// use coord_mem::MemBackend;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// if let Some(guard) = Mutex::new(&session, "nightly").try_lock().await? {
    ///     println!("the job is done");
    ///     guard.unlock_after(Duration::from_secs(300)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock). The cause is `Lost` as soon as the lock is lost during the
    /// wait.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks at once, in the background.
    pub async fn unlock_after(self, at_least: Duration) -> Result<(), ReleaseError<Self>> {
        let rest = sleep(at_least.saturating_sub(self.acquired.elapsed()));
        match self.contender.run_while_held(rest).await {
            Ok(()) => self.unlock().await,
            Err(reason) => Err(ReleaseError::new(self, reason.into())),
        }
    }

    /// [`unlock`](Self::unlock) for synchronous code: this thread blocks until it is confirmed.
    ///
    /// # Errors
    /// The cause of the error of [`unlock`](Self::unlock); `WouldBlockTasks` on a thread that has
    /// entered a tokio runtime. In each case the guard is dropped, so the lock is released all the
    /// same, in the background.
    pub fn blocking_unlock(self) -> Result<(), PrimitiveError> {
        let session = self.session().clone();
        block_on(&session, async move { Ok(self.unlock().await?) })
    }
}

impl_held!(MutexGuard);
