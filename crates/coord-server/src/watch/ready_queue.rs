//! Ready queue: the watches of a stream that may have something to deliver.
//!
//! Each watch is polled with a waker of its own. The waker adds the watch's id to the queue and
//! wakes the stream, which then polls only the watches in the queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use coord_core::sync;
use futures_util::task::AtomicWaker;

/// The ready queue of a stream.
#[derive(Default)]
pub(super) struct ReadyQueue {
    queue: Arc<SharedQueue>,
}

/// The queue, shared by the stream and the wakers of its watches.
#[derive(Default)]
struct SharedQueue {
    ids: Mutex<VecDeque<i64>>,
    stream_waker: AtomicWaker,
}

impl SharedQueue {
    fn with_ids<T>(&self, f: impl FnOnce(&mut VecDeque<i64>) -> T) -> T {
        f(&mut sync::lock(&self.ids))
    }
}

impl ReadyQueue {
    /// Creates the handle of the watch `id`.
    pub(super) fn handle(&self, id: i64) -> ReadyHandle {
        let (queued, queue) = (AtomicBool::new(false), Arc::clone(&self.queue));
        let inner = Arc::new(WatchWaker { id, queued, queue });
        ReadyHandle { waker: Waker::from(Arc::clone(&inner)), inner }
    }

    /// Registers the stream's waker, which the waker of a watch wakes when it adds an id. Returns
    /// the queue length.
    pub(super) fn register(&self, stream: &Waker) -> usize {
        self.queue.stream_waker.register(stream);
        self.queue.with_ids(|ids| ids.len())
    }

    /// Takes the first id from the queue. Its watch may have been cancelled meanwhile.
    pub(super) fn next(&self) -> Option<i64> {
        self.queue.with_ids(VecDeque::pop_front)
    }
}

/// The handle of one watch on the queue: its waker, and whether its id is queued.
pub(super) struct ReadyHandle {
    inner: Arc<WatchWaker>,
    waker: Waker,
}

/// The waker of one watch, which queues the watch's id.
struct WatchWaker {
    id: i64,
    /// Whether the id is in the queue.
    queued: AtomicBool,
    queue: Arc<SharedQueue>,
}

impl WatchWaker {
    /// Adds the id to the queue unless it is queued, and returns whether it was added.
    fn enqueue(&self) -> bool {
        let added = !self.queued.swap(true, Ordering::AcqRel);
        if added {
            self.queue.with_ids(|ids| ids.push_back(self.id));
        }
        added
    }
}

impl Wake for WatchWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.enqueue() {
            self.queue.stream_waker.wake();
        }
    }
}

impl ReadyHandle {
    /// The waker to poll the watch with.
    pub(super) const fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Permits that the watch is queued again. Called before the watch is polled, so that no wake
    /// is lost.
    pub(super) fn clear(&self) {
        self.inner.queued.store(false, Ordering::Release);
    }

    /// Queues the watch without waking the stream. Called while the stream is polled.
    pub(super) fn enqueue(&self) {
        self.inner.enqueue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_woken_twice_is_queued_once_until_cleared() {
        let ready_queue = ReadyQueue::default();
        let (one, two) = (ready_queue.handle(1), ready_queue.handle(2));
        two.waker().wake_by_ref();
        one.waker().wake_by_ref();
        two.waker().wake_by_ref();
        assert_eq!(ready_queue.register(Waker::noop()), 2);
        assert_eq!(
            [ready_queue.next(), ready_queue.next(), ready_queue.next()],
            [Some(2), Some(1), None]
        );
        two.waker().wake_by_ref();
        assert_eq!(ready_queue.next(), None, "not cleared yet");
        two.clear();
        two.waker().wake_by_ref();
        assert_eq!(ready_queue.next(), Some(2));
    }
}
