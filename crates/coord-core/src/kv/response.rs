//! Responses to range, put, delete, transaction and compaction requests.

use bytes::Bytes;

use super::{LeaseId, Revision};

/// The header of a response: the responding member, and the store's revision.
///
/// In a transaction, the header of each operation's response carries only the revision, and the
/// header of a nested transaction's response carries nothing. All other fields are zero, as in
/// etcd.
///
/// Source: `docs/etcd-contract.md` §1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The id of the cluster.
    pub cluster_id: u64,
    /// The id of the member that responded.
    pub member_id: u64,
    /// The store's revision when the request was applied.
    pub revision: Revision,
    /// The member's raft term.
    pub raft_term: u64,
}

impl Header {
    /// A header that carries only a revision.
    #[must_use]
    pub const fn at(revision: Revision) -> Self {
        Self { cluster_id: 0, member_id: 0, revision, raft_term: 0 }
    }
}

/// A key with its value, revisions, version and lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty also if the request was for keys only.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision of its last change.
    pub mod_revision: Revision,
    /// The number of puts since the key was created; the put that created it is the first.
    pub version: i64,
    /// The lease that the key is attached to.
    pub lease: Option<LeaseId>,
}

/// The response to a [`Range`](super::Range).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The header. Its revision is the newest, also for a read of an older revision.
    pub header: Header,
    /// The keys, sorted and limited as requested.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit dropped keys that had passed the filters.
    pub more: bool,
    /// The number of keys in the range, before filters and limit.
    pub count: i64,
}

/// The response to a [`Put`](super::Put).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResponse {
    /// The header, with the revision of the put.
    pub header: Header,
    /// The key before the put, if it was requested and the key existed.
    pub prev_kv: Option<KeyValue>,
}

/// The response to a [`Delete`](super::Delete).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteResponse {
    /// The header, with the revision of the delete; the current revision if no key was deleted.
    pub header: Header,
    /// The number of deleted keys.
    pub deleted: i64,
    /// The deleted keys, in key order, if they were requested.
    pub prev_kvs: Vec<KeyValue>,
}

/// The response to a [`Txn`](super::Txn).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// The header, with the revision of the transaction; the current revision if it changed
    /// nothing.
    pub header: Header,
    /// Whether all compares held.
    pub succeeded: bool,
    /// The responses of the executed operations, in order.
    pub responses: Vec<OpResponse>,
}

/// The response to one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and callers match on it")]
pub enum OpResponse {
    /// The response to a range.
    Range(RangeResponse),
    /// The response to a put.
    Put(PutResponse),
    /// The response to a delete.
    Delete(DeleteResponse),
    /// The response to a nested transaction.
    Txn(TxnResponse),
}

impl OpResponse {
    /// Returns the response of a range; `None` for any other operation.
    #[must_use]
    pub const fn as_range(&self) -> Option<&RangeResponse> {
        if let Self::Range(response) = self { Some(response) } else { None }
    }

    /// Returns the response of a range; `None` for any other operation.
    #[must_use]
    pub fn into_range(self) -> Option<RangeResponse> {
        if let Self::Range(response) = self { Some(response) } else { None }
    }

    /// Returns the response of a put; `None` for any other operation.
    #[must_use]
    pub const fn as_put(&self) -> Option<&PutResponse> {
        if let Self::Put(response) = self { Some(response) } else { None }
    }

    /// Returns the response of a delete; `None` for any other operation.
    #[must_use]
    pub const fn as_delete(&self) -> Option<&DeleteResponse> {
        if let Self::Delete(response) = self { Some(response) } else { None }
    }

    /// Returns the response of a nested transaction; `None` for any other operation.
    #[must_use]
    pub const fn as_txn(&self) -> Option<&TxnResponse> {
        if let Self::Txn(response) = self { Some(response) } else { None }
    }
}

/// The response to a [`Compact`](super::Compact).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactResponse {
    /// The header. Its revision is read when the response is written.
    pub header: Header,
}
