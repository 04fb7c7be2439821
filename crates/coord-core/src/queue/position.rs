//! The position of a contender: what is known of the contenders before it.
//!
//! A queue entry is a key and the revision that created it; entries are ordered by that revision.
//! No contender ever enqueues before another, so the predecessors of a contender only become fewer.
//! A contender that has read all of them needs no further read of the queue: single reads of their
//! keys show which are left, so the store need not sort a queue of a thousand for the second in it.
//! Of more than [`NEAREST`] predecessors only the nearest are remembered, and when those are gone
//! the queue is read again.
//!
//! ```text
//! create revision   key                                position of 18           position of 31
//!              12   jobs/1-1                           {[17, 12], complete}
//!              15   jobs/night/9-2  (another queue)
//!              17   jobs/3-1
//!              18   jobs/4-9
//!         20 to 30   …
//!              31   jobs/7-1                                                    {[30, 29, 28, 27]}
//! ```

use std::cmp::Ordering;

use bytes::Bytes;

use super::keys::{NEAREST, QueueKeys};
use crate::kv::{KeyValue, LeaseId, RangeResponse, Revision};

/// A key of a queue, in the life that began at a revision. Two entries are equal that have the same
/// key and create revision: a client that overwrites the key without its lease changes neither.
#[derive(Clone, Debug)]
pub(super) struct QueueEntry {
    pub(super) key: Bytes,
    pub(super) created: Revision,
    lease: Option<LeaseId>,
}

impl QueueEntry {
    /// The entry of a contender.
    pub(super) const fn new(key: Bytes, created: Revision, lease: LeaseId) -> Self {
        Self { key, created, lease: Some(lease) }
    }

    /// The entry that a key is now.
    pub(super) fn of(kv: &KeyValue) -> Self {
        Self { key: kv.key.clone(), created: kv.create_revision, lease: kv.lease }
    }

    /// Whether no contender can have created the key: it has no lease, or its name is not made from
    /// its lease.
    pub(super) fn is_foreign(&self) -> bool {
        self.lease.is_none_or(|lease| {
            let id = self.key.rsplit(|byte| *byte == b'/').next();
            let suffix = id.and_then(|id| id.strip_prefix(lease.to_string().as_bytes()));
            suffix.is_none_or(|suffix| !suffix.is_empty() && !suffix.starts_with(b"-"))
        })
    }
}

impl PartialEq for QueueEntry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for QueueEntry {}

impl PartialOrd for QueueEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for QueueEntry {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.key, self.created).cmp(&(&other.key, other.created))
    }
}

/// What a contender knows of its predecessors, as of the last time its own key was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The nearest predecessors, nearest first.
    pub(super) predecessors: Vec<QueueEntry>,
    /// Whether these are all predecessors.
    pub(super) complete: bool,
}

impl Position {
    /// First in the queue.
    pub(super) const FIRST: Self = Self { predecessors: Vec::new(), complete: true };

    /// The position that a read of the queue shows, newest first and up to the contender's own key;
    /// `None` if that key is not in it: the contender was evicted.
    pub(super) fn read(keys: &QueueKeys, own: &QueueEntry, read: &RangeResponse) -> Option<Self> {
        let mut kvs = read.kvs.iter();
        if kvs.next().map(QueueEntry::of).as_ref() != Some(own) {
            return None;
        }
        let mut owned = kvs.filter(|kv| keys.owns(&kv.key)).map(QueueEntry::of);
        let predecessors: Vec<_> = owned.by_ref().take(NEAREST).collect();
        let complete = !read.more && owned.next().is_none();
        Some(Self { predecessors, complete })
    }

    /// Whether the contender is first.
    pub(super) const fn is_first(&self) -> bool {
        self.complete && self.predecessors.is_empty()
    }

    /// Whether the queue has to be read: no predecessor is known, and there may be some.
    pub(super) const fn is_unknown(&self) -> bool {
        !self.complete && self.predecessors.is_empty()
    }

    /// The contender to wait for.
    pub(super) fn predecessor(&self) -> Option<&QueueEntry> {
        self.predecessors.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, create_revision: i64) -> KeyValue {
        let create_revision = Revision(create_revision);
        let id = key.rsplit('/').next().and_then(|id| id.split('-').next());
        let lease = id.and_then(|id| i64::from_str_radix(id, 16).ok()).and_then(LeaseId::new);
        KeyValue { key: key.to_owned().into(), create_revision, lease, ..KeyValue::default() }
    }

    #[test]
    fn key_without_lease_or_of_other_form_is_foreign() {
        let is_foreign = |kv: &KeyValue| QueueEntry::of(kv).is_foreign();
        let contender = kv("jobs/4a-1", 18);
        assert!(!is_foreign(&contender) && !is_foreign(&kv("jobs/4a", 18)));
        assert!(is_foreign(&KeyValue { lease: None, ..contender.clone() }));
        assert!(is_foreign(&KeyValue { lease: LeaseId::new(5), ..contender }));
        assert!(is_foreign(&KeyValue { lease: LeaseId::new(4), ..kv("jobs/4a", 1) }));
    }

    fn position(kvs: &[&KeyValue], more: bool) -> Option<Position> {
        let kvs = kvs.iter().copied().cloned().collect();
        let read = RangeResponse { kvs, more, ..RangeResponse::default() };
        Position::read(&QueueKeys::new("jobs"), &QueueEntry::of(&kv("jobs/4-1", 18)), &read)
    }

    fn known(predecessors: &[&KeyValue], complete: bool) -> Option<Position> {
        let predecessors = predecessors.iter().map(|kv| QueueEntry::of(kv)).collect();
        Some(Position { predecessors, complete })
    }

    #[test]
    fn keys_of_child_names_do_not_count_but_may_hide_others() {
        let (own, before) = (kv("jobs/4-1", 18), kv("jobs/3-1", 17));
        let (other, first) = (kv("jobs/night/1-2", 15), kv("jobs/1-1", 12));

        assert_eq!(position(&[&own], false), Some(Position::FIRST));
        assert_eq!(position(&[&own, &before], false), known(&[&before], true));
        assert_eq!(position(&[&own, &before], true), known(&[&before], false));
        assert_eq!(position(&[&own, &other], false), Some(Position::FIRST));
        assert!(position(&[&own, &other], true).expect("own key is there").is_unknown());
        assert_eq!(position(&[&own, &other, &first], false), known(&[&first], true));
        assert_eq!(position(&[&before], true), None);
        assert_eq!(position(&[&kv("jobs/4-1", 20)], false), None, "another life of the key");
    }

    #[test]
    fn of_many_predecessors_only_nearest_are_remembered() {
        let own = kv("jobs/4-1", 18);
        let before: Vec<_> = (1..=5).map(|n| kv(&format!("jobs/3-{n}"), 18 - n)).collect();
        let before: Vec<_> = before.iter().collect();
        let queue = |n: usize| [&[&own], &before[..n]].concat();
        assert_eq!(position(&queue(NEAREST), false), known(&before[..NEAREST], true));
        assert_eq!(position(&queue(5), false), known(&before[..NEAREST], false));
    }
}
