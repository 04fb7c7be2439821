//! What was read of a key, how that is asked of an answer, and how it is compared.

use bytes::Bytes;

use crate::kv::{Compare, CompareOp, KeyValue, OpResponse, Revision};

/// What was read of a key; `None` if it was not there.
pub(super) type Seen = Option<Stored>;

/// A value, and the revision that put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) value: Bytes,
    pub(super) modified: Revision,
}

impl From<KeyValue> for Stored {
    fn from(kv: KeyValue) -> Self {
        Self { value: kv.value, modified: kv.mod_revision }
    }
}

/// The revision that a compare of what was seen names.
pub(super) fn modified(seen: &Seen) -> Revision {
    seen.as_ref().map_or(Revision::ZERO, |stored| stored.modified)
}

/// Holds as long as a key is what was seen.
pub(super) fn unchanged((key, seen): (&Bytes, &Seen)) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, modified(seen))
}

/// What a read of one key found.
pub(super) fn one(answer: OpResponse) -> Seen {
    kvs(answer).into_iter().next().map(Stored::from)
}

/// What a range among the steps of a transaction found.
pub(super) fn kvs(response: OpResponse) -> Vec<KeyValue> {
    match response {
        OpResponse::Range(read) => read.kvs,
        other => unreachable!("a range was answered with {other:?}"),
    }
}
