//! A watch as its reader sees it: batches from the slot, from the log, bookmarks in between.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coord_core::{
    Result,
    kv::{WatchBatch, WatchStream},
};
use futures_core::Stream;
use tokio::time::{Sleep, sleep};

use super::Slot;
use crate::shared::Shared;

/// The stream behind a [`Watch`](coord_core::kv::Watcher) of a `MemBackend`.
#[derive(Debug)]
pub(crate) struct MemWatch {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    bookmarks: Option<Bookmarks>,
    ended: bool,
}

/// Bookmarks that come by themselves while nothing else does.
#[derive(Debug)]
struct Bookmarks {
    every: Duration,
    next: Pin<Box<Sleep>>,
}

impl Bookmarks {
    fn postpone(&mut self) {
        self.next.set(sleep(self.every));
    }
}

impl MemWatch {
    pub(crate) fn new(shared: Arc<Shared>, slot: Arc<Slot>) -> Self {
        let bookmarks = slot.request.progress_notify.then(|| {
            let every = shared.options.progress_interval;
            Bookmarks { every, next: Box::pin(sleep(every)) }
        });
        Self { shared, slot, bookmarks, ended: false }
    }

    /// The next batch that is there, from the slot or, where the slot is behind, from the log.
    ///
    /// When there is none, the task is on the list to be woken by the next change.
    fn take(&self, cx: &Context<'_>) -> Option<Result<WatchBatch>> {
        {
            let mut state = self.slot.lock();
            if let Some(batch) = state.pending.pop_front() {
                return Some(batch);
            }
            if state.behind.is_none() && !state.progress {
                state.waker = Some(cx.waker().clone());
                return None;
            }
        }
        // The store comes before the slot in the order of locks.
        let store = self.shared.read();
        let mut state = self.slot.lock();
        self.slot.catch_up(&mut state, &store);
        if let Some(batch) = state.pending.pop_front() {
            return Some(batch);
        }
        state.waker = Some(cx.waker().clone());
        let asked = std::mem::take(&mut state.progress);
        let start = self.slot.request.start_revision;
        let started = start.is_none_or(|start| start <= store.revision());
        let bookmark = WatchBatch { revision: store.revision(), events: Vec::new() };
        (asked && started).then_some(Ok(bookmark))
    }
}

impl Stream for MemWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        loop {
            if let Some(batch) = self.take(cx) {
                coop.made_progress();
                self.ended = batch.is_err();
                if let Some(bookmarks) = &mut self.bookmarks {
                    bookmarks.postpone();
                }
                return Poll::Ready(Some(batch));
            }
            let Some(bookmarks) = &mut self.bookmarks else { return Poll::Pending };
            ready!(bookmarks.next.as_mut().poll(cx));
            bookmarks.postpone();
            self.slot.lock().progress = true;
        }
    }
}

impl WatchStream for MemWatch {
    fn request_progress(self: Pin<&mut Self>) {
        let mut state = self.slot.lock();
        state.progress = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for MemWatch {
    fn drop(&mut self) {
        self.shared.hub.remove(&self.slot);
    }
}
