//! Leading again after leadership was lost.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Election, Leadership};
use crate::kv::IntoBytes;
use crate::loss::PrimitiveError;
use crate::session::Supervisor;

impl Supervisor {
    /// Campaigns in the election `name`, does `work` while elected, and resigns when it is done; if
    /// leadership is lost before that, `work` is dropped, and it all begins anew, in the next epoch
    /// if the session was lost.
    ///
    /// Leadership is shared with `work`, to proclaim and to write with it. Each time it is another,
    /// with another fencing token: nothing that was held before is held again.
    ///
    /// ```
    /// use coord_core::{KvBackendExt, Session};
    /// use coord_mem::MemBackend;
    /// use std::{sync::Arc, time::Duration};
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
    ///             kv.delete(leadership.key()).await.expect("the store is there"); // an operator
    ///         }
    ///         tokio::time::sleep(Duration::from_secs(60)).await;
    ///         "planned"
    ///     }
    /// });
    /// assert_eq!(planned.await?, "planned");
    /// assert_eq!(terms, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    /// Dropping the future drops `work`, and resigns or withdraws in the background.
    pub async fn lead<T, F, Fut>(
        &self,
        name: impl IntoBytes + Send,
        value: impl IntoBytes + Send,
        work: F,
    ) -> Result<T, PrimitiveError>
    where
        T: Send,
        F: FnMut(Arc<Leadership>) -> Fut + Send,
        Fut: Future<Output = T> + Send,
    {
        let (name, value): (Bytes, Bytes) = (name.into_bytes(), value.into_bytes());
        // What `run` calls cannot lend out what it owns; a lock lends it what we own.
        let work = &Mutex::new(work);
        self.run(|session| {
            let election = Election::new(&session, &name);
            let value = value.clone();
            async move {
                let leadership = Arc::new(election.campaign(value).await?);
                let mine = Arc::clone(&leadership);
                let doing = work.lock().unwrap_or_else(PoisonError::into_inner)(mine);
                let done = leadership.lead(doing).await?;
                if let Some(leadership) = Arc::into_inner(leadership) {
                    // The work is done; if this is not confirmed, the session goes on trying.
                    let _ = leadership.resign().await;
                }
                Ok(done)
            }
        })
        .await
    }
}
