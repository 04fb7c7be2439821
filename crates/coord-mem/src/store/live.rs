//! The keys that exist: found by hash, walked in order.
//!
//! Most calls name one key, and ought not to cost more where there are more keys. So a key lies in
//! a slot, and what leads there is twofold: a table of hashes for who names it, and a tree for who
//! asks for a range. Putting a key again touches neither.
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
//! Every store hashes in its own way, so that nobody can choose keys that collide. That shows
//! nowhere: the table is only ever asked for a key.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use coord_core::kv::{KeyRange, KeyValue, Revision};
use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use super::past::Past;

/// A key that exists.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) kv: Arc<KeyValue>,
    /// What it was before.
    pub(super) past: Past,
}

impl Live {
    /// The key as it was at `revision`.
    pub(super) fn at(&self, revision: Revision) -> Option<&KeyValue> {
        if self.kv.mod_revision <= revision {
            return Some(&self.kv);
        }
        self.past.at(revision)
    }
}

/// All keys that exist. Invariant: each has one slot, one hash that leads there, and one place in
/// the order.
#[derive(Debug, Default)]
pub(super) struct LiveKeys {
    slots: Slab<Live>,
    by_hash: HashTable<usize>,
    in_order: BTreeMap<Bytes, usize>,
    hasher: DefaultHashBuilder,
}

impl LiveKeys {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Live> {
        Some(&self.slots[self.slot(key)?])
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Live> {
        let slot = self.slot(key)?;
        Some(&mut self.slots[slot])
    }

    fn slot(&self, key: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        self.by_hash.find(hash, |&slot| self.slots[slot].kv.key == key).copied()
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, live: Live) {
        let key = live.kv.key.clone();
        let Self { slots, by_hash, in_order, hasher } = self;
        let hash = hasher.hash_one(&key[..]);
        let slot = slots.insert(live);
        by_hash.insert_unique(hash, slot, |&slot| hasher.hash_one(&slots[slot].kv.key[..]));
        let double = in_order.insert(key, slot);
        debug_assert!(double.is_none(), "a key that exists was added");
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<(Bytes, Live)> {
        let Self { slots, by_hash, in_order, hasher } = self;
        let found =
            by_hash.find_entry(hasher.hash_one(key), |&slot| slots[slot].kv.key == key).ok()?;
        let live = slots.remove(found.remove().0);
        let (key, _) = in_order.remove_entry(key).expect("every key has its place in the order");
        Some((key, live))
    }

    /// The keys of a range, in order.
    pub(super) fn range(&self, keys: &KeyRange) -> impl Iterator<Item = (&Bytes, &Live)> {
        slice(&self.in_order, keys).map(|(key, &slot)| (key, &self.slots[slot]))
    }
}

/// The entries of a map whose keys are in the range.
pub(super) fn slice<'a, V>(
    map: &'a BTreeMap<Bytes, V>,
    keys: &KeyRange,
) -> impl Iterator<Item = (&'a Bytes, &'a V)> {
    let end = keys.upper_bound().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
    let start = Bound::Included(&keys.start()[..]);
    // An inverted range is asked for now and then; the map would panic on it.
    (!keys.is_empty()).then(|| map.range::<[u8], _>((start, end))).into_iter().flatten()
}
