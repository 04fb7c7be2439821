//! The position of a contender: first, behind a predecessor, or not known.
//!
//! A queue entry is a key and the revision that created it; entries are ordered by that revision.
//! No contender ever enqueues before another, so the predecessors of a contender only become fewer,
//! and a contender that is first stays first as long as its key exists. A position comes from one
//! read of the queue, newest first, up to the contender's own key:
//!
//! ```text
//! read for jobs/4-9, created at 18                            position
//! jobs/4-9@18  jobs/3-1@17  jobs/1-1@12                       behind jobs/3-1@17
//! jobs/4-9@18  jobs/night/9-2@15                              first: the other is a child name's
//! jobs/4-9@18  jobs/night/9-2@15  …  (cut off by the limit)   unknown: all keys are read then
//! jobs/3-1@17  jobs/1-1@12                                    none: the contender was evicted
//! ```

use bytes::Bytes;

use super::keys::QueueKeys;
use crate::kv::{LeaseId, RangeResponse, Revision};

/// A key of a queue, in the life that began at a revision.
///
/// A client that overwrites the key without its lease changes neither, so the lease is not part of
/// the identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueEntry {
    pub(super) key: Bytes,
    pub(super) created: Revision,
}

/// What a contender knows of its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    First,
    /// Behind this entry; whether more are before that one is not known.
    Behind {
        predecessor: QueueEntry,
        /// The lease of the predecessor's key.
        lease: Option<LeaseId>,
    },
    /// The queue has to be read.
    Unknown,
}

impl Position {
    /// The position that a read of the queue shows, newest first and up to the contender's own key;
    /// `None` if that key is not in it: the contender was evicted.
    pub(super) fn read(keys: &QueueKeys, own: &QueueEntry, read: &RangeResponse) -> Option<Self> {
        let mut kvs = read.kvs.iter();
        if kvs.next().is_none_or(|kv| kv.key != own.key || kv.create_revision != own.created) {
            return None;
        }
        Some(match kvs.find(|kv| keys.owns(&kv.key)) {
            Some(kv) => {
                let predecessor = QueueEntry { key: kv.key.clone(), created: kv.create_revision };
                Self::Behind { predecessor, lease: kv.lease }
            }
            None if read.more => Self::Unknown,
            None => Self::First,
        })
    }

    /// Whether the contender is first.
    pub(super) const fn is_first(&self) -> bool {
        matches!(self, Self::First)
    }
}

/// Whether no contender can have created a key: it has no lease, or its name is not made from its
/// lease.
pub(super) fn is_foreign(key: &[u8], lease: Option<LeaseId>) -> bool {
    lease.is_none_or(|lease| {
        let id = key.rsplit(|byte| *byte == b'/').next();
        let suffix = id.and_then(|id| id.strip_prefix(lease.to_string().as_bytes()));
        suffix.is_none_or(|suffix| !suffix.is_empty() && !suffix.starts_with(b"-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KeyValue;

    #[test]
    fn key_without_lease_or_of_other_form_is_foreign() {
        let lease = LeaseId::new(0x4a);
        assert!(!is_foreign(b"jobs/4a-1", lease) && !is_foreign(b"jobs/4a", lease));
        assert!(is_foreign(b"jobs/4a-1", None));
        assert!(is_foreign(b"jobs/4a-1", LeaseId::new(5)));
        assert!(is_foreign(b"jobs/4a", LeaseId::new(4)));
    }

    fn kv(key: &'static str, create_revision: i64) -> KeyValue {
        let create_revision = Revision(create_revision);
        KeyValue { key: key.into(), create_revision, ..KeyValue::default() }
    }

    fn position(kvs: &[KeyValue], more: bool) -> Option<Position> {
        let own = QueueEntry { key: "jobs/4-1".into(), created: Revision(18) };
        let read = RangeResponse { kvs: kvs.to_vec(), more, ..RangeResponse::default() };
        Position::read(&QueueKeys::new("jobs"), &own, &read)
    }

    #[test]
    fn keys_of_child_names_do_not_count_but_may_hide_others() {
        let own = || kv("jobs/4-1", 18);
        let child = || kv("jobs/night/1-2", 15);
        let behind = |key: &'static str, created| {
            let predecessor = QueueEntry { key: key.into(), created: Revision(created) };
            Some(Position::Behind { predecessor, lease: None })
        };
        for more in [false, true] {
            let nearest = [own(), kv("jobs/3-1", 17), kv("jobs/1-1", 12)];
            assert_eq!(position(&nearest, more), behind("jobs/3-1", 17));
            let hidden = [own(), child(), kv("jobs/1-1", 12)];
            assert_eq!(position(&hidden, more), behind("jobs/1-1", 12));
            let others = [kv("jobs/3-1", 17)];
            assert_eq!(position(&others, more), None, "the own key is gone");
            assert_eq!(position(&[kv("jobs/4-1", 20)], more), None, "another life of the key");
        }
        assert_eq!(position(&[own()], false), Some(Position::First));
        assert_eq!(position(&[own(), child()], false), Some(Position::First));
        assert_eq!(position(&[own(), child()], true), Some(Position::Unknown));
    }
}
