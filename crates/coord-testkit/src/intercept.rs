//! Fault injection: a layer that delays, drops or fails requests.
//!
//! For each call, [`Intercept`] performs the [`Action`] that its [`Rule`] returns. The actions
//! include the faults of a network: a delayed request, a dropped request, and a dropped response to
//! a request that was applied. A delayed request is sent when its delay is over, also if the caller
//! has dropped its future or has timed out.
//!
//! The registration of a watch is a call like any other. The rule also selects the batches that the
//! watch delivers.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coord_core::{
    Error, KvBackend, Result,
    error::Outcome,
    kv::{WatchBatch, WatchStream, Watcher},
    sync,
};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::call::Call;
use crate::forward::forward_calls;

/// What [`Intercept`] does with a call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Sends the request and returns the response.
    Pass,
    /// Like `Pass`, but the caller's task yields before the request is sent and before the response
    /// is returned, so that a test can drop the future at either point.
    Yield,
    /// Sends the request after this delay, also if the caller has dropped its future by then.
    /// Dropping the [`Intercept`] drops the requests whose delay is not over.
    ///
    /// Panics outside a tokio runtime.
    Delay(Duration),
    /// Does not send the request, and returns an ambiguous error at once: [`Error::Unavailable`]
    /// with [`Outcome::Unknown`].
    DropRequest,
    /// Sends the request, drops the response, and returns an ambiguous error like that of
    /// `DropRequest`.
    DropResponse,
    /// Does not send the request and never returns.
    Hang,
    /// Does not send the request and returns this error.
    Fail(Error),
}

/// Chooses the action for each call, and whether each watch batch is delivered.
///
/// A closure from a call to an action is a rule that delivers every batch.
pub trait Rule: Send + Sync + 'static {
    /// Returns the action for `call`. Called once per call, before anything is sent.
    fn action(&self, call: &Call) -> Action;

    /// Whether `batch` is delivered to the watcher. The default is true.
    ///
    /// Returning `false` models a watch that has stopped silently: the watch delivers nothing and
    /// reports no error.
    fn delivers(&self, batch: &WatchBatch) -> bool {
        let _ = batch;
        true
    }
}

impl<F: Fn(&Call) -> Action + Send + Sync + 'static> Rule for F {
    fn action(&self, call: &Call) -> Action {
        self(call)
    }
}

/// A layer that injects the faults that a [`Rule`] chooses.
///
/// ```
/// use coord_core::{Client, error::Outcome};
/// use coord_mem::MemBackend;
/// use coord_testkit::{Action, Call, Intercept};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Client::new(MemBackend::new());
/// let intercept = Intercept::new(store.clone(), |call: &Call| match call {
///     Call::Put(_) => Action::DropResponse,
///     _ => Action::Pass,
/// });
/// let error = Client::new(intercept).put("a", "1").await.unwrap_err();
/// assert_eq!(error.outcome(), Outcome::Unknown);
/// assert!(store.get("a").await.unwrap().is_some(), "the put was applied");
/// # }
/// ```
pub struct Intercept<B> {
    inner: Arc<B>,
    rule: Arc<dyn Rule>,
    /// How long a caller waits for a response; `None` means forever.
    timeout: Option<Duration>,
    /// Delayed requests, which are sent even if their callers have dropped their futures.
    delayed: Mutex<JoinSet<()>>,
}

impl<B: KvBackend> Intercept<B> {
    /// Wraps `inner` and applies `rule` to its calls.
    pub fn new(inner: B, rule: impl Rule) -> Self {
        let (inner, rule) = (Arc::new(inner), Arc::new(rule));
        Self { inner, rule, timeout: None, delayed: Mutex::default() }
    }

    /// Sets a timeout: a call that takes longer than `after` fails with [`Error::Timeout`]. Unless
    /// set, calls have no timeout.
    ///
    /// A delayed request is sent when its delay is over, also after the timeout.
    ///
    /// ```
    /// use coord_core::{Client, error::ErrorKind};
    /// use coord_mem::MemBackend;
    /// use coord_testkit::{Action, Call, Intercept};
    /// use std::time::Duration;
    /// use tokio::time::sleep;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let store = Client::new(MemBackend::new());
    /// let delayed = |_: &Call| Action::Delay(Duration::from_secs(5));
    /// let intercept = Intercept::new(store.clone(), delayed).timeout(Duration::from_secs(1));
    /// let client = Client::new(intercept);
    /// assert_eq!(client.put("a", "1").await.unwrap_err().kind(), ErrorKind::Timeout);
    /// assert!(store.get("a").await.unwrap().is_none());
    /// sleep(Duration::from_secs(5)).await;
    /// assert!(store.get("a").await.unwrap().is_some(), "the delayed put was applied");
    /// # }
    /// ```
    #[must_use]
    pub fn timeout(self, after: Duration) -> Self {
        Self { timeout: Some(after), ..self }
    }

    async fn call<T: Send + 'static>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let response = self.perform(call, request);
        match self.timeout {
            Some(after) => timeout(after, response).await.unwrap_or(Err(Error::Timeout { after })),
            None => response.await,
        }
    }

    /// Wraps a registered watch, so that it delivers only the batches that the rule selects.
    fn wrap(&self, watch: Watcher) -> Watcher {
        Watcher::new(watch.header(), FilteredWatch { watch, rule: Arc::clone(&self.rule) })
    }

    /// Performs the action that the rule returns for the call.
    async fn perform<T: Send + 'static>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.rule.action(&call) {
            Action::Pass => request.await,
            Action::Yield => {
                yield_now().await;
                let response = request.await;
                yield_now().await;
                response
            }
            Action::Delay(delay) => self.send_after(delay, request).await,
            Action::DropRequest => Err(ambiguous("the request was dropped")),
            Action::DropResponse => {
                let _dropped = request.await;
                Err(ambiguous("the response was dropped"))
            }
            Action::Hang => std::future::pending().await,
            Action::Fail(error) => Err(error),
        }
    }

    /// Sends the request after a delay, from a task of its own.
    async fn send_after<T: Send + 'static>(
        &self,
        delay: Duration,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (sender, response) = oneshot::channel();
        {
            let mut delayed = sync::lock(&self.delayed);
            // Removes the tasks that have ended.
            while delayed.try_join_next().is_some() {}
            delayed.spawn(async move {
                sleep(delay).await;
                // The caller receives no response if it has dropped its future.
                let _ = sender.send(request.await);
            });
        }
        response
            .await
            .unwrap_or_else(|_| Err(ambiguous("the task that delayed the request has ended")))
    }
}

/// An error with unknown outcome.
fn ambiguous(reason: &str) -> Error {
    unavailable(Outcome::Unknown, reason)
}

/// The error of a store that cannot be reached.
pub(crate) fn unavailable(outcome: Outcome, reason: &str) -> Error {
    Error::Unavailable { outcome, reason: reason.to_owned(), source: None }
}

impl<B: fmt::Debug> fmt::Debug for Intercept<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intercept").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A watch that skips the batches that its rule does not deliver.
struct FilteredWatch {
    watch: Watcher,
    rule: Arc<dyn Rule>,
}

impl Stream for FilteredWatch {
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

impl WatchStream for FilteredWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}

forward_calls!(Intercept);
