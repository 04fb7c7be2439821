//! Which watches of a stream have something to deliver.
//!
//! A watch is polled with a waker of its own, its bell. A bell that rings puts the id of its watch
//! into a queue, and wakes the stream, which then asks only the watches in the queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// The bells of a stream.
#[derive(Default)]
pub(super) struct Bells {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    ids: Mutex<VecDeque<i64>>,
    stream: AtomicWaker,
}

impl Queue {
    fn with<T>(&self, use_it: impl FnOnce(&mut VecDeque<i64>) -> T) -> T {
        use_it(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Bells {
    /// A bell for the watch `id`.
    pub(super) fn bell(&self, id: i64) -> Bell {
        let (queued, queue) = (AtomicBool::new(false), Arc::clone(&self.queue));
        let ringer = Arc::new(Ringer { id, queued, queue });
        Bell { waker: Waker::from(Arc::clone(&ringer)), ringer }
    }

    /// How many are in the queue. If another one comes, `stream` is woken.
    pub(super) fn listen(&self, stream: &Waker) -> usize {
        self.queue.stream.register(stream);
        self.queue.with(|ids| ids.len())
    }

    /// Who is first in the queue. It may be of a watch that is gone.
    pub(super) fn next(&self) -> Option<i64> {
        self.queue.with(VecDeque::pop_front)
    }
}

/// The bell of one watch.
pub(super) struct Bell {
    ringer: Arc<Ringer>,
    waker: Waker,
}

struct Ringer {
    id: i64,
    /// Whether the id is in the queue.
    queued: AtomicBool,
    queue: Arc<Queue>,
}

impl Ringer {
    /// Queues, and tells whether that was needed.
    fn queue(&self) -> bool {
        let first = !self.queued.swap(true, Ordering::AcqRel);
        if first {
            self.queue.with(|ids| ids.push_back(self.id));
        }
        first
    }
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queue() {
            self.queue.stream.wake();
        }
    }
}

impl Bell {
    /// What rings it.
    pub(super) const fn waker(&self) -> &Waker {
        &self.waker
    }

    /// From now on ringing queues again. Before the watch is asked, so that nothing is missed.
    pub(super) fn answer(&self) {
        self.ringer.queued.store(false, Ordering::Release);
    }

    /// Queues without waking the stream, which is awake.
    pub(super) fn queue(&self) {
        self.ringer.queue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bell_that_rings_twice_is_answered_once_and_then_rings_again() {
        let bells = Bells::default();
        let (one, two) = (bells.bell(1), bells.bell(2));
        two.waker().wake_by_ref();
        one.waker().wake_by_ref();
        two.waker().wake_by_ref();
        assert_eq!(bells.listen(Waker::noop()), 2);
        assert_eq!([bells.next(), bells.next(), bells.next()], [Some(2), Some(1), None]);
        two.waker().wake_by_ref();
        assert_eq!(bells.next(), None, "not answered yet");
        two.answer();
        two.waker().wake_by_ref();
        assert_eq!(bells.next(), Some(2));
    }
}
