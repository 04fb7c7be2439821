//! The keys that an admission rule depends on, and a local copy of the keys ahead of one contender.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{
    Compare, CompareOp, EventKind, KeyRange, KeyValue, Range, RangeResponse, Revision, WatchBatch,
};
use crate::queue::QueueKeys;

/// The keys that a rule depends on: the keys of one or more queues, and perhaps one further key,
/// the *setting*, whatever its create revision.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    queues: Vec<QueueKeys>,
    setting: Option<Bytes>,
}

impl Scope {
    /// The keys of `queues`.
    pub(crate) fn of_queues(queues: impl IntoIterator<Item = QueueKeys>) -> Self {
        Self { queues: queues.into_iter().collect(), setting: None }
    }

    /// Adds the setting.
    pub(crate) fn with_setting(self, setting: Bytes) -> Self {
        Self { setting: Some(setting), ..self }
    }

    /// The reads of the scope: the setting, then the keys of each queue, with a create revision of
    /// at most `until` if it is given.
    pub(crate) fn reads(&self, until: Option<Revision>) -> Vec<Range> {
        let queues = self.queues.iter().map(|keys| {
            let all = Range::new(keys.range());
            until.map_or(all.clone(), |until| all.max_create_revision(until))
        });
        self.setting.iter().map(Range::new).chain(queues).collect()
    }

    /// The key of the setting, if there is one.
    pub(super) const fn setting(&self) -> Option<&Bytes> {
        self.setting.as_ref()
    }

    /// The smallest interval that has all keys of the queues. It can have further keys.
    pub(super) fn interval(&self) -> KeyRange {
        let ranges: Vec<_> = self.queues.iter().map(QueueKeys::range).collect();
        let start = ranges.iter().map(KeyRange::start).min().cloned().unwrap_or_default();
        let end = ranges.iter().map(KeyRange::range_end).max().cloned().unwrap_or_default();
        KeyRange::between(start, end)
    }

    /// The condition that the ranges of the queues have no key.
    pub(crate) fn is_empty(&self) -> Vec<Compare> {
        self.queues.iter().map(|keys| Compare::absent(keys.range())).collect()
    }

    /// The condition that no key in the ranges of the queues was put after `revision`. A deletion
    /// does not violate it.
    pub(crate) fn no_put_since(&self, revision: Revision) -> Vec<Compare> {
        let next = revision.next();
        let compare = |keys: &QueueKeys| Compare::mod_revision(keys.range(), CompareOp::Less, next);
        self.queues.iter().map(compare).collect()
    }

    fn owns(&self, key: &[u8]) -> bool {
        self.queues.iter().any(|keys| keys.owns(key))
    }
}

/// The keys of a scope that are ahead of a contender, as of one revision, and the setting, as of
/// the same or another one: two watches may deliver their events in any order.
#[derive(Debug)]
pub(crate) struct Ahead {
    scope: Scope,
    /// The create revision of the contender's key: keys with a smaller one are ahead.
    own: Revision,
    revision: Revision,
    keys: BTreeMap<Bytes, KeyValue>,
    setting: Option<KeyValue>,
    setting_revision: Revision,
}

impl Ahead {
    /// The keys in the responses to [`Scope::reads`], as of `revision`.
    pub(crate) fn read(
        scope: &Scope,
        own: Revision,
        revision: Revision,
        reads: impl IntoIterator<Item = RangeResponse>,
    ) -> Self {
        let (keys, setting) = (BTreeMap::new(), None);
        let (scope, setting_revision) = (scope.clone(), revision);
        let mut ahead = Self { scope, own, revision, keys, setting, setting_revision };
        for kv in reads.into_iter().flat_map(|read| read.kvs) {
            ahead.put(kv);
        }
        ahead
    }

    /// All keys of a scope, for a caller without a key of its own.
    pub(crate) fn all(
        scope: &Scope,
        revision: Revision,
        reads: impl IntoIterator<Item = RangeResponse>,
    ) -> Self {
        Self::read(scope, Revision(i64::MAX), revision, reads)
    }

    /// The revision of the keys.
    pub(crate) const fn revision(&self) -> Revision {
        self.revision
    }

    /// The keys ahead, in key order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &KeyValue> {
        self.keys.values()
    }

    /// The setting, if it exists.
    pub(crate) const fn setting(&self) -> Option<&KeyValue> {
        self.setting.as_ref()
    }

    /// Applies the events of one revision, of the queues. Returns whether they have changed the
    /// state.
    ///
    /// A batch that is not newer than the state is in the state already: a watch from now on may be
    /// served by a member that is behind the read.
    pub(super) fn apply(&mut self, batch: WatchBatch) -> bool {
        if batch.revision <= self.revision {
            return false;
        }
        self.revision = batch.revision;
        let mut is_changed = false;
        for event in batch.events {
            is_changed |= match event.kind {
                EventKind::Put => self.put(event.kv),
                EventKind::Delete => self.delete(&event.kv.key),
            };
        }
        is_changed
    }

    /// Applies the events of one revision, of the setting. Returns whether they have changed it.
    pub(super) fn apply_to_setting(&mut self, batch: WatchBatch) -> bool {
        if batch.revision <= self.setting_revision {
            return false;
        }
        self.setting_revision = batch.revision;
        let Some(last) = batch.events.into_iter().next_back() else { return false };
        self.setting = (last.kind == EventKind::Put).then_some(last.kv);
        true
    }

    /// Notes that a key has this value. Returns whether that has changed the state.
    fn put(&mut self, kv: KeyValue) -> bool {
        if self.scope.setting.as_ref() == Some(&kv.key) {
            self.setting = Some(kv);
            return true;
        }
        if !self.scope.owns(&kv.key) {
            return false;
        }
        if kv.create_revision < self.own {
            self.keys.insert(kv.key.clone(), kv);
            return true;
        }
        // The key was deleted and created again, behind the contender.
        self.keys.remove(&kv.key).is_some()
    }

    fn delete(&mut self, key: &Bytes) -> bool {
        self.keys.remove(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Event;

    fn kv(key: &'static str, value: &'static str, create_revision: i64) -> KeyValue {
        let create_revision = Revision(create_revision);
        KeyValue { key: key.into(), value: value.into(), create_revision, ..KeyValue::default() }
    }

    fn event(kind: EventKind, kv: KeyValue) -> Event {
        Event { kind, kv, prev_kv: None }
    }

    fn scope() -> Scope {
        Scope::of_queues([QueueKeys::new("s/permits")]).with_setting("coord/limit/s".into())
    }

    /// The contender was created at 7; the state is as of 9.
    fn ahead() -> Ahead {
        let kvs = vec![
            kv("s/permits/a-1", "1", 5),
            kv("s/permits/c-1", "1", 7),
            kv("s/permits/d-1", "1", 8),
            kv("s/permits/below/e-1", "1", 3),
        ];
        let read = RangeResponse { kvs, ..RangeResponse::default() };
        Ahead::read(&scope(), Revision(7), Revision(9), [read])
    }

    fn names(ahead: &Ahead) -> Vec<&[u8]> {
        ahead.keys().map(|kv| &kv.key[..]).collect()
    }

    #[test]
    fn keys_behind_and_keys_of_child_names_are_not_ahead() {
        let mut ahead = ahead();
        assert_eq!(names(&ahead), [b"s/permits/a-1"]);
        let behind = event(EventKind::Put, kv("s/permits/f-1", "1", 10));
        let batch = WatchBatch { revision: Revision(10), events: vec![behind] };
        assert!(!ahead.apply(batch));
        assert_eq!(ahead.revision(), Revision(10));
    }

    #[test]
    fn events_up_to_the_revision_of_the_state_are_ignored() {
        let mut ahead = ahead();
        let deletion = || event(EventKind::Delete, kv("s/permits/a-1", "", 0));
        let batch =
            |revision| WatchBatch { revision: Revision(revision), events: vec![deletion()] };
        assert!(!ahead.apply(batch(9)), "the read has shown a key that was created again");
        assert!(ahead.apply(batch(10)));
        assert_eq!(names(&ahead), [b""; 0]);
    }

    #[test]
    fn key_that_is_created_again_is_not_ahead_any_more() {
        let mut ahead = ahead();
        let again = event(EventKind::Put, kv("s/permits/a-1", "1", 11));
        assert!(ahead.apply(WatchBatch { revision: Revision(11), events: vec![again] }));
        assert_eq!(names(&ahead), [b""; 0]);
    }

    /// Events of the queues and of the setting are delivered in any order.
    #[test]
    fn setting_has_a_revision_of_its_own() {
        let mut ahead = ahead();
        let setting = |kind, value| event(kind, kv("coord/limit/s", value, 12));
        let batch =
            |revision, event| WatchBatch { revision: Revision(revision), events: vec![event] };
        assert!(ahead.apply(batch(14, event(EventKind::Delete, kv("s/permits/a-1", "", 0)))));
        assert!(!ahead.apply_to_setting(batch(9, setting(EventKind::Put, "2"))), "in the read");
        assert!(ahead.apply_to_setting(batch(12, setting(EventKind::Put, "3"))));
        assert_eq!(ahead.setting().map(|kv| &kv.value[..]), Some(&b"3"[..]));
        assert!(ahead.apply_to_setting(batch(13, setting(EventKind::Delete, ""))));
        assert!(ahead.setting().is_none());
    }

    #[test]
    fn interval_of_a_scope_has_all_its_queues() {
        assert_eq!(scope().interval(), KeyRange::prefix("s/permits/"), "without the setting");
        let both = Scope::of_queues(["s/read", "s/write"].map(QueueKeys::new));
        assert_eq!(both.interval(), KeyRange::between("s/read/", "s/write0"));
        let one = Scope::of_queues([QueueKeys::new("s/write")]);
        assert_eq!(one.interval(), KeyRange::prefix("s/write/"));
    }
}
