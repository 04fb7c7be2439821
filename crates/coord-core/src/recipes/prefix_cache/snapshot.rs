//! Snapshots of a cached prefix, and the differences between two of them.
//!
//! The map is *persistent*: a clone shares all nodes with the original, and a change copies the
//! nodes on the path to the key. So the task of the cache, its readers and each subscriber can keep
//! a map of their own.
//!
//! ```text
//! snapshot at 5         changes of revision 6         snapshot at 6
//! a = 1  (mod 3)        a: 1 -> 2                     a = 2  (mod 6)
//! b = 1  (mod 5)        b: 1 -> absent
//!                       c: absent -> 1                c = 1  (mod 6)
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;
use std::{fmt, mem};

use bytes::Bytes;

use crate::error::Result;
use crate::kv::{Event, EventKind, IntoBytes, KeyValue, Revision, Value};
use crate::stm::invalid;

/// How many keys a node of the map has: a change copies the node. With 32 keys a change is six
/// times as fast as with 512, and a read as fast.
const NODE_SIZE: usize = 32;

/// What an entry needs beside its key and value, in bytes: the entry itself, with its share of
/// the node, and two allocations.
const ENTRY_BYTES: usize = 256;

/// A persistent ordered map.
pub(super) type Map = immutable_chunkmap::map::Map<Bytes, KeyValue, NODE_SIZE>;

/// The keys of a cached prefix, as of one revision. A clone is cheap: it shares the keys.
#[derive(Clone)]
pub struct PrefixSnapshot {
    pub(super) revision: Revision,
    pub(super) map: Map,
}

impl PrefixSnapshot {
    /// Returns the revision: the snapshot has every change up to it, and none after it.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns a key with its value; `None` if it does not exist.
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&KeyValue> {
        self.map.get(key.as_ref())
    }

    /// Returns the decoded value of a key; `None` if the key does not exist.
    ///
    /// # Errors
    /// `InvalidValue` if the bytes are not a value of the type.
    pub fn get_as<V: Value>(&self, key: impl AsRef<[u8]>) -> Result<Option<V>> {
        self.get(key).map(decode).transpose()
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Returns the keys, in key order.
    pub fn iter(&self) -> impl Iterator<Item = &KeyValue> {
        self.map.into_iter().map(|(_, kv)| kv)
    }

    /// Returns the keys that start with `prefix`, in key order.
    pub fn with_prefix(&self, prefix: impl IntoBytes) -> impl Iterator<Item = &KeyValue> {
        let prefix = prefix.into_bytes();
        let from = (Bound::Included(prefix.clone()), Bound::Unbounded);
        let keys = self.map.range::<Bytes, _>(from).map(|(_, kv)| kv);
        keys.take_while(move |kv| kv.key.starts_with(&prefix))
    }
}

/// Decodes the value of a key.
pub(super) fn decode<V: Value>(kv: &KeyValue) -> Result<V> {
    V::decode(kv.value.clone()).map_err(|error| invalid(&kv.key, error))
}

/// Two snapshots are equal if they have the same keys as of the same revision.
impl PartialEq for PrefixSnapshot {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision && self.iter().eq(other.iter())
    }
}

impl Eq for PrefixSnapshot {}

impl fmt::Debug for PrefixSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrefixSnapshot({} keys at revision {})", self.len(), self.revision)
    }
}

/// The difference of one key between two revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyChange {
    /// The key.
    pub key: Bytes,
    /// The key before the change; `None` if it did not exist.
    pub before: Option<KeyValue>,
    /// The key after the change; `None` if it does not exist any more.
    pub after: Option<KeyValue>,
}

/// The followed keys, as the task of the cache changes them.
#[derive(Clone, Default)]
pub(super) struct Keys {
    pub(super) map: Map,
    /// The memory that the keys need, estimated.
    pub(super) bytes: usize,
    /// The changes of the last batch of events, in key order.
    changes: Vec<KeyChange>,
}

impl Keys {
    /// Adds a key that was read, or replaces it.
    pub(super) fn insert(&mut self, kv: KeyValue) -> Option<KeyValue> {
        self.bytes += size(&kv);
        let before = self.map.insert_cow(kv.key.clone(), kv);
        self.bytes -= before.as_ref().map_or(0, size);
        before
    }

    fn remove(&mut self, key: &Bytes) -> Option<KeyValue> {
        let before = self.map.remove_cow(key);
        self.bytes -= before.as_ref().map_or(0, size);
        before
    }

    /// Applies the events of one revision. Several events of a key are one change.
    pub(super) fn apply(&mut self, events: Vec<Event>) {
        let mut changes = BTreeMap::<Bytes, KeyChange>::new();
        for Event { kind, kv, .. } in events {
            let (key, after) = (kv.key.clone(), (kind == EventKind::Put).then(|| kv.clone()));
            let before = if after.is_some() { self.insert(kv) } else { self.remove(&key) };
            let change =
                changes.entry(key.clone()).or_insert(KeyChange { key, before, after: None });
            change.after = after;
        }
        self.changes.extend(changes.into_values().filter(|change| change.before != change.after));
    }

    /// Takes the changes of the last batch.
    pub(super) fn take_changes(&mut self) -> Vec<KeyChange> {
        mem::take(&mut self.changes)
    }
}

fn size(kv: &KeyValue) -> usize {
    kv.key.len() + kv.value.len() + ENTRY_BYTES
}

/// The differences between two maps, in key order.
pub(super) fn differences(before: &Map, after: &Map) -> Vec<KeyChange> {
    let (mut old, mut new) = (before.into_iter().peekable(), after.into_iter().peekable());
    let mut changes = Vec::new();
    loop {
        let (key, before, after) = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some((a, _)), Some((b, _))) if a == b => {
                let (before, after) = (old.next(), new.next());
                (before.map(|(key, _)| key), before, after)
            }
            (Some((a, _)), other) if other.is_none_or(|(b, _)| a < b) => {
                let before = old.next();
                (before.map(|(key, _)| key), before, None)
            }
            _ => {
                let after = new.next();
                (after.map(|(key, _)| key), None, after)
            }
        };
        let (before, after) = (before.map(|(_, kv)| kv), after.map(|(_, kv)| kv));
        if let Some(key) = key.filter(|_| before != after) {
            let (before, after) = (before.cloned(), after.cloned());
            changes.push(KeyChange { key: key.clone(), before, after });
        }
    }
}
