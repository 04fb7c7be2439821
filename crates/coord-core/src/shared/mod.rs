//! State in memory that the primitives of one client share.
//!
//! It saves requests and changes no guarantee: a primitive that finds nothing here sends the
//! requests itself. It belongs to a [`Client`](crate::Client), never to the process.
//!
//! - `handoff.rs`: a release reads the position of the next contender;
//! - `conflict_queue.rs`: transactions that conflict on a key take turns;
//! - `snapshot.rs`: what a transaction leaves for the next one.

mod conflict_queue;
mod handoff;
mod snapshot;

pub(crate) use conflict_queue::{ConflictQueues, HeldQueues};
pub(crate) use handoff::{Handoff, HandoffSlot, Handoffs, QueueEntry, Waiter};
pub(crate) use snapshot::{ReadSet, Snapshot, Versioned};

/// What the primitives of one client share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) handoffs: Handoffs,
    pub(crate) conflict_queues: ConflictQueues,
}
