//! What a checker still knows of the transactions that it has forgotten.
//!
//! A checker with a window forgets all transactions up to a revision, the *boundary*. Of each key
//! it keeps the version that is current at the boundary:
//!
//! ```text
//! revision    1      2      3 boundary     4      5
//! key x       put                          put
//! key y       put    put                          put
//! kept        x@1    y@2
//! ```
//!
//! A read of y@1 that comes later cannot be joined to its version, and is counted.

use std::ops::RangeInclusive;

use hashbrown::HashMap;

use super::log::KeyId;
use super::versions::{Origin, Version};

/// What is known of a key beyond its current version.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyMarks {
    /// Whether a version that only a read shows was forgotten: another client has written the key.
    pub(super) has_unknown_writes: bool,
    /// Whether a version that no committed attempt claims was forgotten.
    pub(super) has_unclaimed: bool,
}

/// What is known of forgotten transactions. By default, nothing is forgotten.
#[derive(Debug, Default)]
pub(super) struct Base {
    /// Whether only a part of the history is checked: there may be more before and after it.
    pub(super) is_partial: bool,
    /// The boundary; 0 if nothing is forgotten.
    pub(super) boundary: i64,
    /// The version of each key at the boundary. It has no writer.
    pub(super) versions: Vec<Version>,
    /// The marks of the keys, by number. Keys after the last one have none.
    marks: Vec<KeyMarks>,
    /// The revisions whose changes are known.
    pub(super) changes: Option<RangeInclusive<i64>>,
    /// The lowest revision that a recorded transaction or a known change has written.
    pub(super) first_revision: Option<i64>,
    /// When the first attempt of each transaction began that may be attempted again.
    pub(super) begins: HashMap<u64, u64>,
}

impl Base {
    /// The base of the first part of a history.
    pub(super) fn partial() -> Self {
        Self { is_partial: true, ..Self::default() }
    }

    pub(super) fn marks(&self, key: KeyId) -> KeyMarks {
        self.marks.get(key as usize).copied().unwrap_or_default()
    }

    /// Marks the key of a forgotten version that no committed attempt claims.
    pub(super) fn mark_unclaimed(&mut self, version: &Version) {
        let key = version.key as usize;
        if self.marks.len() <= key {
            self.marks.resize(key + 1, KeyMarks::default());
        }
        self.marks[key].has_unclaimed = true;
        self.marks[key].has_unknown_writes |= version.origin == Origin::Read;
    }
}
