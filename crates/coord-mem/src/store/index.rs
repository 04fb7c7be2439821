//! Key index: the current version of every key, and its history since the last compaction.
//!
//! Live keys, the keys that exist, are stored separately from deleted keys, so that reading current
//! keys never visits deleted ones: a lock that was acquired a million times leaves a million
//! tombstones, which the next contender must not read. The example of `coord_core::kv`:
//!
//! ```text
//!                         live                          deleted
//! 2  put a = x            a: x@2
//! 3  put b = y            a: x@2        b: y@3
//! 4  put a = x            a: x@4 ‹x@2›  b: y@3
//! 5  delete a                           b: y@3          a: ‹x@2 x@4 †5›
//! 6  put a = z, put c     a: z@6 ‹x@2 x@4 †5›  b: y@3  c: z@6
//! compact at 4            a: z@6 ‹x@4 †5›      b: y@3  c: z@6
//! compact at 5            a: z@6               b: y@3  c: z@6
//! ```
//!
//! ‹ › encloses a key's history, oldest first; † is a deletion. Compacting at revision C keeps, of
//! each key, the versions that can be read at C or later: a deletion at or before C is dropped,
//! with all versions before it.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use coord_core::kv::{KeyRange, KeyValue, Revision};

use super::history::History;
use super::live::{LiveKey, LiveKeys, entries_in_range};

/// All keys, with their history since the last compaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    live: LiveKeys,
    /// Keys that do not exist now. Invariant: none of them is in `live`, and each history ends with
    /// a deletion.
    deleted: BTreeMap<Bytes, History>,
}

impl Index {
    /// The key as it is now.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.live.get(key).map(|live| &*live.kv)
    }

    /// The key as it was at `revision`.
    pub(crate) fn get_at(&self, key: &[u8], revision: Revision) -> Option<&KeyValue> {
        match self.live.get(key) {
            Some(live) => live.kv_at(revision),
            None => self.deleted.get(key)?.kv_at(revision),
        }
    }

    /// Calls `visit` with every key of the range that exists now, in key order.
    pub(crate) fn visit<'a>(&'a self, keys: &KeyRange, mut visit: impl FnMut(&'a KeyValue)) {
        if keys.is_single() {
            self.get(keys.start()).into_iter().for_each(visit);
        } else {
            self.live.range(keys).for_each(|(_, live)| visit(&live.kv));
        }
    }

    /// Calls `visit` with every key of the range that existed at `revision`, in key order.
    pub(crate) fn visit_at<'a>(
        &'a self,
        keys: &KeyRange,
        revision: Revision,
        mut visit: impl FnMut(&'a KeyValue),
    ) {
        if keys.is_single() {
            self.get_at(keys.start(), revision).into_iter().for_each(visit);
            return;
        }
        let mut live = self.live.range(keys).peekable();
        let mut deleted = entries_in_range(&self.deleted, keys).peekable();
        loop {
            let kv = if live_is_next(&mut live, &mut deleted) {
                live.next().map(|(_, live)| live.kv_at(revision))
            } else {
                deleted.next().map(|(_, history)| history.kv_at(revision))
            };
            match kv {
                Some(Some(kv)) => visit(kv),
                Some(None) => {}
                None => return,
            }
        }
    }

    /// Replaces the current version of the key by the one that `revise` returns. Returns the
    /// previous version, if the key existed, and the new one.
    pub(crate) fn put(
        &mut self,
        key: Bytes,
        revise: impl FnOnce(Bytes, Option<&KeyValue>) -> KeyValue,
    ) -> (Option<Arc<KeyValue>>, Arc<KeyValue>) {
        if let Some(LiveKey { kv, history }) = self.live.get_mut(&key) {
            // `revise` receives the stored key and not the caller's, so that all versions share the
            // bytes of one key.
            let new = Arc::new(revise(kv.key.clone(), Some(kv)));
            let before = std::mem::replace(kv, Arc::clone(&new));
            history.push(Arc::clone(&before));
            return (Some(before), new);
        }
        let kv = Arc::new(revise(key, None));
        let history = self.deleted.remove(&kv.key).unwrap_or_default();
        self.live.insert(LiveKey { kv: Arc::clone(&kv), history });
        (None, kv)
    }

    /// Deletes the key, and returns its last version.
    pub(crate) fn delete(&mut self, key: &[u8], revision: Revision) -> Option<Arc<KeyValue>> {
        let (key, LiveKey { kv, mut history }) = self.live.remove(key)?;
        history.push(Arc::clone(&kv));
        history.push_deletion(revision);
        self.deleted.insert(key, history);
        Some(kv)
    }

    /// Drops the versions of the key that cannot be read at `revision` or later.
    pub(crate) fn compact(&mut self, key: &[u8], revision: Revision) {
        if let Some(live) = self.live.get_mut(key) {
            if live.kv.mod_revision <= revision {
                live.history = History::default();
            } else {
                live.history.compact(revision);
            }
        } else if let Some(history) = self.deleted.get_mut(key) {
            history.compact(revision);
            if history.is_empty() {
                self.deleted.remove(key);
            }
        }
    }
}

/// Whether the next key in key order is a live key.
fn live_is_next<'a, A, B>(
    live: &mut Peekable<impl Iterator<Item = (&'a Bytes, A)>>,
    deleted: &mut Peekable<impl Iterator<Item = (&'a Bytes, B)>>,
) -> bool {
    match (live.peek(), deleted.peek()) {
        (Some((live, _)), Some((deleted, _))) => live < deleted,
        (live, _) => live.is_some(),
    }
}
