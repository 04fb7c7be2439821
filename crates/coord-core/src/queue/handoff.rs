//! Hand-off: a release reads the position of the next contender, if both use one client.
//!
//! Without it the next contender learns from a watch that the holder's key is deleted, and then
//! reads its own position: an event and a request between one holder and the next. Contenders of
//! one [`Client`](crate::Client) save both. The waiter attaches to its predecessor; the transaction
//! that deletes the predecessor's key reads the waiter's key too; and the response, which is of the
//! very revision at which the waiter became first, is handed over:
//!
//! ```text
//! A (holder)                     B (waiter, same client)              queue
//! .                              attaches to A                        A@5 B@6
//! release: delete A, read B      .                                    B@6
//! hands the response over        B@6 exists, no predecessor: acquired B@6
//! ```
//!
//! The holder was first, so no contender is before it, and a waiter attaches to the contender right
//! before its own. So one key is enough to read.
//!
//! A waiter that is attached needs no watch: the contender it waits for is in this process, and
//! however that contender ends, by a failed request, a dropped future or a lost session, the waiter
//! is notified. It then reads its position itself. Only a deletion by another client is not
//! noticed here; for that the wait loop watches the key too, after a moment (`wait.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::position::QueueEntry;
use crate::kv::{Header, Op, OpResponse, Range, RangeResponse, TxnResponse};
use crate::sync::lock;

type Slots = Arc<Mutex<BTreeMap<QueueEntry, Arc<Mutex<Slot>>>>>;

/// The contenders of one client, for their successors to attach to.
#[derive(Debug, Default)]
pub(crate) struct Handoffs {
    slots: Slots,
}

/// What is read for a waiter when its predecessor is released.
pub(super) type Handoff = (Header, RangeResponse);

/// The successor of one contender.
#[derive(Debug, Default)]
struct Slot {
    /// Whether the contender is gone: nothing is handed over any more.
    is_closed: bool,
    waiter: Option<Waiter>,
}

/// A waiter attached to its predecessor. Dropping it notifies the waiter.
#[derive(Debug)]
pub(super) struct Waiter {
    entry: QueueEntry,
    reply: oneshot::Sender<Handoff>,
}

/// A contender's place for its successor. Dropping it notifies the successor.
#[derive(Debug)]
pub(super) struct HandoffSlot {
    entry: QueueEntry,
    slots: Slots,
    slot: Arc<Mutex<Slot>>,
}

impl Handoffs {
    /// Registers a contender, for its successor to attach to.
    pub(super) fn register(&self, entry: QueueEntry) -> HandoffSlot {
        let slot = Arc::default();
        lock(&self.slots).insert(entry.clone(), Arc::clone(&slot));
        HandoffSlot { entry, slots: Arc::clone(&self.slots), slot }
    }

    /// Attaches the waiter at `entry` to its predecessor; `None` if that is no contender of this
    /// client. The receiver fails when the predecessor ends without a hand-off.
    ///
    /// A waiter that is attached already is replaced: its key was not there any more when the
    /// position of the new one was read.
    pub(super) fn attach(
        &self,
        predecessor: &QueueEntry,
        entry: QueueEntry,
    ) -> Option<oneshot::Receiver<Handoff>> {
        let slot = lock(&self.slots).get(predecessor).cloned()?;
        let mut slot = lock(&slot);
        let (reply, receiver) = oneshot::channel();
        (!slot.is_closed).then(|| slot.waiter = Some(Waiter { entry, reply }))?;
        Some(receiver)
    }
}

impl HandoffSlot {
    /// Takes the successor, to read its position in the release transaction. One that attaches
    /// from now on is notified when the contender ends.
    pub(super) fn take(&self) -> Option<Waiter> {
        lock(&self.slot).waiter.take().filter(|waiter| !waiter.reply.is_closed())
    }

    /// Attaches the successor again, after a release that failed.
    pub(super) fn put_back(&self, waiter: Option<Waiter>) {
        let mut slot = lock(&self.slot);
        if slot.waiter.is_none() {
            slot.waiter = waiter;
        }
    }
}

impl Drop for HandoffSlot {
    fn drop(&mut self) {
        lock(&self.slots).remove(&self.entry);
        let mut slot = lock(&self.slot);
        (slot.is_closed, slot.waiter) = (true, None);
    }
}

impl Waiter {
    /// The read of the waiter's position.
    pub(super) fn read(&self) -> Op {
        Op::Range(Range::new(&self.entry.key).keys_only())
    }

    /// Hands over the response of a transaction whose last operation is that read.
    pub(super) fn hand_over(self, response: TxnResponse) {
        if let Some(OpResponse::Range(read)) = response.responses.into_iter().next_back() {
            // A waiter that was dropped meanwhile has left the queue, and its successor is told by
            // its slot.
            let _ = self.reply.send((response.header, read));
        }
    }
}
