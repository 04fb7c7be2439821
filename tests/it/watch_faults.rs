//! A backend whose watches break, and lag.
//!
//! A real one mends its connections by itself; when it cannot, the stream ends, with an error or
//! without. And the member that serves a watch may lag behind the one that answered the last
//! request, so that "from now on" begins in the past. `Intercept` lets requests fail; this is the
//! same for what a watch tells.

use coord_core::layer::Layer;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    kv::{Range, Revision, Watch, WatchBatch, WatchStream, Watcher},
};
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Sleep, sleep};

/// How long a watch lives, and the error with which it then ends, if any.
pub(crate) type Life = (Duration, Option<Error>);

/// A backend whose watches each live as long as `lives` says. The first is served by a member that
/// lags so many revisions.
pub(crate) struct Breaking<B, F> {
    pub(crate) inner: B,
    pub(crate) lives: F,
    pub(crate) lag: AtomicI64,
}

/// A watch that breaks.
struct Mortal {
    watch: Watcher,
    dies: Pin<Box<Sleep>>,
    error: Option<Error>,
    dead: bool,
}

impl Stream for Mortal {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.dead && self.dies.as_mut().poll(cx).is_pending() {
            return self.watch.poll_next_unpin(cx);
        }
        self.dead = true;
        Poll::Ready(self.error.take().map(Err))
    }
}

impl WatchStream for Mortal {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}

impl<B, F> fmt::Debug for Breaking<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaking").finish_non_exhaustive()
    }
}

#[async_trait]
impl<B: KvBackend, F: Fn() -> Life + Send + Sync + 'static> Layer for Breaking<B, F> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        let from_now_on = request.start_revision.is_none();
        let mut header = self.inner.range(Range::new("now")).await?.header;
        header.revision =
            Revision((header.revision.0 - self.lag.swap(0, Ordering::Relaxed)).max(1));
        let request = if from_now_on { request.start_at(header.revision.next()) } else { request };
        let watch = self.inner.watch(request).await?;
        let (life, error) = (self.lives)();
        let dies = Box::pin(sleep(life));
        Ok(Watcher::new(header, Mortal { watch, dies, error, dead: false }))
    }
}
