//! The keys of a wait queue: their layout in the store, and how to recognize them.
//!
//! coord and Go's package use one layout for locks and elections. The queue `jobs` has one key per
//! contender, `jobs/<lease id in hex>`; coord appends `-` and a key suffix, so that one session can
//! have several contenders. A key suffix is a number; that of an adopter is `<tag in
//! hex>-<number>`. A key with another slash belongs to the queue of a child name: `jobs/night/…` is
//! a key of `jobs/night`.

use bytes::Bytes;
use coord_core::kv::{KeyValue, Range, SortOrder, SortTarget};

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

/// The name of the queue that a key belongs to; `None` if the key is foreign. The last part of a
/// queue key is the id of the key's own lease, with or without a hyphen and a key suffix.
pub(crate) fn queue_of(kv: &KeyValue) -> Option<Bytes> {
    let parent = parent_of(kv)?;
    let lease = kv.lease?.to_string();
    let rest = kv.key[parent.len() + 1..].strip_prefix(lease.as_bytes())?;
    let is_contender = rest.is_empty() || rest.strip_prefix(b"-").is_some_and(is_key_suffix);
    is_contender.then_some(parent)
}

/// Whether this is a key suffix: a number, or the tag of an adopter and a number.
fn is_key_suffix(suffix: &[u8]) -> bool {
    let (tag, number) = match suffix.iter().position(|byte| *byte == b'-') {
        Some(hyphen) => (Some(&suffix[..hyphen]), &suffix[hyphen + 1..]),
        None => (None, suffix),
    };
    let is_tag = |tag: &[u8]| tag.len() == 8 && tag.iter().all(u8::is_ascii_hexdigit);
    tag.is_none_or(is_tag) && !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use coord_core::kv::LeaseId;

    use super::*;

    #[test]
    fn queue_key_ends_with_its_lease_id() {
        let queue = |key: &'static str, lease| {
            let (key, lease) = (Bytes::from_static(key.as_bytes()), LeaseId::new(lease));
            queue_of(&KeyValue { key, lease, ..KeyValue::default() })
        };
        for (key, name) in [
            ("jobs/a1-7", "jobs"),
            ("jobs/a1", "jobs"),
            ("jobs/a1-5f3a9c0e-0", "jobs"),
            ("jobs/night/a1-0", "jobs/night"),
            ("/a1", ""),
        ] {
            assert_eq!(queue(key, 0xa1).as_deref(), Some(name.as_bytes()), "{key}");
        }
        for foreign in
            ["jobs/a2-7", "jobs/a1-", "jobs/a1-x", "jobs/a17", "jobs/1", "a1", "jobs/a1/"]
        {
            assert_eq!(queue(foreign, 0xa1), None, "{foreign}");
        }
        for foreign in ["jobs/a1-5f3a9c0e-", "jobs/a1-5f3a-0", "jobs/a1-5f3a9c0x-0", "jobs/a1--0"] {
            assert_eq!(queue(foreign, 0xa1), None, "{foreign}");
        }
        assert_eq!(queue("jobs/0", 0), None, "without a lease");
    }

    #[test]
    fn queue_excludes_keys_of_child_names() {
        let jobs = QueueKeys::new("jobs");
        assert!(jobs.contains(b"jobs/694d82a1-7") && jobs.contains(b"jobs/694d82a1"));
        assert!(!jobs.contains(b"jobs/night/694d82a1-7") && !jobs.contains(b"jobs2/694d82a1"));
    }
}
