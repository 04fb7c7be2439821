//! The keys of a wait queue: their layout in the store, and how to recognize them.
//!
//! coord and Go's package use one layout for locks and elections. The queue `jobs` has one key per
//! contender, `jobs/<lease id in hex>`; coord appends `-` and a key suffix, so that one session can
//! have several contenders. A key with another slash belongs to the queue of a child name:
//! `jobs/night/…` is a key of `jobs/night`. All other keys under the name are foreign keys.
//!
//! A semaphore `jobs` has the queue `jobs/permits`, whose keys have a number of permits as their
//! values, and the limit as the value of the key `coord/limit/jobs`. Its first contenders hold
//! permits, as many as the limit allows.

use bytes::Bytes;
use coord_core::kv::{KeyValue, Range, SortOrder, SortTarget};
use coord_core::recipes::semaphore::limit_key;

/// The keys directly below `NAME/`: the keys of one wait queue, and foreign keys.
#[derive(Clone, Debug)]
pub(crate) struct QueueKeys {
    prefix: String,
}

impl QueueKeys {
    pub(crate) fn new(name: &str) -> Self {
        Self { prefix: format!("{name}/") }
    }

    /// The prefix of all keys of the queue. Keys of child names have it too.
    pub(crate) fn prefix(&self) -> String {
        self.prefix.clone()
    }

    /// The key of the limit, if the name is that of a semaphore's queue.
    pub(crate) fn limit_key(&self) -> Option<Bytes> {
        Some(limit_key(self.prefix.strip_suffix("/permits/")?))
    }

    /// A read of all keys with the prefix, in the order in which they were created.
    pub(crate) fn in_order(&self) -> Range {
        let all = Range::prefix(self.prefix());
        all.sorted(SortTarget::CreateRevision, SortOrder::Ascending)
    }

    /// Whether a key, which may be foreign, is directly below the name and not below a child name.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let below = key.strip_prefix(self.prefix.as_bytes());
        below.is_some_and(|below| !below.contains(&b'/'))
    }
}

/// The key up to its last slash: the name of its queue, if it is a key of a queue.
pub(crate) fn parent_of(kv: &KeyValue) -> Option<Bytes> {
    let slash = kv.key.iter().rposition(|byte| *byte == b'/')?;
    Some(kv.key.slice(..slash))
}

/// Whether a key is foreign: no contender has created it.
pub(crate) fn is_foreign(kv: &KeyValue) -> bool {
    coord_core::queue::is_foreign(&kv.key, kv.lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_excludes_keys_of_child_names() {
        let jobs = QueueKeys::new("jobs");
        assert!(jobs.contains(b"jobs/694d82a1-7") && jobs.contains(b"jobs/694d82a1"));
        assert!(!jobs.contains(b"jobs/night/694d82a1-7") && !jobs.contains(b"jobs2/694d82a1"));
    }

    #[test]
    fn queue_of_a_semaphore_has_a_limit() {
        assert_eq!(QueueKeys::new("a/permits").limit_key(), Some("coord/limit/a".into()));
        assert_eq!(QueueKeys::new("permits").limit_key(), None);
    }
}
