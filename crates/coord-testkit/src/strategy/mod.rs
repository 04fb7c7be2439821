//! Random operations on a store, for differential and property tests.
//!
//! Such tests need operations on the same keys: with random keys out of millions, two operations
//! never concern the same key, and no interesting case occurs. Keys, values and leases are
//! therefore drawn from tiny sets: six keys, a few values, three leases. Except for a few extreme
//! values, every revision is *relative* to the store's revision when the operation is run ([`At`]),
//! so that a historic read hits retained history, and a compaction falls between the revisions that
//! are read:
//!
//! ```text
//!                          compacted        current
//! revisions       1   2   3   4   5   6   7   8   9   10
//!                     |       |           |       |   |
//!          Back(7) ---+       |           |       |   +--- Ahead(1)
//!                 Back(5) ----+   Back(2)-+       +------- Current
//! ```
//!
//! About every fourth request fails: an empty key, a missing lease, a future revision, a key that
//! is put twice. Every request that is not a hazard (see `Hazards`) is safe to send to a real etcd
//! cluster of one member. Some errors are likely only if the store's limits are low enough: at most
//! 12 operations in a transaction, and less than `BIG_VALUE_BYTES` in a request.
//!
//! [`Operation`] and its drafts need no feature, because a [`Mirror`](crate::Mirror) also runs
//! sequences written by hand. The strategies, `Options`, `Hazards`, `Clock` and `BIG_VALUE_BYTES`
//! need the feature `proptest`.
//!
//! Modules: `operation`, the operations, and how a draft is resolved to a request; `print`, the
//! text of operations in a failure report; `pools`, the tiny sets; `requests` and `txn`, the
//! strategies of single requests; `sequence`, the strategies of operations and of sequences of
//! operations.

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

#[cfg(feature = "proptest")]
pub use crate::clock::Clock;
pub use operation::{
    At, CompactDraft, CompareDraft, OpDraft, Operation, Pace, RangeDraft, TxnDraft, WatchDraft,
};
#[cfg(feature = "proptest")]
pub use pools::{BIG_VALUE_BYTES, at, key, key_range, lease_id, value};
#[cfg(feature = "proptest")]
pub use requests::{compact, delete, grant, put, range, time_to_live, watch};
#[cfg(feature = "proptest")]
pub use sequence::{Hazards, Options, operation, operations};
#[cfg(feature = "proptest")]
pub use txn::{compare, txn};
