//! Answers to requests on keys.

use bytes::Bytes;

use super::{LeaseId, Revision};

/// Who answered, and at which revision.
///
/// The answers to the steps of a transaction carry only the revision, and the answer to a nested
/// transaction not even that; the rest is zero there, as in etcd.
///
/// Source: `docs/etcd-contract.md` §1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster_id: u64,
    /// The member of the cluster.
    pub member_id: u64,
    /// The store's revision when the request was applied.
    pub revision: Revision,
    /// The member's raft term.
    pub raft_term: u64,
}

impl Header {
    /// A header that tells nothing but the revision.
    #[must_use]
    pub const fn at(revision: Revision) -> Self {
        Self { cluster_id: 0, member_id: 0, revision, raft_term: 0 }
    }
}

/// A key, its value, and where both come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty also where the request asked for keys only.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that changed it last.
    pub mod_revision: Revision,
    /// The number of puts since it was created; the first makes it 1.
    pub version: i64,
    /// The lease it hung on at that revision.
    pub lease: Option<LeaseId>,
}

/// The answer to a [`Range`](super::Range).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// At which revision: always the newest, also for a read of an older one.
    pub header: Header,
    /// The keys, sorted and cut as asked.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut keys off that had passed the filters.
    pub more: bool,
    /// The number of keys in the range, whatever the limit and the filters.
    pub count: i64,
}

/// The answer to a [`Put`](super::Put).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResponse {
    /// At which revision: the put's own.
    pub header: Header,
    /// The key as it was, if that was asked for and it existed.
    pub prev_kv: Option<KeyValue>,
}

/// The answer to a [`Delete`](super::Delete).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteResponse {
    /// At which revision: the delete's own, or the one before when it deleted nothing.
    pub header: Header,
    /// How many keys were deleted.
    pub deleted: i64,
    /// The keys as they were, in key order, if that was asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// The answer to a [`Txn`](super::Txn).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// At which revision: the transaction's own, or the one before when it changed nothing.
    pub header: Header,
    /// Whether all compares held.
    pub succeeded: bool,
    /// The answers of the steps that were taken, in order.
    pub responses: Vec<OpResponse>,
}

/// The answer to one step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and callers match on it")]
pub enum OpResponse {
    /// To a range.
    Range(RangeResponse),
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    Delete(DeleteResponse),
    /// To a nested transaction.
    Txn(TxnResponse),
}

impl OpResponse {
    /// The answer of a range; `None` if the step was another.
    #[must_use]
    pub const fn as_range(&self) -> Option<&RangeResponse> {
        if let Self::Range(response) = self { Some(response) } else { None }
    }

    /// The answer of a put; `None` if the step was another.
    #[must_use]
    pub const fn as_put(&self) -> Option<&PutResponse> {
        if let Self::Put(response) = self { Some(response) } else { None }
    }

    /// The answer of a delete; `None` if the step was another.
    #[must_use]
    pub const fn as_delete(&self) -> Option<&DeleteResponse> {
        if let Self::Delete(response) = self { Some(response) } else { None }
    }

    /// The answer of a nested transaction; `None` if the step was another.
    #[must_use]
    pub const fn as_txn(&self) -> Option<&TxnResponse> {
        if let Self::Txn(response) = self { Some(response) } else { None }
    }
}

/// The answer to a [`Compact`](super::Compact).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactResponse {
    /// At which revision, sampled when the answer was written.
    pub header: Header,
}
