//! The position of a contender: first, behind a predecessor, or unknown.
//!
//! A queue entry is a key with the revision that created it. Entries are ordered by that revision.
//! A new entry is always the last, so the contenders ahead of a contender only become fewer, and a
//! contender that is first stays first as long as its key exists. One read of the queue shows the
//! position. It returns the entries up to the contender's own, newest first:
//!
//! ```text
//! read for jobs/4-9, created at 18                            position
//! jobs/4-9@18  jobs/3-1@17  jobs/1-1@12                       behind jobs/3-1@17
//! jobs/4-9@18  jobs/night/9-2@15                              first: jobs/night is a child name
//! jobs/4-9@18  jobs/night/9-2@15  …  (more than the limit)    unknown: all keys must be read
//! jobs/3-1@17  jobs/1-1@12                                    none: the contender was evicted
//! ```
//!
//! A transaction that enqueues in `jobs` and in its child name `jobs/night` creates two keys of one
//! revision, which a read returns in any order. So the contender's own key need not be the first
//! one, and may even be beyond the limit:
//!
//! ```text
//! read for jobs/4-9, created at 18                            position
//! jobs/night/4-3@18  jobs/4-9@18  jobs/3-1@17                 behind jobs/3-1@17
//! jobs/night/4-3@18  jobs/noon/4-4@18  …  (all at 18)         unknown: all keys must be read
//! ```

use super::keys::QueueKeys;
use crate::kv::{KeyValue, LeaseId, RangeResponse};
use crate::shared::QueueEntry;

/// The position of a contender as of its last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    First,
    /// Behind a predecessor. It is unknown whether the predecessor is first.
    Behind {
        predecessor: QueueEntry,
        /// The lease of the predecessor's key.
        lease: Option<LeaseId>,
    },
    /// The queue must be read.
    Unknown,
}

impl Position {
    /// The position in a read of the entries up to the contender's own, newest first; `None` if the
    /// contender's key is not in it: the contender was evicted.
    pub(super) fn read(keys: &QueueKeys, own: &QueueEntry, read: &RangeResponse) -> Option<Self> {
        let is_own = |kv: &KeyValue| kv.key == own.key && kv.create_revision == own.created;
        if !read.kvs.iter().any(is_own) {
            let is_beyond_limit = read.more
                && read.kvs.last().is_some_and(|oldest| oldest.create_revision == own.created);
            return is_beyond_limit.then_some(Self::Unknown);
        }
        let is_ahead = |kv: &&KeyValue| kv.create_revision < own.created && keys.owns(&kv.key);
        Some(match read.kvs.iter().find(is_ahead) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Revision;

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
    fn keys_of_child_names_are_skipped_but_may_hide_predecessor() {
        let own = || kv("jobs/4-1", 18);
        let child = || kv("jobs/night/1-2", 15);
        let behind = |key: &'static str, created| {
            let predecessor = QueueEntry { key: key.into(), created: Revision(created) };
            Some(Position::Behind { predecessor, lease: None })
        };
        for more in [false, true] {
            let without_child = [own(), kv("jobs/3-1", 17), kv("jobs/1-1", 12)];
            assert_eq!(position(&without_child, more), behind("jobs/3-1", 17));
            let with_child = [own(), child(), kv("jobs/1-1", 12)];
            assert_eq!(position(&with_child, more), behind("jobs/1-1", 12));
            let without_own = [kv("jobs/3-1", 17)];
            assert_eq!(position(&without_own, more), None, "its own key was deleted");
            let created_again = [kv("jobs/4-1", 20)];
            assert_eq!(position(&created_again, more), None, "its own key was created again");
        }
        assert_eq!(position(&[own()], false), Some(Position::First));
        assert_eq!(position(&[own(), child()], false), Some(Position::First));
        assert_eq!(position(&[own(), child()], true), Some(Position::Unknown));
    }

    /// One transaction has created the contender's own key and keys of child names.
    #[test]
    fn own_key_is_found_among_keys_of_its_revision() {
        let child = |key: &'static str| kv(key, 18);
        let (own, ahead) = (|| kv("jobs/4-1", 18), || kv("jobs/3-1", 17));
        let read = [child("jobs/a/4-2"), own(), child("jobs/b/4-3"), ahead()];
        let behind = position(&read, true).expect("not evicted");
        assert!(
            matches!(behind, Position::Behind { predecessor, .. } if predecessor.created.0 == 17)
        );
        assert_eq!(position(&[child("jobs/a/4-2"), own()], false), Some(Position::First));

        let only_children = [child("jobs/a/4-2"), child("jobs/b/4-3")];
        assert_eq!(position(&only_children, true), Some(Position::Unknown), "beyond the limit");
        assert_eq!(position(&only_children, false), None, "evicted");
        assert_eq!(position(&[child("jobs/a/4-2"), ahead()], true), None, "evicted");
    }
}
