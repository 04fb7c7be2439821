//! Live keys, the keys that exist: a hash table for single keys, an ordered map for ranges.
//!
//! Most calls name one key, and their cost must not grow with the number of keys. So each key is
//! stored in a slot of a slab, and two indexes lead to the slot: a hash table for calls that name
//! one key, and an ordered map for calls that name a range. Putting a key that exists changes
//! neither index.
//!
//! ```text
//!              slots                by hash          in order
//! put b        0: b@2               #b → 0           b → 0
//! put a        0: b@2  1: a@3       #b → 0  #a → 1   a → 1  b → 0
//! put b        0: b@4  1: a@3       (the same)       (the same)
//! delete b             1: a@3       #a → 1           a → 1
//! put c        0: c@6  1: a@3       #a → 1  #c → 0   a → 1  c → 0
//! ```
//!
//! The hasher of every store has random keys, so that a client cannot choose keys that collide.
//! This does not affect determinism, because nothing iterates over the hash table.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use coord_core::kv::{KeyRange, KeyValue, Revision};
use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use super::history::History;

/// A key that exists, with its current version and its history.
#[derive(Clone, Debug)]
pub(super) struct LiveKey {
    pub(super) kv: Arc<KeyValue>,
    /// The earlier versions of the key.
    pub(super) history: History,
}

impl LiveKey {
    /// The key as it was at `revision`.
    pub(super) fn kv_at(&self, revision: Revision) -> Option<&KeyValue> {
        if self.kv.mod_revision <= revision {
            return Some(&self.kv);
        }
        self.history.kv_at(revision)
    }
}

/// All keys that exist. Invariant: each key has one slot, one entry in `by_hash` and one in
/// `in_order`.
#[derive(Clone, Debug, Default)]
pub(super) struct LiveKeys {
    slots: Slab<LiveKey>,
    by_hash: HashTable<usize>,
    in_order: BTreeMap<Bytes, usize>,
    hasher: DefaultHashBuilder,
}

impl LiveKeys {
    pub(super) fn get(&self, key: &[u8]) -> Option<&LiveKey> {
        Some(&self.slots[self.slot(key)?])
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut LiveKey> {
        let slot = self.slot(key)?;
        Some(&mut self.slots[slot])
    }

    /// The slot of a key.
    fn slot(&self, key: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        self.by_hash.find(hash, |&slot| self.slots[slot].kv.key == key).copied()
    }

    /// Adds a key that does not exist yet.
    pub(super) fn insert(&mut self, live: LiveKey) {
        let key = live.kv.key.clone();
        let Self { slots, by_hash, in_order, hasher } = self;
        let hash = hasher.hash_one(&key[..]);
        let slot = slots.insert(live);
        by_hash.insert_unique(hash, slot, |&slot| hasher.hash_one(&slots[slot].kv.key[..]));
        let previous = in_order.insert(key, slot);
        debug_assert!(previous.is_none(), "the inserted key already exists");
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<(Bytes, LiveKey)> {
        let Self { slots, by_hash, in_order, hasher } = self;
        let found =
            by_hash.find_entry(hasher.hash_one(key), |&slot| slots[slot].kv.key == key).ok()?;
        let live = slots.remove(found.remove().0);
        let (key, _) =
            in_order.remove_entry(key).expect("every live key has an entry in `in_order`");
        Some((key, live))
    }

    /// The keys of a range, in key order.
    pub(super) fn range(&self, keys: &KeyRange) -> impl Iterator<Item = (&Bytes, &LiveKey)> {
        entries_in_range(&self.in_order, keys).map(|(key, &slot)| (key, &self.slots[slot]))
    }
}

/// The entries of a map whose keys are in the range.
pub(super) fn entries_in_range<'a, V>(
    map: &'a BTreeMap<Bytes, V>,
    keys: &KeyRange,
) -> impl Iterator<Item = (&'a Bytes, &'a V)> {
    let end = keys.upper_bound().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
    let start = Bound::Included(&keys.start()[..]);
    // Callers may request an inverted range, on which `BTreeMap::range` would panic.
    (!keys.is_empty()).then(|| map.range::<[u8], _>((start, end))).into_iter().flatten()
}
