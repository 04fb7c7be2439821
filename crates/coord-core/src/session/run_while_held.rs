//! Acquiring again what was lost: [`Supervisor::lead`] and [`Supervisor::hold`].
//!
//! Both stand on [`Supervisor::run`]: acquire, work while it is held, release; and from the
//! beginning when it was lost. They differ in what they acquire.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use bytes::Bytes;

use crate::contender::Held;
use crate::election::{Election, Leadership};
use crate::kv::IntoBytes;
use crate::loss::PrimitiveError;
use crate::mutex::{Mutex, MutexGuard};
use crate::session::{Session, Supervisor};

impl Supervisor {
    /// Campaigns in the election `name`, does `work` while elected, and resigns when the work is
    /// done.
    ///
    /// When leadership is lost before that, `work` is dropped, if it has not ended by itself, and
    /// it all begins anew: in the next epoch if the session was lost, else with the same session.
    /// It does not matter whether `work` or the supervisor meets the loss first: an error of `work`
    /// does not count when leadership was lost meanwhile, as [`run`](Self::run) describes. An error
    /// of the campaign that is [retryable](PrimitiveError::is_retryable) is retried, with pauses
    /// that grow up to 5 s, for as long as the supervisor lives.
    ///
    /// Leadership is shared with `work`, to proclaim and to write with it. Each time it is another,
    /// with another fencing token: nothing that was held before is held again. A clone that
    /// outlives `work`, in a task for example, delays the resignation until it is dropped.
    ///
    /// ```
    /// use coord_core::{KvBackendExt, PrimitiveError, Put, Session, Txn};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kv = Arc::new(MemBackend::new());
    /// let supervisor = Session::builder(kv.clone()).supervise().await?;
    /// let mut terms = 0;
    /// let planned = supervisor.lead("scheduler", "me", |leadership| {
    ///     terms += 1;
    ///     let (kv, depose) = (kv.clone(), terms == 1);
    ///     async move {
    ///         if depose {
    ///             kv.delete(leadership.key()).await?; // an operator
    ///         }
    ///         leadership.txn(Txn::new().and_then([Put::new("plan", "first this")])).await?;
    ///         Ok::<_, PrimitiveError>("planned")
    ///     }
    /// });
    /// assert_eq!(planned.await?, "planned");
    /// assert_eq!(terms, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), and what the backend answered to the campaign if that is not
    /// retryable.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work`, and resigns or withdraws in the background.
    pub async fn lead<T, E, F, Fut>(
        &self,
        name: impl IntoBytes + Send,
        value: impl IntoBytes + Send,
        work: F,
    ) -> Result<T, E>
    where
        T: Send,
        E: From<PrimitiveError> + Send + 'static,
        F: FnMut(Arc<Leadership>) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let (name, value): (Bytes, Bytes) = (name.into_bytes(), value.into_bytes());
        let campaign = move |session: &Session| {
            let (election, value) = (Election::new(session, &name), value.clone());
            async move { election.campaign(value).await }
        };
        self.hold_again(campaign, work).await
    }

    /// Acquires the lock `name`, does `work` while it is held, and unlocks when the work is done.
    ///
    /// When the lock is lost before that, `work` is dropped, if it has not ended by itself, and it
    /// all begins anew, by the same rules as in [`lead`](Self::lead). The guard is shared with
    /// `work`, and is another each time.
    ///
    /// ```
    /// use coord_core::{PrimitiveError, Session};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let supervisor = Session::builder(Arc::new(MemBackend::new())).supervise().await?;
    /// let report = supervisor.hold("nightly-report", async |guard| {
    ///     Ok::<_, PrimitiveError>(format!("written with token {}", guard.fencing_token()))
    /// });
    /// assert!(report.await?.starts_with("written"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), and what the backend answered to the request for the lock if that is
    /// not retryable.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work`, and unlocks or leaves the queue in the background.
    pub async fn hold<T, E, F, Fut>(&self, name: impl IntoBytes + Send, work: F) -> Result<T, E>
    where
        T: Send,
        E: From<PrimitiveError> + Send + 'static,
        F: FnMut(Arc<MutexGuard>) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let name: Bytes = name.into_bytes();
        let lock = move |session: &Session| {
            let mutex = Mutex::new(session, &name);
            async move { mutex.lock().await }
        };
        self.hold_again(lock, work).await
    }

    async fn hold_again<H, A, T, E, F, Fut>(
        &self,
        acquire: impl Fn(&Session) -> A + Send + Sync,
        work: F,
    ) -> Result<T, E>
    where
        H: Held,
        A: Future<Output = Result<H, PrimitiveError>> + Send,
        T: Send,
        E: From<PrimitiveError> + Send + 'static,
        F: FnMut(Arc<H>) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        // What `run` calls cannot lend out what it owns; a lock lends it what is owned here.
        let (acquire, work) = (&acquire, &StdMutex::new(work));
        self.run(|session| async move {
            let held = self.retry_while_up(&session, || acquire(&session)).await?;
            let held = Arc::new(held);
            let mine = Arc::clone(&held);
            let doing = work.lock().unwrap_or_else(PoisonError::into_inner)(mine);
            let done = held.contender().run_while_held(doing).await;
            let done = done.map_err(PrimitiveError::from)?;
            if let Some(held) = Arc::into_inner(held) {
                // The work is done; if this is not confirmed, the session task keeps trying.
                let _ = held.into_contender().leave().await;
            }
            done
        })
        .await
    }
}
