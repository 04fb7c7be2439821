//! A backend with somebody between it and its callers.
//!
//! [`Intercept`] asks a [`Rule`] about each call and lets the call meet its [`Fate`]. The fates are
//! those that a request meets on a network: it may be lost, it may be late, its answer may be lost
//! though it was applied. What has been sent cannot be taken back: a request that is on its way is
//! applied when it arrives, whether or not anybody still waits for the answer.
//!
//! The registration of a watch is a call; of what the watch then tells, the rule says whether it is
//! delivered.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coord_core::{
    Error, KvBackend, Result,
    error::Outcome,
    kv::{WatchBatch, WatchStream, Watcher},
};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::call::Call;
use crate::forward::forward_calls;

/// What becomes of a call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fate {
    /// It is made.
    Pass,
    /// It is made; the caller yields before it is sent and before the answer is seen, so that the
    /// future can be dropped at either point.
    Yield,
    /// It is on its way for so long, and is applied when it arrives even if nobody waits any more.
    Late(Duration),
    /// It never arrives. The caller learns so at once, but not whether it was applied.
    LoseRequest,
    /// It is applied, but the answer never arrives. The caller learns so at once.
    LoseReply,
    /// It never arrives, and the caller is never told.
    Hang,
    /// It is answered with this error and not applied.
    Fail(Error),
}

/// Decides about calls. Closures are rules.
pub trait Rule: Send + Sync + 'static {
    /// What becomes of a call.
    fn fate(&self, call: &Call) -> Fate;

    /// Whether a batch of a watch reaches who watches. A watch whose batches do not has fallen
    /// silent, which no backend should let happen and every network does.
    fn delivers(&self, batch: &WatchBatch) -> bool {
        let _ = batch;
        true
    }
}

impl<F: Fn(&Call) -> Fate + Send + Sync + 'static> Rule for F {
    fn fate(&self, call: &Call) -> Fate {
        self(call)
    }
}

/// A backend whose calls a [`Rule`] decides about.
///
/// ```
/// use coord_core::{Client, error::Outcome};
/// use coord_mem::MemBackend;
/// use coord_testkit::{Call, Fate, Intercept};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = MemBackend::new();
/// let kv = Intercept::new(store.clone(), |call: &Call| match call {
///     Call::Put(_) => Fate::LoseReply,
///     _ => Fate::Pass,
/// });
/// let error = kv.put("a", "1").await.unwrap_err();
/// assert_eq!(error.outcome(), Outcome::Unknown);
/// assert!(store.get("a").await.unwrap().is_some(), "it was applied all the same");
/// # }
/// ```
pub struct Intercept<B> {
    inner: Arc<B>,
    rule: Arc<dyn Rule>,
    /// How long callers wait for an answer.
    patience: Option<Duration>,
    /// Requests that are on their way.
    sent: Mutex<JoinSet<()>>,
}

impl<B: KvBackend> Intercept<B> {
    /// Puts `rule` between `inner` and its callers.
    pub fn new(inner: B, rule: impl Rule) -> Self {
        let (inner, rule) = (Arc::new(inner), Arc::new(rule));
        Self { inner, rule, patience: None, sent: Mutex::default() }
    }

    /// Callers wait no longer than `patience` for an answer, and then are told
    /// [`Error::Timeout`]. What is on its way by then is applied when it arrives.
    ///
    /// ```
    /// use coord_core::{Client, error::ErrorKind};
    /// use coord_mem::MemBackend;
    /// use coord_testkit::{Call, Fate, Intercept};
    /// use std::time::Duration;
    /// use tokio::time::sleep;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let store = MemBackend::new();
    /// let late = |_: &Call| Fate::Late(Duration::from_secs(5));
    /// let kv = Intercept::new(store.clone(), late).patience(Duration::from_secs(1));
    /// assert_eq!(kv.put("a", "1").await.unwrap_err().kind(), ErrorKind::Timeout);
    /// assert!(store.get("a").await.unwrap().is_none());
    /// sleep(Duration::from_secs(5)).await;
    /// assert!(store.get("a").await.unwrap().is_some(), "it has arrived");
    /// # }
    /// ```
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    async fn call<T: Send + 'static>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let answer = self.meet(call, request);
        match self.patience {
            Some(after) => timeout(after, answer).await.unwrap_or(Err(Error::Timeout { after })),
            None => answer.await,
        }
    }

    /// Wraps a registered watch, so that the rule decides which of its batches are delivered.
    fn wrap(&self, watch: Watcher) -> Watcher {
        Watcher::new(watch.header(), Filtered { watch, rule: Arc::clone(&self.rule) })
    }

    async fn meet<T: Send + 'static>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.rule.fate(&call) {
            Fate::Pass => request.await,
            Fate::Yield => {
                yield_now().await;
                let answer = request.await;
                yield_now().await;
                answer
            }
            Fate::Late(delay) => self.send_late(delay, request).await,
            Fate::LoseRequest => Err(lost("the request was lost")),
            Fate::LoseReply => {
                // Whatever the answer: nobody sees it.
                let _ = request.await;
                Err(lost("the reply was lost"))
            }
            Fate::Hang => std::future::pending().await,
            Fate::Fail(error) => Err(error),
        }
    }

    async fn send_late<T: Send + 'static>(
        &self,
        delay: Duration,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            while sent.try_join_next().is_some() {}
            sent.spawn(async move {
                sleep(delay).await;
                // The caller may have gone; the request is applied all the same.
                let _ = reply.send(request.await);
            });
        }
        answer.await.unwrap_or_else(|_| Err(lost("the network was shut down")))
    }
}

fn lost(reason: &str) -> Error {
    Error::Unavailable { outcome: Outcome::Unknown, reason: reason.to_owned(), source: None }
}

impl<B: fmt::Debug> fmt::Debug for Intercept<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intercept").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A watch of which a rule decides what is delivered.
struct Filtered {
    watch: Watcher,
    rule: Arc<dyn Rule>,
}

impl Stream for Filtered {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.watch.poll_next_unpin(cx)) {
                Some(Ok(batch)) if !self.rule.delivers(&batch) => {}
                batch => return Poll::Ready(batch),
            }
        }
    }
}

impl WatchStream for Filtered {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}

forward_calls!(Intercept);
