//! Transactions in a history: what each attempt has read and written, and what the store has
//! changed.
//!
//! An attempt is one event, at the time of its end. It has what the isolation checker needs, and no
//! order of its reads:
//!
//! ```text
//! attempt 1 of transaction 7 reads x@3, y absent; puts x; committed at revision 9
//! the store changes x at revision 9
//! ```
//!
//! The changes of the store are the *ground truth*: they show in which revision each key was put or
//! deleted, also by clients whose transactions are not recorded, and whether an attempt with an
//! unknown outcome was applied.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use coord_core::kv::{Event, EventKind, Revision, WatchBatch};
pub use coord_core::recording::{Attempt, AttemptEnd, KeyRead, KeyWrite, RangeRead};

/// The changes of the store in one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreChange {
    /// The revision.
    pub revision: Revision,
    /// The keys that were put or deleted, each once, in key order.
    pub writes: Vec<KeyWrite>,
}

impl From<WatchBatch> for StoreChange {
    /// The change of a batch with all keys of its revision. Of each key it has the last write: one
    /// transaction may delete a key and put it again.
    fn from(WatchBatch { revision, events }: WatchBatch) -> Self {
        let mut writes = BTreeMap::<Bytes, Option<Bytes>>::new();
        for Event { kind, kv, .. } in events {
            writes.insert(kv.key, (kind == EventKind::Put).then_some(kv.value));
        }
        let writes = writes.into_iter().map(|(key, value)| KeyWrite { key, value }).collect();
        Self { revision, writes }
    }
}

impl fmt::Display for StoreChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}", self.revision)?;
        self.writes
            .iter()
            .enumerate()
            .try_for_each(|(i, write)| write!(f, "{}{write}", if i == 0 { " " } else { ", " }))
    }
}
