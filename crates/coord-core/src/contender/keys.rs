//! The keys of a waiting line, and how to read the line without reading all of it.
//!
//! The line `jobs` is the keys under `jobs/`; a contender's key is `jobs/<lease in hex>-<n>`, where
//! `session/numbers.rs` makes `<n>`, and its place is its create revision. Go's package uses
//! `jobs/<lease in hex>` and the same order, so the two stand in one line. But the line
//! `jobs/night` lives under `jobs/` as well, and must not be taken for contenders of `jobs`: a key
//! with another `/` in it belongs to another line. No range of keys leaves those out, so the usual
//! reads are *narrow*, and `standing.rs` notices when a key of another line has come between; then
//! a *wide* read, of all keys but no values, tells.
//!
//! ```text
//! create revision   key                       line jobs, seen by the last
//!              12   jobs/6d65…01-1            first
//!              15   jobs/night/6d65…01-2      (of another line)
//!              17   jobs/6d65…03-1            before me
//!              18   jobs/6d65…04-9            me
//! ```

use bytes::Bytes;

use crate::kv::{IntoBytes, KeyRange, LeaseId, Range, Revision, SortOrder, SortTarget};
use crate::session::Number;

/// How many contenders before one are worth reading, remembering, and asking for one by one.
pub(super) const NEAREST: usize = 4;

/// How the keys of a line are made and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Ends with a slash.
    prefix: Bytes,
}

impl Keys {
    pub(crate) fn new(name: impl IntoBytes) -> Self {
        let mut prefix = Vec::from(name.into_bytes());
        prefix.push(b'/');
        Self { prefix: prefix.into() }
    }

    /// The name, without the slash.
    pub(crate) fn name(&self) -> Bytes {
        self.prefix.slice(..self.prefix.len() - 1)
    }

    /// The key of the contender to which a session has given this number.
    pub(super) fn key(&self, lease: LeaseId, n: &Number) -> Bytes {
        let mut key = self.prefix.to_vec();
        key.extend_from_slice(format!("{lease}-{n}").as_bytes());
        key.into()
    }

    /// The one key that Go's package has for a lease in this line.
    pub(super) fn key_of_go(&self, lease: LeaseId) -> Bytes {
        let mut key = self.prefix.to_vec();
        key.extend_from_slice(lease.to_string().as_bytes());
        key.into()
    }

    /// All keys of the line, and those of lines below it.
    pub(crate) fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.prefix)
    }

    /// Whether a key under the prefix is a contender of this line.
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

    /// Reads the keys that were created last.
    pub(super) fn last(&self) -> Range {
        self.last_first().limit(NEAREST as i64 + 1)
    }

    /// Reads the key with create revision `mine`, and those right before it.
    pub(super) fn narrow(&self, mine: Revision) -> Range {
        self.wide(mine).limit(NEAREST as i64 + 1)
    }

    /// Reads all keys up to create revision `mine`, last first.
    pub(super) fn wide(&self, mine: Revision) -> Range {
        self.last_first().max_create_revision(mine)
    }

    /// Reads the keys that were created first, with their values.
    pub(crate) fn first(&self) -> Range {
        Range::new(self.range()).sorted(SortTarget::CreateRevision, SortOrder::Ascending)
    }

    /// Reads the keys that a lease has in this line, and perhaps a few more.
    pub(super) fn of_lease(&self, lease: LeaseId) -> Range {
        let mut start = self.prefix.to_vec();
        start.extend_from_slice(lease.to_string().as_bytes());
        Range::prefix(start).keys_only().sorted(SortTarget::CreateRevision, SortOrder::Ascending)
    }

    fn last_first(&self) -> Range {
        self.all().sorted(SortTarget::CreateRevision, SortOrder::Descending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_go_with_a_number_behind() {
        let keys = Keys::new("jobs");
        let lease = LeaseId::new(0x694d_82a1).expect("not zero");
        assert_eq!(keys.key(lease, &Number::of(7)), "jobs/694d82a1-7");
        assert_eq!(keys.key_of_go(lease), "jobs/694d82a1");
        assert!(keys.owns(b"jobs/694d82a1"), "Go's own key is a contender");
        assert!(!keys.owns(b"jobs/night/694d82a1-7") && !keys.owns(b"jobs2/694d82a1"));
    }
}
