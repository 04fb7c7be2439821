//! The reader buffer: the received batches of one watch that were not read yet. The driver and the
//! reader share it.
//!
//! A buffer holds a bounded number of batches. The driver never waits for a reader: when the buffer
//! is full, the driver cancels the registration of the watch and marks the buffer as paused. When
//! the reader has read most of the batches, it requests that the watch resumes. Other watches on
//! the stream are not affected.
//!
//! ```text
//! a buffer of 4, a reader that does not read, and changes at 5, 6, 7, 8, 9
//!   5 .. 8   [5 6 7 8]   full: the registration is cancelled, the buffer is paused
//!   9        [5 6 7 8]   the server does not send it
//! read 5, 6, 7:   [8]    a quarter is left: registered from 8 on; 8 is dropped, 9 is added
//! ```
//!
//! Memory stays bounded. The cost is bandwidth: a server that catches up sends up to a thousand
//! revisions at once, and sends the revisions that do not fit into the buffer again later.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use coord_core::{
    Result,
    kv::{Revision, WatchBatch},
};

/// The limits of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferLimits {
    /// The largest number of batches.
    pub(crate) batches: usize,
    /// The largest number of bytes in keys and values. One batch may exceed it.
    pub(crate) size_bytes: usize,
}

/// The unread batches of one watch.
#[derive(Debug)]
pub(super) struct ReaderBuffer {
    limits: BufferLimits,
    state: Mutex<BufferState>,
}

#[derive(Debug, Default)]
struct BufferState {
    pending: VecDeque<Result<WatchBatch>>,
    /// The bytes of keys and values in the pending batches.
    size_bytes: usize,
    /// Whether the registration is cancelled until the reader requests that the watch resumes.
    paused: bool,
    /// Whether the watch has ended. The driver adds no batch any more.
    ended: bool,
    waker: Option<Waker>,
}

/// The result of taking an item from a buffer.
#[derive(Debug)]
pub(super) struct Taken {
    /// The next item, or the end of the watch; pending if there is no item yet.
    pub(super) item: Poll<Option<Result<WatchBatch>>>,
    /// Whether a paused buffer has room again, so that the driver must resume the watch.
    pub(super) resume: bool,
}

impl ReaderBuffer {
    pub(super) fn new(limits: BufferLimits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BufferState> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Adds a batch. Returns whether there is room for another.
    pub(super) fn push(&self, batch: WatchBatch) -> bool {
        let mut state = self.lock();
        state.size_bytes += size_bytes(&batch);
        state.pending.push_back(Ok(batch));
        let room =
            state.pending.len() < self.limits.batches && state.size_bytes < self.limits.size_bytes;
        Self::wake(state);
        room
    }

    /// Adds a progress notification if there is room. Returns whether it was added. A dropped
    /// notification is no loss, because a later one includes its revision.
    pub(super) fn push_progress(&self, revision: Revision) -> bool {
        let room = self.lock().pending.len() < self.limits.batches;
        if room {
            self.push(WatchBatch { revision, events: Vec::new() });
        }
        room
    }

    /// Marks the watch as paused until the reader requests that it resumes.
    ///
    /// Wakes the reader, which may have read everything since the buffer was full.
    pub(super) fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        Self::wake(state);
    }

    /// Ends the watch with an error after the unread batches. A second call has no effect.
    pub(super) fn end(&self, error: coord_core::Error) {
        let mut state = self.lock();
        if !state.ended {
            state.ended = true;
            state.paused = false;
            state.pending.push_back(Err(error));
        }
        Self::wake(state);
    }

    /// Takes the next item. If there is none, the task is woken when an item is added.
    pub(super) fn take(&self, cx: &Context<'_>) -> Taken {
        let mut state = self.lock();
        let item = match state.pending.pop_front() {
            Some(item) => {
                let size_bytes = item.as_ref().map_or(0, size_bytes);
                state.size_bytes = state.size_bytes.saturating_sub(size_bytes);
                Poll::Ready(Some(item))
            }
            None if state.ended => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        };
        let room = state.pending.len() <= self.limits.batches / 4
            && state.size_bytes <= self.limits.size_bytes / 4;
        let resume = state.paused && room;
        state.paused &= !resume;
        Taken { item, resume }
    }

    fn wake(mut state: MutexGuard<'_, BufferState>) {
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The bytes of keys and values in a batch.
fn size_bytes(batch: &WatchBatch) -> usize {
    let kvs = batch.events.iter().flat_map(|event| [Some(&event.kv), event.prev_kv.as_ref()]);
    kvs.flatten().map(|kv| kv.key.len() + kv.value.len()).sum()
}
