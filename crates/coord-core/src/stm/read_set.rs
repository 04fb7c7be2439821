//! The read set: what was read of single keys, and how it is compared.

use crate::kv::{Compare, CompareOp, KeyValue, OpResponse, Revision};
pub(super) use crate::shared::{ReadSet, Snapshot, Versioned};

/// The mod revision of what was read; `None` if the key did not exist.
pub(super) fn mod_revision(read: &Option<Versioned>) -> Option<Revision> {
    read.as_ref().map(|versioned| versioned.mod_revision)
}

/// Holds while the key is as it was read. A key that does not exist has mod revision zero.
pub(super) fn unchanged((key, read): (&bytes::Bytes, &Option<Versioned>)) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, mod_revision(read).unwrap_or(Revision::ZERO))
}

/// What the read of a single key returned.
pub(super) fn single(response: OpResponse) -> Option<Versioned> {
    kvs(response).into_iter().next().map(Versioned::from)
}

/// What the read of a range returned, as part of a transaction.
pub(super) fn kvs(response: OpResponse) -> Vec<KeyValue> {
    match response {
        OpResponse::Range(read) => read.kvs,
        other => unreachable!("the response to a range is {other:?}"),
    }
}
