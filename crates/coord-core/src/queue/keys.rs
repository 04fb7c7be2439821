//! The key names of a wait queue, and the requests that read the queue.
//!
//! The keys of the queue `jobs` are under `jobs/`. A contender's key is `jobs/<lease in
//! hex>-<suffix>`, with a suffix of its session. Its create revision sets its position. Go's
//! package `concurrency` uses `jobs/<lease in hex>` and the same order, so contenders of both
//! packages share one queue.
//!
//! The keys of a *child name*, such as `jobs/night`, are under `jobs/` too: a key with a further
//! `/` belongs to another queue. No key range excludes them. So the usual read is *narrow*: limited
//! to a few keys. If keys of child names hide the predecessor, a *wide* read of all keys, without
//! values, follows.
//!
//! ```text
//! create revision   key                       in the queue jobs
//!              12   jobs/6d65…01-1            first
//!              15   jobs/night/6d65…01-2      (child name)
//!              17   jobs/6d65…03-1            predecessor of 18
//!              18   jobs/6d65…04-9
//! ```

use bytes::Bytes;

use crate::client::Client;
use crate::error::Result;
use crate::kv::{
    Compare, CompareOp, Header, IntoBytes, KeyRange, KeyValue, LeaseId, Range, RangeResponse,
    Revision, SortOrder, SortTarget,
};
use crate::session::KeySuffix;

/// How many keys a narrow read returns: the contender's own key, its predecessor, and keys of child
/// names in between.
const NARROW_READ_LIMIT: u64 = 5;

/// The keys of one queue: their names, and the requests that read them.
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

    /// The key of a contender with this suffix.
    pub(super) fn key(&self, lease: LeaseId, suffix: &KeySuffix) -> Bytes {
        self.child(&format!("{lease}-{suffix}"))
    }

    /// The key that Go's package uses for a lease in this queue.
    pub(super) fn go_key(&self, lease: LeaseId) -> Bytes {
        self.child(&lease.to_string())
    }

    fn child(&self, id: &str) -> Bytes {
        [&self.prefix[..], id.as_bytes()].concat().into()
    }

    /// All keys of the queue and of its child names.
    pub(crate) fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.prefix)
    }

    /// Whether a key under the prefix belongs to this queue, and not to a child name.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        key.strip_prefix(&self.prefix[..]).is_some_and(|rest| !rest.contains(&b'/'))
    }

    /// Reads some keys under the prefix.
    pub(super) fn read_some(&self) -> Range {
        self.read_all().limit(NARROW_READ_LIMIT)
    }

    /// The condition that the queue is empty, after a read as of `revision` that has found keys of
    /// child names only. If the read was complete, no key may have been created since. Otherwise
    /// the keys that it left out may be contenders, so no key may exist.
    pub(super) fn still_empty(&self, found: Option<&RangeResponse>, revision: Revision) -> Compare {
        if found.is_some_and(|found| !found.more) {
            Compare::create_revision(self.range(), CompareOp::Less, revision.next())
        } else {
            Compare::absent(self.range())
        }
    }

    /// Reads all keys under the prefix, without values.
    pub(super) fn read_all(&self) -> Range {
        Range::new(self.range()).keys_only()
    }

    /// Reads the keys that were created last, newest first: the key of a contender that is being
    /// enqueued, and the keys of the contenders ahead.
    pub(super) fn read_newest(&self) -> Range {
        let all = self.read_all();
        all.sorted(SortTarget::CreateRevision, SortOrder::Descending).limit(NARROW_READ_LIMIT)
    }

    /// Reads the key with create revision `own`, and the keys of the contenders ahead, newest
    /// first.
    pub(super) fn read_narrow(&self, own: Revision) -> Range {
        self.read_newest().max_create_revision(own)
    }

    /// Reads all keys up to create revision `own`, newest first.
    pub(super) fn read_wide(&self, own: Revision) -> Range {
        self.read_narrow(own).limit(0)
    }

    /// Reads all keys with their values, oldest first.
    fn read_oldest_first(&self) -> Range {
        Range::new(self.range()).sorted(SortTarget::CreateRevision, SortOrder::Ascending)
    }

    /// Reads the first key of the queue with its value: the holder's. It costs a second request if
    /// the oldest of several keys belongs to a child name.
    pub(crate) async fn read_first(&self, client: &Client) -> Result<(Header, Option<KeyValue>)> {
        let oldest = self.read_oldest_first();
        let mut read = client.range(oldest.clone().limit(1)).await?;
        if read.more && read.kvs.iter().any(|kv| !self.owns(&kv.key)) {
            // The oldest key belongs to a child name.
            read = client.range(oldest).await?;
        }
        Ok((read.header, read.kvs.into_iter().find(|kv| self.owns(&kv.key))))
    }

    /// Reads the keys that a lease has in this queue, and the keys of leases whose ids begin with
    /// the same digits.
    pub(super) fn read_of_lease(&self, lease: LeaseId) -> Range {
        Range::prefix(self.go_key(lease))
            .keys_only()
            .sorted(SortTarget::CreateRevision, SortOrder::Ascending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contender_key_is_key_of_go_with_suffix() {
        let keys = QueueKeys::new("jobs");
        let lease = LeaseId::new(0x694d_82a1).expect("not zero");
        assert_eq!(keys.key(lease, &KeySuffix::of(7)), "jobs/694d82a1-7");
        assert_eq!(keys.go_key(lease), "jobs/694d82a1");
        assert!(keys.owns(b"jobs/694d82a1"), "Go's own key is a contender");
        assert!(!keys.owns(b"jobs/night/694d82a1-7") && !keys.owns(b"jobs2/694d82a1"));
    }
}
