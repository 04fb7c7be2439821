//! The stream of one watch: queued batches, then batches from the log, and progress notifications.
//!
//! A writer queues each batch in the registration. When the queue is full, the stream has to catch
//! up from the log: `watch/mod.rs` has an example, and the order of the locks.

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

use super::Registration;
use crate::shared::Shared;

/// The stream of a watch of a [`MemBackend`](crate::MemBackend). Dropping the stream removes the
/// watcher from the registry.
#[derive(Debug)]
pub(crate) struct MemWatchStream {
    shared: Arc<Shared>,
    registration: Arc<Registration>,
    progress_timer: Option<ProgressTimer>,
    /// Whether the stream has yielded an error, which is its last item.
    ended: bool,
}

/// Timer for progress notifications: fires when the watch has delivered nothing for `interval`.
#[derive(Debug)]
struct ProgressTimer {
    interval: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl ProgressTimer {
    /// Restarts the interval.
    fn reset(&mut self) {
        self.sleep.set(sleep(self.interval));
    }
}

impl MemWatchStream {
    pub(crate) fn new(shared: Arc<Shared>, registration: Arc<Registration>) -> Self {
        let progress_timer = registration.request.progress_notify.then(|| {
            let interval = shared.options.progress_interval;
            ProgressTimer { interval, sleep: Box::pin(sleep(interval)) }
        });
        Self { shared, registration, progress_timer, ended: false }
    }

    /// The next batch: from the registration's queue, or from the log if the registration has to
    /// catch up.
    ///
    /// If there is no batch, registers the task's waker, which the next batch wakes.
    fn next_batch(&self, cx: &Context<'_>) -> Option<Result<WatchBatch>> {
        {
            let mut state = self.registration.lock();
            if let Some(batch) = state.pending.pop_front() {
                return Some(batch);
            }
            if state.catch_up_from.is_none() && !state.progress_requested {
                state.waker = Some(cx.waker().clone());
                return None;
            }
        }
        // The lock order is store, then registration, so the registration was unlocked first.
        let store = self.shared.read();
        let mut state = self.registration.lock();
        self.registration.catch_up(&mut state, &store);
        if let Some(batch) = state.pending.pop_front() {
            return Some(batch);
        }
        state.waker = Some(cx.waker().clone());
        let requested = std::mem::take(&mut state.progress_requested);
        // Before its start revision, a watch delivers no progress notification.
        let started =
            self.registration.request.start_revision.is_none_or(|start| start <= store.revision());
        let progress = WatchBatch { revision: store.revision(), events: Vec::new() };
        (requested && started).then_some(Ok(progress))
    }
}

impl Stream for MemWatchStream {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        loop {
            if let Some(batch) = self.next_batch(cx) {
                coop.made_progress();
                self.ended = batch.is_err();
                if let Some(progress_timer) = &mut self.progress_timer {
                    progress_timer.reset();
                }
                return Poll::Ready(Some(batch));
            }
            let Some(progress_timer) = &mut self.progress_timer else { return Poll::Pending };
            ready!(progress_timer.sleep.as_mut().poll(cx));
            progress_timer.reset();
            self.registration.lock().progress_requested = true;
        }
    }
}

impl WatchStream for MemWatchStream {
    fn request_progress(self: Pin<&mut Self>) {
        let mut state = self.registration.lock();
        state.progress_requested = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for MemWatchStream {
    fn drop(&mut self) {
        self.shared.watchers.remove(&self.registration);
    }
}
