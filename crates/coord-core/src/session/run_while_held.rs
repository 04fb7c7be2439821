//! [`Supervisor::run_while_held`]: work under a lock or leadership, which is acquired again after a
//! loss.
//!
//! The method is built on [`Supervisor::run`]: acquire, work while held, release; after a loss,
//! start again. It accepts every guard that implements [`Held`]: of a lock, of a leadership, of
//! permits of a semaphore, or of a shard.

use std::sync::{Arc, Mutex};

use crate::error::PrimitiveError;
use crate::queue::Held;
use crate::session::{Session, Supervisor};
use crate::sync::lock;

impl Supervisor {
    /// Acquires a lock or leadership by calling `acquire` with the newest session, runs `work`
    /// while it is held, and releases it when `work` has ended.
    ///
    /// If the lock or leadership is lost before that, `work` is dropped, and the supervisor calls
    /// `acquire` again: in the next generation if the session was lost, otherwise with the same
    /// session. If `work` has returned an error because of the loss, the error is discarded, as
    /// [`run`](Self::run) describes.
    ///
    /// The supervisor calls `acquire` again after a
    /// [retryable](PrimitiveError::is_retryable) error, with pauses that grow up to 5 s, until it
    /// opens no more sessions. The error of `acquire` is any that converts into [`PrimitiveError`],
    /// such as that of a [`Semaphore`](crate::recipes::Semaphore).
    ///
    /// `work` receives the guard in an `Arc`, to write or to proclaim with it. Each call receives a
    /// new guard, with a new fencing token. A clone of the `Arc` that outlives `work`, for example
    /// in a task, delays the release until the clone is dropped.
    ///
    /// With a lock:
    ///
    /// ```
    /// use coord_core::error::PrimitiveError;
    /// use coord_core::{Client, Mutex, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let supervisor = Session::builder(&client).supervise().await?;
    /// let report = supervisor.run_while_held(
    ///     async |session: Session| Mutex::new(&session, "nightly-report").lock().await,
    ///     async |guard| {
    ///         Ok::<_, PrimitiveError>(format!("written with token {}", guard.fencing_token()))
    ///     },
    /// );
    /// assert!(report.await?.starts_with("written"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With an election:
    ///
    /// ```
    /// use coord_core::error::PrimitiveError;
    /// use coord_core::kv::{Put, Txn};
    /// use coord_core::{Client, Election, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let supervisor = Session::builder(&client).supervise().await?;
    /// let mut terms = 0;
    /// let planned = supervisor.run_while_held(
    ///     async |session: Session| Election::new(&session, "scheduler").campaign("me").await,
    ///     |leadership| {
    ///         terms += 1;
    ///         let (client, depose) = (client.clone(), terms == 1);
    ///         async move {
    ///             if depose {
    ///                 // An operator deletes the leader's key.
    ///                 client.delete(leadership.key()).await?;
    ///             }
    ///             leadership.txn(Txn::new().and_then([Put::new("plan", "first this")])).await?;
    ///             Ok::<_, PrimitiveError>("planned")
    ///         }
    ///     },
    /// );
    /// assert_eq!(planned.await?, "planned");
    /// assert_eq!(terms, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - The error of `work`, unless a loss caused it.
    /// - The error of `acquire`, if it is neither retryable nor a loss.
    /// - If the supervisor opens no more sessions: `Lost` if its owner closed it or ended its
    ///   session, or if the runtime was shut down; otherwise the backend's error with which it
    ///   failed.
    ///
    /// A failed release is not an error: the session task repeats it in the background.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work`, and releases the lock or leadership, or removes the waiter
    /// from the queue, in the background. The supervisor continues.
    pub async fn run_while_held<H, A, AcquireFut, R, F, WorkFut, T, E>(
        &self,
        acquire: A,
        work: F,
    ) -> Result<T, E>
    where
        H: Held,
        A: FnMut(Session) -> AcquireFut + Send,
        AcquireFut: Future<Output = Result<H, R>> + Send,
        R: Into<PrimitiveError> + Send,
        F: FnMut(Arc<H>) -> WorkFut + Send,
        WorkFut: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: From<PrimitiveError> + Send + 'static,
    {
        // The future that the closure passed to `run` returns cannot borrow from that closure. So
        // this method owns `acquire` and `work`, and each call locks one of them only while it
        // creates a future.
        let (acquire, work) = (&Mutex::new(acquire), &Mutex::new(work));
        self.run(|session| async move {
            let acquire = || {
                let acquired = lock(acquire)(session.clone());
                async move { acquired.await.map_err(Into::into) }
            };
            let held = Arc::new(self.retry_while_up(&session, acquire).await?);
            let shared = Arc::clone(&held);
            let future = lock(work)(shared);
            let result = held.contender().run_while_held(future).await;
            let result = result.map_err(PrimitiveError::from)?;
            if let Some(held) = Arc::into_inner(held) {
                // If the release is not confirmed, the session task repeats it.
                let _ = held.into_contender().release().await;
            }
            result
        })
        .await
    }
}
