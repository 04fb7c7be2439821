//! [`SessionBuilder::run`]: a session that is closed when the work on it has returned, failed or
//! panicked.
//!
//! Dropping a guard or a session releases it in the background: the session task sends the request,
//! on the runtime. A program that returns from `main`, or panics there, stops its runtime before
//! the task has sent the request, and its locks stay held until their lease expires. `run` waits
//! until the session is closed.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::{Session, SessionBuilder};
use crate::error::Error;
use crate::telemetry::session as events;

/// How long to wait for the store to confirm that the session is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

impl SessionBuilder {
    /// Opens the session, runs `work` with it, and closes it when `work` has returned, failed or
    /// panicked. When this method returns, all locks and leaderships on the session are released,
    /// unless closing failed or the session was lost: see [`Session::close`].
    ///
    /// Use it in `main` and in tests. A program that returns from `main` while it holds a lock
    /// leaves the lock held until its lease expires, because the task that would release it ends
    /// with the runtime. After `std::process::exit`, an abort, a crash, or a panic that aborts, the
    /// lock stays held all the same.
    ///
    /// Closing takes five seconds at most. If the store has not confirmed it by then, a warning is
    /// logged, and the lease expires by itself.
    ///
    /// ```
    /// use coord_core::error::PrimitiveError;
    /// use coord_core::{Client, Mutex, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), PrimitiveError> {
    /// let client = Client::new(MemBackend::new());
    /// let token = Session::builder(&client)
    ///     .run(async |session| {
    ///         let guard = Mutex::new(&session, "nightly-report").lock().await?;
    ///         Ok::<_, PrimitiveError>(guard.fencing_token()) // and no `unlock`
    ///     })
    ///     .await?;
    /// println!("written with token {token}");
    ///
    /// let next = Session::builder(&client).open().await?;
    /// assert!(Mutex::new(&next, "nightly-report").try_lock().await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open), and the error of `work`. A failure to close the session is logged,
    /// not returned.
    ///
    /// # Panics
    /// If `work` panics, with the same panic, after the session was closed.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work`; the session is closed in the background.
    pub async fn run<T, E, F>(self, work: F) -> Result<T, E>
    where
        E: From<Error>,
        F: AsyncFnOnce(Session) -> Result<T, E>,
    {
        let session = self.open().await?;
        let result = AssertUnwindSafe(work(session.clone())).catch_unwind().await;
        match timeout(CLOSE_TIMEOUT, session.close()).await {
            Ok(Ok(())) => {}
            // The session task has logged the error.
            Ok(Err(_)) => {}
            Err(_) => events::close_unconfirmed(session.lease_id(), CLOSE_TIMEOUT),
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
