//! The state in memory that the primitives of one client share.
//!
//! It saves requests and changes no guarantee: without it, a primitive sends the requests itself.
//! It belongs to a [`Client`](crate::Client), and is not a static.
//!
//! - `handoff.rs`: hand-off, in which a release reads the position of the successor;
//! - `conflict_queue.rs`: conflict queues, the order in which transactions that conflict on a key
//!   try again;
//! - `snapshot.rs`: snapshots, with which an attempt can start instead of reading.

mod conflict_queue;
mod handoff;
mod snapshot;

pub(crate) use conflict_queue::{ConflictQueues, HeldQueues};
pub(crate) use handoff::{Handoff, HandoffSlot, Handoffs, QueueEntry, Waiter};
pub(crate) use snapshot::{ReadSet, Snapshot, Versioned};

/// The shared state of one client.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) handoffs: Handoffs,
    pub(crate) conflict_queues: ConflictQueues,
}
