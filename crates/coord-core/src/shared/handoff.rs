//! Hand-off: a release reads the position of the successor, if both contenders use one client.
//!
//! Without a hand-off, the successor receives an event that the holder's key was deleted, and then
//! reads its own position: an event and a request between two holders. Contenders of one
//! [`Client`](crate::Client) save both. The waiter attaches to its predecessor. The transaction
//! that deletes the predecessor's key also reads the waiter's key. Its response, as of the revision
//! at which the waiter became first, is handed over to the waiter:
//!
//! ```text
//! A (holder)                     B (waiter, same client)              queue
//! .                              attaches to A                        A@5 B@6
//! release: delete A, read B      .                                    B@6
//! hands the response over        B@6 exists, no predecessor: acquired B@6
//! ```
//!
//! Reading one key is enough: the holder was first, so it has no predecessor, and the waiter is its
//! direct successor.
//!
//! An attached waiter needs no watch, because its predecessor is in this process: when the
//! predecessor ends, by a failed request, a dropped future or a lost session, the waiter is
//! notified and reads its position itself. Only a deletion of the predecessor's key by another
//! client is not detected here. For that, the wait loop also watches the key, after a quarter of a
//! second (`queue/wait.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::kv::{Header, Op, OpResponse, Range, RangeResponse, Revision, TxnResponse};
use crate::sync::lock;

/// A queue entry: a key and the revision that created it.
///
/// A client that overwrites the key without its lease changes neither, so the lease is not part of
/// the entry's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueEntry {
    pub(crate) key: Bytes,
    pub(crate) created: Revision,
}

type Slots = Arc<Mutex<BTreeMap<QueueEntry, Arc<Mutex<Slot>>>>>;

/// The contenders of one client, by queue entry, so that their successors can attach to them.
#[derive(Debug, Default)]
pub(crate) struct Handoffs {
    slots: Slots,
}

/// The read of a waiter's key, with the header of the release that read it.
pub(crate) type Handoff = (Header, RangeResponse);

/// The hand-off state of one contender: its successor, and whether the contender has ended.
#[derive(Debug, Default)]
struct Slot {
    /// Whether the contender has ended, so that no successor can attach any more.
    is_closed: bool,
    /// The successor, once it is attached.
    waiter: Option<Waiter>,
}

/// A waiter that is attached to its predecessor. Dropping this notifies the waiter.
#[derive(Debug)]
pub(crate) struct Waiter {
    entry: QueueEntry,
    reply: oneshot::Sender<Handoff>,
}

/// The contender's handle to its slot. Dropping it notifies the successor.
#[derive(Debug)]
pub(crate) struct HandoffSlot {
    entry: QueueEntry,
    slots: Slots,
    slot: Arc<Mutex<Slot>>,
}

impl Handoffs {
    /// Registers a contender, so that its successor can attach to it.
    pub(crate) fn register(&self, entry: QueueEntry) -> HandoffSlot {
        let slot = Arc::default();
        lock(&self.slots).insert(entry.clone(), Arc::clone(&slot));
        HandoffSlot { entry, slots: Arc::clone(&self.slots), slot }
    }

    /// Attaches the waiter `entry` to its predecessor; `None` if the predecessor is no contender of
    /// this client. The receiver fails when the predecessor ends without a hand-off.
    ///
    /// It replaces a waiter that is attached already: the same waiter, or a waiter whose key did
    /// not exist any more when the new waiter read its position.
    pub(crate) fn attach(
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
    /// Takes the successor, to read its position in the release transaction. A waiter that attaches
    /// from now on is notified when the contender ends.
    pub(crate) fn take(&self) -> Option<Waiter> {
        lock(&self.slot).waiter.take().filter(|waiter| !waiter.reply.is_closed())
    }

    /// Attaches the successor again, after a release that failed.
    pub(crate) fn put_back(&self, waiter: Option<Waiter>) {
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
    pub(crate) fn read(&self) -> Op {
        Op::Range(Range::new(&self.entry.key).keys_only())
    }

    /// Hands over the response of a transaction whose last operation is that read.
    pub(crate) fn hand_over(self, response: TxnResponse) {
        if let Some(OpResponse::Range(read)) = response.responses.into_iter().next_back() {
            // A waiter that was dropped meanwhile has been released, and its slot has notified its
            // successor.
            let _ = self.reply.send((response.header, read));
        }
    }
}
