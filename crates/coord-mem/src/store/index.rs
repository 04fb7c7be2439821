//! Every key, as it is and as it was.
//!
//! Keys that exist are kept apart from keys that do not exist any more, so that reading what is
//! there never wades through what is gone: a lock that was taken a million times leaves a million
//! tombstones, and its next contender must not read them. The example of `coord_core::kv`:
//!
//! ```text
//!                         live                          gone
//! 2  put a = x            a: x@2
//! 3  put b = y            a: x@2        b: y@3
//! 4  put a = x            a: x@4 ‹x@2›  b: y@3
//! 5  delete a                           b: y@3          a: ‹x@2 x@4 †5›
//! 6  put a = z, put c     a: z@6 ‹x@2 x@4 †5›  b: y@3  c: z@6
//! compact at 4            a: z@6 ‹x@4 †5›      b: y@3  c: z@6
//! compact at 5            a: z@6               b: y@3  c: z@6
//! ```
//!
//! In ‹ › stands what a key was, oldest first; † is a deletion. Compacting at C keeps, of each key,
//! what can still be read at C or later: so a deletion at or before C goes, with all before it.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use coord_core::kv::{KeyRange, KeyValue, Revision};

use super::live::{Live, LiveKeys, slice};
use super::past::Past;

/// All keys with their history since the last compaction.
#[derive(Debug, Default)]
pub(crate) struct Index {
    live: LiveKeys,
    /// Keys that do not exist now. Invariant: none is in `live`, none is empty, and each ends with
    /// a deletion.
    gone: BTreeMap<Bytes, Past>,
}

impl Index {
    /// The key as it is now.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.live.get(key).map(|live| &*live.kv)
    }

    /// The key as it was at `revision`.
    pub(crate) fn get_at(&self, key: &[u8], revision: Revision) -> Option<&KeyValue> {
        match self.live.get(key) {
            Some(live) => live.at(revision),
            None => self.gone.get(key)?.at(revision),
        }
    }

    /// Calls `visit` with every key of the range, in key order, as it is now.
    pub(crate) fn visit<'a>(&'a self, keys: &KeyRange, mut visit: impl FnMut(&'a KeyValue)) {
        if keys.is_single() {
            self.get(keys.start()).into_iter().for_each(visit);
        } else {
            self.live.range(keys).for_each(|(_, live)| visit(&live.kv));
        }
    }

    /// Calls `visit` with every key of the range, in key order, as it was at `revision`.
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
        let mut gone = slice(&self.gone, keys).peekable();
        loop {
            let kv = if live_is_next(&mut live, &mut gone) {
                live.next().map(|(_, live)| live.at(revision))
            } else {
                gone.next().map(|(_, past)| past.at(revision))
            };
            match kv {
                Some(Some(kv)) => visit(kv),
                Some(None) => {}
                None => return,
            }
        }
    }

    /// Makes the key what `revise` makes of what it is, and returns what it was and what it is.
    pub(crate) fn put(
        &mut self,
        key: Bytes,
        revise: impl FnOnce(Bytes, Option<&KeyValue>) -> KeyValue,
    ) -> (Option<Arc<KeyValue>>, Arc<KeyValue>) {
        if let Some(Live { kv, past }) = self.live.get_mut(&key) {
            // Not the one that was given, so that all that a key was shares its bytes.
            let now = Arc::new(revise(kv.key.clone(), Some(kv)));
            let before = std::mem::replace(kv, Arc::clone(&now));
            past.push(Arc::clone(&before));
            return (Some(before), now);
        }
        let kv = Arc::new(revise(key, None));
        let past = self.gone.remove(&kv.key).unwrap_or_default();
        self.live.insert(Live { kv: Arc::clone(&kv), past });
        (None, kv)
    }

    /// Deletes the key and returns what it was.
    pub(crate) fn delete(&mut self, key: &[u8], revision: Revision) -> Option<Arc<KeyValue>> {
        let (key, Live { kv, mut past }) = self.live.remove(key)?;
        past.push(Arc::clone(&kv));
        past.push_deletion(revision);
        self.gone.insert(key, past);
        Some(kv)
    }

    /// Forgets what the key was before `revision`, but for what can still be read then.
    pub(crate) fn compact(&mut self, key: &[u8], revision: Revision) {
        if let Some(live) = self.live.get_mut(key) {
            if live.kv.mod_revision <= revision {
                live.past = Past::default();
            } else {
                live.past.forget(revision);
            }
        } else if let Some(past) = self.gone.get_mut(key) {
            past.forget(revision);
            if past.is_empty() {
                self.gone.remove(key);
            }
        }
    }
}

/// Whether the next key in order is one that exists.
fn live_is_next<'a, A, B>(
    live: &mut Peekable<impl Iterator<Item = (&'a Bytes, A)>>,
    gone: &mut Peekable<impl Iterator<Item = (&'a Bytes, B)>>,
) -> bool {
    match (live.peek(), gone.peek()) {
        (Some((live, _)), Some((gone, _))) => live < gone,
        (live, _) => live.is_some(),
    }
}
