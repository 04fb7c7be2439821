//! The keys of a wait queue, and the reads that do not need all of them.
//!
//! The queue `jobs` is the keys under `jobs/`. A contender's key is `jobs/<lease in hex>-<suffix>`,
//! where the session makes the suffix, and its position follows from its create revision. Go's
//! package uses `jobs/<lease in hex>` and the same order, so both stand in one queue. The queue of
//! the child name `jobs/night` lives under `jobs/` as well: a key with a further `/` belongs to
//! another queue. No range of keys leaves those out. So the usual reads are *narrow*, limited to a
//! few keys; where keys of child names hide the predecessors, a *wide* read of all keys, without
//! values, follows.
//!
//! ```text
//! create revision   key                       in the queue jobs
//!              12   jobs/6d65…01-1            first
//!              15   jobs/night/6d65…01-2      (another queue)
//!              17   jobs/6d65…03-1            predecessor of 18
//!              18   jobs/6d65…04-9
//! ```

use bytes::Bytes;

use crate::kv::{IntoBytes, KeyRange, LeaseId, Range, Revision, SortOrder, SortTarget};
use crate::session::KeySuffix;

/// How many keys a narrow read returns: the own key, the predecessor, and room for keys of child
/// names in between.
const NARROW: u64 = 5;

/// How the keys of a queue are made and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueKeys {
    /// Ends with a slash.
    prefix: Bytes,
}

impl QueueKeys {
    pub(crate) fn new(name: impl IntoBytes) -> Self {
        let mut prefix = Vec::from(name.into_bytes());
        prefix.push(b'/');
        Self { prefix: prefix.into() }
    }

    /// The name, without the slash.
    pub(crate) fn name(&self) -> Bytes {
        self.prefix.slice(..self.prefix.len() - 1)
    }

    /// The key of the contender to which a session has given this suffix.
    pub(super) fn key(&self, lease: LeaseId, suffix: &KeySuffix) -> Bytes {
        self.child(&format!("{lease}-{suffix}"))
    }

    /// The one key that Go's package has for a lease in this queue.
    pub(super) fn go_key(&self, lease: LeaseId) -> Bytes {
        self.child(&lease.to_string())
    }

    fn child(&self, id: &str) -> Bytes {
        [&self.prefix[..], id.as_bytes()].concat().into()
    }

    /// All keys of the queue, and those of child names.
    pub(crate) fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.prefix)
    }

    /// Whether a key under the prefix belongs to this queue.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        key.strip_prefix(&self.prefix[..]).is_some_and(|rest| !rest.contains(&b'/'))
    }

    /// Reads any one key under the prefix.
    pub(super) fn any(&self) -> Range {
        self.all().limit(1)
    }

    /// Reads everything under the prefix.
    pub(super) fn all(&self) -> Range {
        Range::new(self.range()).keys_only()
    }

    /// Reads the keys that were created last: that of a contender that is being enqueued, and the
    /// nearest before it.
    pub(super) fn newest(&self) -> Range {
        let all = self.all();
        all.sorted(SortTarget::CreateRevision, SortOrder::Descending).limit(NARROW)
    }

    /// Reads the key with create revision `own`, and the nearest before it.
    pub(super) fn narrow(&self, own: Revision) -> Range {
        self.newest().max_create_revision(own)
    }

    /// Reads all keys up to create revision `own`, newest first.
    pub(super) fn wide(&self, own: Revision) -> Range {
        self.narrow(own).limit(0)
    }

    /// Reads all keys with their values, oldest first.
    pub(crate) fn oldest_first(&self) -> Range {
        Range::new(self.range()).sorted(SortTarget::CreateRevision, SortOrder::Ascending)
    }

    /// Reads the keys that a lease has in this queue, and perhaps a few more.
    pub(super) fn of_lease(&self, lease: LeaseId) -> Range {
        Range::prefix(self.go_key(lease))
            .keys_only()
            .sorted(SortTarget::CreateRevision, SortOrder::Ascending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_go_with_suffix() {
        let keys = QueueKeys::new("jobs");
        let lease = LeaseId::new(0x694d_82a1).expect("not zero");
        assert_eq!(keys.key(lease, &KeySuffix::of(7)), "jobs/694d82a1-7");
        assert_eq!(keys.go_key(lease), "jobs/694d82a1");
        assert!(keys.owns(b"jobs/694d82a1"), "Go's own key is a contender");
        assert!(!keys.owns(b"jobs/night/694d82a1-7") && !keys.owns(b"jobs2/694d82a1"));
    }
}
