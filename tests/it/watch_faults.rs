//! Watch faults: layers whose watches end, start at an old revision, or are late.
//!
//! `Intercept` injects faults into requests, and silences watches; [`WatchFaults`] ends watches, or
//! makes them stale; [`LateWatches`] delays their batches. A real backend reconnects its watches by
//! itself. When it cannot, the stream ends, with an error or without. And a stale member may serve
//! a watch, so that a watch from the current revision on starts at an older revision.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    kv::{Range, Revision, Watch, WatchBatch, WatchStream, Watcher},
    layer::Layer,
};
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Sleep, sleep};

/// How long a watch lasts, and the error with which it ends, if any.
pub(crate) type WatchLifetime = (Duration, Option<Error>);

/// The lifetime of a watch that lasts longer than any test.
pub(crate) const UNLIMITED_LIFETIME: WatchLifetime = (Duration::from_secs(1_000_000), None);

/// Lifetimes of which the first one is `first`, without an error, and all others are unlimited.
pub(crate) fn short_first_watch(
    first: Duration,
) -> impl Fn() -> WatchLifetime + Send + Sync + 'static {
    let is_first = AtomicBool::new(true);
    move || match is_first.swap(false, Ordering::Relaxed) {
        true => (first, None),
        false => UNLIMITED_LIFETIME,
    }
}

/// A layer whose watches end after the lifetimes that a closure returns, one for each watch.
pub(crate) struct WatchFaults<B, F> {
    inner: B,
    lifetimes: F,
    /// By how many revisions the member that serves the next watch is stale.
    stale_revisions: AtomicI64,
}

impl<B: KvBackend, F: Fn() -> WatchLifetime + Send + Sync + 'static> WatchFaults<B, F> {
    /// Wraps `inner`.
    pub(crate) const fn new(inner: B, lifetimes: F) -> Self {
        Self { inner, lifetimes, stale_revisions: AtomicI64::new(0) }
    }

    /// Makes the first watch start that many revisions before the current revision.
    pub(crate) fn with_stale_first_watch(self, revisions: i64) -> Self {
        Self { stale_revisions: AtomicI64::new(revisions), ..self }
    }
}

/// A watch that ends after its lifetime.
struct LimitedWatch {
    watch: Watcher,
    end: Pin<Box<Sleep>>,
    error: Option<Error>,
    has_ended: bool,
}

impl Stream for LimitedWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.has_ended && self.end.as_mut().poll(cx).is_pending() {
            return self.watch.poll_next_unpin(cx);
        }
        self.has_ended = true;
        Poll::Ready(self.error.take().map(Err))
    }
}

impl WatchStream for LimitedWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}

impl<B, F> fmt::Debug for WatchFaults<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchFaults").finish_non_exhaustive()
    }
}

#[async_trait]
impl<B: KvBackend, F: Fn() -> WatchLifetime + Send + Sync + 'static> Layer for WatchFaults<B, F> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        let from_now_on = request.start_revision.is_none();
        let mut header = self.inner.range(Range::new("now")).await?.header;
        let stale_revisions = self.stale_revisions.swap(0, Ordering::Relaxed);
        header.revision = Revision((header.revision.0 - stale_revisions).max(1));
        let request = if from_now_on { request.start_at(header.revision.next()) } else { request };
        let watch = self.inner.watch(request).await?;
        let (lifetime, error) = (self.lifetimes)();
        let end = Box::pin(sleep(lifetime));
        Ok(Watcher::new(header, LimitedWatch { watch, end, error, has_ended: false }))
    }
}

/// A layer whose watches deliver each batch late, and that counts requests for progress.
#[derive(Debug)]
pub(crate) struct LateWatches<B> {
    inner: B,
    delay: Duration,
    progress_requests: Arc<AtomicUsize>,
}

impl<B: KvBackend> LateWatches<B> {
    pub(crate) fn new(inner: B, delay: Duration) -> Self {
        Self { inner, delay, progress_requests: Arc::default() }
    }

    /// The number of requests for progress.
    pub(crate) fn progress_requests(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.progress_requests)
    }
}

/// A watch whose batches are late.
struct LateWatch {
    watch: Watcher,
    delay: Duration,
    late: Option<(Result<WatchBatch>, Pin<Box<Sleep>>)>,
    progress_requests: Arc<AtomicUsize>,
}

impl Stream for LateWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.late.is_none() {
            let Some(batch) = ready!(self.watch.poll_next_unpin(cx)) else {
                return Poll::Ready(None);
            };
            self.late = Some((batch, Box::pin(sleep(self.delay))));
        }
        if let Some((_, arrives)) = &mut self.late {
            ready!(arrives.as_mut().poll(cx));
        }
        Poll::Ready(self.late.take().map(|(batch, _)| batch))
    }
}

impl WatchStream for LateWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.progress_requests.fetch_add(1, Ordering::Relaxed);
        self.watch.request_progress();
    }
}

#[async_trait]
impl<B: KvBackend> Layer for LateWatches<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        let watch = self.inner.watch(request).await?;
        let progress_requests = Arc::clone(&self.progress_requests);
        let (header, delay) = (watch.header(), self.delay);
        Ok(Watcher::new(header, LateWatch { watch, delay, late: None, progress_requests }))
    }
}
