//! What an attempt reads: versioned values, the read set, and snapshots of several keys.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{Compare, CompareOp, KeyRange, KeyValue, OpResponse, Revision};

/// A value, and the mod revision that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versioned {
    pub(super) value: Bytes,
    pub(super) mod_revision: Revision,
}

/// Keys that were read, with what the read returned: `None` for a key that did not exist.
pub(super) type ReadSet = BTreeMap<Bytes, Option<Versioned>>;

/// Part of the store as of one revision. An attempt can start with it instead of reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) revision: Revision,
    pub(super) keys: ReadSet,
    pub(super) ranges: Vec<(KeyRange, Vec<KeyValue>)>,
}

impl From<KeyValue> for Versioned {
    fn from(kv: KeyValue) -> Self {
        Self { value: kv.value, mod_revision: kv.mod_revision }
    }
}

/// The mod revision of what was read; `None` if the key did not exist.
pub(super) fn mod_revision(read: &Option<Versioned>) -> Option<Revision> {
    read.as_ref().map(|versioned| versioned.mod_revision)
}

/// Holds while the key is as it was read. A key that does not exist has mod revision zero.
pub(super) fn unchanged((key, read): (&Bytes, &Option<Versioned>)) -> Compare {
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
