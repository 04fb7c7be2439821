//! Random operations on a store, for tests that compare two of them.
//!
//! Such a test lives from collisions: two random keys out of millions never meet, so nothing that
//! is worth testing ever happens. Hence everything here is drawn from tiny sets, six keys, a few
//! values, three leases, and every revision is said *relative to the store's* at the moment when
//! the operation is run ([`At`]), so that a historic read hits history and a compaction cuts
//! between what is read:
//!
//! ```text
//!                          compacted        current
//! revisions       1   2   3   4   5   6   7   8   9   10
//!                     |       |           |       |   |
//!          Back(7) ---+       |           |       |   +--- Ahead(1)
//!                 Back(5) ----+   Back(2)-+       +------- Current
//! ```
//!
//! About every fourth request fails: an empty key, a lease that is not there, a revision of the
//! future, a key put twice. Every request that is not a hazard (see `Hazards`) is fit for a real
//! etcd server. Some errors need limits that are low enough to be met: a store that takes 12
//! operations in a transaction and less than `BIG_VALUE_BYTES` in a request meets them all.
//!
//! [`Operation`] and its drafts need no feature: a [`Mirror`](crate::Mirror) also runs a sequence
//! that is written by hand. The strategies, `Options`, `Hazards`, `Clock` and `BIG_VALUE_BYTES`
//! need the feature `proptest`, because only they draw anything.
//!
//! The parts: `operation`, what is drawn, and how it becomes a request; `print`, how it reads in
//! a failure; `pools`, the tiny sets; `requests` and `txn`, the strategies; `sequence`, operations
//! and sequences of them.

mod operation;
#[cfg(feature = "proptest")]
mod pools;
mod print;
#[cfg(feature = "proptest")]
mod requests;
#[cfg(feature = "proptest")]
mod sequence;
#[cfg(feature = "proptest")]
mod txn;

pub use operation::{
    At, CompactDraft, CompareDraft, OpDraft, Operation, Pace, RangeDraft, TxnDraft, WatchDraft,
};
#[cfg(feature = "proptest")]
pub use pools::{BIG_VALUE_BYTES, at, key, key_range, lease_id, value};
#[cfg(feature = "proptest")]
pub use requests::{compact, delete, grant, put, range, time_to_live, watch};
#[cfg(feature = "proptest")]
pub use sequence::{Clock, Hazards, Options, operation, operations};
#[cfg(feature = "proptest")]
pub use txn::{compare, txn};
