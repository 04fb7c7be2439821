//! Snapshots: keys with their values and mod revisions, as of one revision.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{KeyRange, KeyValue, Revision};

/// A value with its mod revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versioned {
    pub(crate) value: Bytes,
    pub(crate) mod_revision: Revision,
}

/// The keys that were read, each with the result: `None` for a key that did not exist.
pub(crate) type ReadSet = BTreeMap<Bytes, Option<Versioned>>;

/// Part of the store as of one revision. An attempt can start with it instead of reading.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) keys: ReadSet,
    pub(crate) ranges: Vec<(KeyRange, Vec<KeyValue>)>,
}

impl From<KeyValue> for Versioned {
    fn from(kv: KeyValue) -> Self {
        Self { value: kv.value, mod_revision: kv.mod_revision }
    }
}
