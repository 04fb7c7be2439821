//! What has arrived for a watch and is not read yet: the one thing that its reader and the driver
//! share.
//!
//! A slot holds a bounded number of batches. The driver never waits for a reader: when the slot is
//! full it cancels the watch on the server and leaves word in the slot, and the reader asks to go
//! on once it has read most of what is there. Other watches on the stream notice nothing.
//!
//! ```text
//! a slot of 4, and changes at 5, 6, 7, 8, 9 with nobody reading
//!   5 .. 8   [5 6 7 8]   full: cancelled on the server, behind
//!   9        [5 6 7 8]   the server knows it, nobody sends it
//! read 5, 6, 7:   [8]    a quarter is left: watched again, from 8 on; 8 is dropped, 9 is kept
//! ```
//!
//! It costs bandwidth: a server that catches up sends up to a thousand revisions at once, and what
//! does not fit into the slot is sent again later. It never costs memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use coord_core::{
    Result,
    kv::{Revision, WatchBatch},
};

/// How much may wait in a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The most batches.
    pub(crate) batches: usize,
    /// The most bytes of keys and values. One batch may exceed it.
    pub(crate) size_bytes: usize,
}

/// What waits for the reader of one watch.
#[derive(Debug)]
pub(super) struct Slot {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Result<WatchBatch>>,
    size_bytes: usize,
    /// The watch is cancelled on the server until the reader asks to go on.
    behind: bool,
    /// Nothing will be added any more.
    ended: bool,
    waker: Option<Waker>,
}

/// What a reader found.
#[derive(Debug)]
pub(super) struct Taken {
    /// The next item, or the end, or nothing yet.
    pub(super) item: Poll<Option<Result<WatchBatch>>>,
    /// There is room again in a slot that was full: the driver has to be told.
    pub(super) go_on: bool,
}

impl Slot {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Adds a batch. Whether there is room for another.
    pub(super) fn push(&self, batch: WatchBatch) -> bool {
        let mut state = self.lock();
        state.size_bytes += size_bytes(&batch);
        state.pending.push_back(Ok(batch));
        let room =
            state.pending.len() < self.bounds.batches && state.size_bytes < self.bounds.size_bytes;
        Self::wake(state);
        room
    }

    /// Adds a bookmark if there is room. Another will come, and nobody misses this one.
    pub(super) fn push_bookmark(&self, revision: Revision) -> bool {
        let room = self.lock().pending.len() < self.bounds.batches;
        if room {
            self.push(WatchBatch { revision, events: Vec::new() });
        }
        room
    }

    /// Leaves word that the watch stands still until the reader asks to go on.
    ///
    /// It wakes the reader, who may have read everything since the slot was found to be full.
    pub(super) fn fall_behind(&self) {
        let mut state = self.lock();
        state.behind = true;
        Self::wake(state);
    }

    /// Ends the watch, with an error after what is there. A second end changes nothing.
    pub(super) fn end(&self, error: coord_core::Error) {
        let mut state = self.lock();
        if !state.ended {
            state.ended = true;
            state.behind = false;
            state.pending.push_back(Err(error));
        }
        Self::wake(state);
    }

    /// Takes the next item; the task is woken when there is one.
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
        let room = state.pending.len() <= self.bounds.batches / 4
            && state.size_bytes <= self.bounds.size_bytes / 4;
        let go_on = state.behind && room;
        state.behind &= !go_on;
        Taken { item, go_on }
    }

    fn wake(mut state: MutexGuard<'_, State>) {
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
