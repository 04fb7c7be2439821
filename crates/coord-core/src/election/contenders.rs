//! The contenders of an election as of one revision, by age.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{Event, EventKind, KeyValue, Revision};

/// The contenders of an election, followed event by event. The oldest leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contenders {
    by_age: BTreeMap<(Revision, Bytes), KeyValue>,
    /// When each key was created.
    created: BTreeMap<Bytes, Revision>,
}

impl Contenders {
    /// The contender that leads: of those that were created together, the first in key order.
    pub(super) fn first(&self) -> Option<&KeyValue> {
        self.by_age.first_key_value().map(|(_, kv)| kv)
    }

    pub(super) fn insert(&mut self, kv: KeyValue) {
        self.remove(&kv.key);
        self.created.insert(kv.key.clone(), kv.create_revision);
        self.by_age.insert((kv.create_revision, kv.key.clone()), kv);
    }

    /// Follows one change.
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
