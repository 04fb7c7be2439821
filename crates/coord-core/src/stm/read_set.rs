//! The read set: the keys that an attempt has read, and the compares that validate them.
//!
//! A commit that validates its reads has one compare for each key of the read set. If one of them
//! does not hold, the transaction is attempted again.

use crate::kv::{Compare, CompareOp, KeyValue, OpResponse, Revision};
pub(super) use crate::shared::{ReadSet, Snapshot, Versioned};

/// The mod revision of a key that was read; `None` if the key did not exist.
pub(super) fn mod_revision(read: &Option<Versioned>) -> Option<Revision> {
    read.as_ref().map(|versioned| versioned.mod_revision)
}

/// The compare that holds while the key is unchanged since it was read. A key that does not exist
/// has mod revision zero.
pub(super) fn unchanged_compare((key, read): (&bytes::Bytes, &Option<Versioned>)) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, mod_revision(read).unwrap_or(Revision::ZERO))
}

/// The key in the response to a read of a single key; `None` if it does not exist.
pub(super) fn single(response: OpResponse) -> Option<Versioned> {
    kvs(response).into_iter().next().map(Versioned::from)
}

/// The keys in the response to a range operation of a transaction.
pub(super) fn kvs(response: OpResponse) -> Vec<KeyValue> {
    match response {
        OpResponse::Range(read) => read.kvs,
        other => unreachable!("the response to a range is {other:?}"),
    }
}
