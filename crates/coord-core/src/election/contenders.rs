//! The contenders of an election as of one revision, in the order of their create revisions.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{Event, EventKind, KeyValue, Revision};

/// The contenders of an election, updated by each event. The contender with the smallest create
/// revision leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contenders {
    /// By create revision and key.
    by_age: BTreeMap<(Revision, Bytes), KeyValue>,
    /// The create revision of each key.
    created: BTreeMap<Bytes, Revision>,
}

impl Contenders {
    /// The contender that leads. Of keys with one create revision, the first in key order leads.
    pub(super) fn first(&self) -> Option<&KeyValue> {
        self.by_age.first_key_value().map(|(_, kv)| kv)
    }

    /// Adds a contender, or replaces the contender of the same key.
    pub(super) fn insert(&mut self, kv: KeyValue) {
        self.remove(&kv.key);
        self.created.insert(kv.key.clone(), kv.create_revision);
        self.by_age.insert((kv.create_revision, kv.key.clone()), kv);
    }

    /// Applies one event.
    pub(super) fn apply(&mut self, event: Event) {
        match event.kind {
            EventKind::Put => self.insert(event.kv),
            EventKind::Delete => self.remove(&event.kv.key),
        }
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some(created) = self.created.remove(key) {
            self.by_age.remove(&(created, key.clone()));
        }
    }
}
