//! The keys of a waiting line, and how to read the line without reading all of it.
//!
//! The line `jobs` is the keys under `jobs/`; a contender's key is `jobs/<lease in hex>-<n>`, and
//! its place is its create revision. Go's package uses `jobs/<lease in hex>` and the same order, so
//! the two stand in one line. But the line `jobs/night` lives under `jobs/` as well, and must not
//! be taken for contenders of `jobs`: a key with another `/` in it belongs to another line. No
//! range of keys leaves those out, so the two reads here are *narrow*, and say so when a key of
//! another line has come between; then a *wide* read, of all keys but no values, tells.
//!
//! ```text
//! create revision   key                       line jobs, seen by the last
//!              12   jobs/6d65…01-1            first
//!              15   jobs/night/6d65…01-2      (of another line)
//!              17   jobs/6d65…03-1            before me
//!              18   jobs/6d65…04-9            me
//! ```

use bytes::Bytes;

use crate::kv::{
    IntoBytes, KeyRange, LeaseId, Range, RangeResponse, Revision, SortOrder, SortTarget,
};

/// How the keys of a line are made and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// Ends with a slash.
    prefix: Bytes,
}

/// What a read of the line told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody is before me.
    First,
    /// Behind the contender with this key.
    Behind(Bytes),
    /// My key is not in the line, or not the one I put there.
    Gone,
    /// A key of another line was in the way: read widely.
    Unclear,
}

impl Keys {
    pub(super) fn new(name: impl IntoBytes) -> Self {
        let mut prefix = Vec::from(name.into_bytes());
        prefix.push(b'/');
        Self { prefix: prefix.into() }
    }

    /// The name, without the slash.
    pub(super) fn name(&self) -> Bytes {
        self.prefix.slice(..self.prefix.len() - 1)
    }

    /// The key of the `n`th contender that a session sends into any line.
    pub(super) fn key(&self, lease: LeaseId, n: u64) -> Bytes {
        let mut key = self.prefix.to_vec();
        key.extend_from_slice(format!("{lease}-{n}").as_bytes());
        key.into()
    }

    /// All keys of the line, and those of lines below it.
    pub(super) fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.prefix)
    }

    /// Whether a key under the prefix is a contender of this line.
    pub(super) fn owns(&self, key: &[u8]) -> bool {
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

    /// Reads the two keys that were created last.
    pub(super) fn last_two(&self) -> Range {
        self.last_first().limit(2)
    }

    /// Reads the key with create revision `mine`, and the one before it.
    pub(super) fn narrow(&self, mine: Revision) -> Range {
        self.wide(mine).limit(2)
    }

    /// Reads all keys up to create revision `mine`, last first.
    pub(super) fn wide(&self, mine: Revision) -> Range {
        self.last_first().max_create_revision(mine)
    }

    fn last_first(&self) -> Range {
        self.all().sorted(SortTarget::CreateRevision, SortOrder::Descending)
    }

    /// What a read, last first and up to me, tells about my place.
    pub(super) fn standing(&self, mine: (&Bytes, Revision), read: &RangeResponse) -> Standing {
        let mut kvs = read.kvs.iter();
        if kvs.next().is_none_or(|kv| (&kv.key, kv.create_revision) != mine) {
            return Standing::Gone;
        }
        match kvs.find(|kv| self.owns(&kv.key)) {
            Some(before) => Standing::Behind(before.key.clone()),
            None if read.more => Standing::Unclear,
            None => Standing::First,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KeyValue;

    fn kv(key: &str, create_revision: i64) -> KeyValue {
        let create_revision = Revision(create_revision);
        KeyValue { key: key.to_owned().into(), create_revision, ..KeyValue::default() }
    }

    #[test]
    fn keys_are_those_of_go_with_a_number_behind() {
        let keys = Keys::new("jobs");
        let lease = LeaseId::new(0x694d_82a1).expect("not zero");
        assert_eq!(keys.key(lease, 7), "jobs/694d82a1-7");
        assert!(keys.owns(b"jobs/694d82a1"), "Go's own key is a contender");
        assert!(!keys.owns(b"jobs/night/694d82a1-7") && !keys.owns(b"jobs2/694d82a1"));
    }

    #[test]
    fn standing_ignores_keys_of_other_lines_and_says_when_it_cannot_tell() {
        let keys = Keys::new("jobs");
        let me = (&Bytes::from_static(b"jobs/4-1"), Revision(18));
        let standing = |kvs: &[&KeyValue], more| {
            let kvs = kvs.iter().copied().cloned().collect();
            keys.standing(me, &RangeResponse { kvs, more, ..RangeResponse::default() })
        };
        let (mine, before) = (kv("jobs/4-1", 18), kv("jobs/3-1", 17));
        let (other, first) = (kv("jobs/night/1-2", 15), kv("jobs/1-1", 12));

        assert_eq!(standing(&[&mine, &before], true), Standing::Behind("jobs/3-1".into()));
        assert_eq!(standing(&[&mine, &other], true), Standing::Unclear);
        assert_eq!(standing(&[&mine, &other], false), Standing::First);
        assert_eq!(standing(&[&mine, &other, &first], false), Standing::Behind("jobs/1-1".into()));
        assert_eq!(standing(&[&mine], false), Standing::First);
        assert_eq!(standing(&[&before], true), Standing::Gone);
        assert_eq!(standing(&[&kv("jobs/4-1", 20)], false), Standing::Gone, "another life");
    }
}
