//! Requests about keys, as a server reads them from etcd's messages.

use std::num::NonZeroU64;

use coord_core::kv::{
    Compact, Compare, CompareOp, CompareOperand, Delete, KeyRange, LeaseId, Op, Put, Range,
    Revision, SortOrder, SortTarget, Txn,
};
use etcd_client::proto::{
    PbCompactionRequest, PbCompare, PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTargetUnion,
    PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};

use super::{FromWire, Malformed, read_all};

/// The revision of a request: zero on the wire means none.
pub(super) fn revision(wire: i64) -> Option<Revision> {
    (wire != 0).then_some(Revision(wire))
}

impl FromWire<PbRangeRequest> for Range {
    fn from_wire(wire: PbRangeRequest) -> Result<Self, Malformed> {
        Ok(Self {
            keys: KeyRange::from_wire(wire.key, wire.range_end),
            revision: revision(wire.revision),
            limit: u64::try_from(wire.limit).ok().and_then(NonZeroU64::new),
            sort_target: sort_target(wire.sort_target)?,
            sort_order: sort_order(wire.sort_order)?,
            serializable: wire.serializable,
            keys_only: wire.keys_only,
            count_only: wire.count_only,
            min_mod_revision: revision(wire.min_mod_revision),
            max_mod_revision: revision(wire.max_mod_revision),
            min_create_revision: revision(wire.min_create_revision),
            max_create_revision: revision(wire.max_create_revision),
        })
    }
}

const fn sort_target(number: i32) -> Result<SortTarget, Malformed> {
    Ok(match number {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::CreateRevision,
        3 => SortTarget::ModRevision,
        4 => SortTarget::Value,
        _ => return Err(Malformed("a range with an unknown sort target")),
    })
}

const fn sort_order(number: i32) -> Result<SortOrder, Malformed> {
    Ok(match number {
        0 => SortOrder::None,
        1 => SortOrder::Ascending,
        2 => SortOrder::Descending,
        _ => return Err(Malformed("a range with an unknown sort order")),
    })
}

impl FromWire<PbPutRequest> for Put {
    fn from_wire(wire: PbPutRequest) -> Result<Self, Malformed> {
        let PbPutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease } = wire;
        let lease = LeaseId::new(lease);
        Ok(Self { lease, prev_kv, ignore_value, ignore_lease, ..Self::new(key, value) })
    }
}

impl FromWire<PbDeleteRequest> for Delete {
    fn from_wire(wire: PbDeleteRequest) -> Result<Self, Malformed> {
        let PbDeleteRequest { key, range_end, prev_kv } = wire;
        Ok(Self { keys: KeyRange::from_wire(key, range_end), prev_kv })
    }
}

impl FromWire<PbCompactionRequest> for Compact {
    fn from_wire(wire: PbCompactionRequest) -> Result<Self, Malformed> {
        Ok(Self { revision: Revision(wire.revision), physical: wire.physical })
    }
}

impl FromWire<PbTxnRequest> for Txn {
    fn from_wire(wire: PbTxnRequest) -> Result<Self, Malformed> {
        Ok(Self {
            compares: read_all(wire.compare)?,
            success: read_all(wire.success)?,
            failure: read_all(wire.failure)?,
        })
    }
}

impl FromWire<PbTxnRequestOp> for Op {
    fn from_wire(wire: PbTxnRequestOp) -> Result<Self, Malformed> {
        Ok(match wire.request.ok_or(Malformed("an empty operation of a transaction"))? {
            PbTxnOpRequest::RequestRange(range) => Self::Range(Range::from_wire(range)?),
            PbTxnOpRequest::RequestPut(put) => Self::Put(Put::from_wire(put)?),
            PbTxnOpRequest::RequestDeleteRange(delete) => Self::Delete(Delete::from_wire(delete)?),
            PbTxnOpRequest::RequestTxn(txn) => Self::Txn(Txn::from_wire(txn)?),
        })
    }
}

/// A missing operand, and an operand of another kind than the target, count as zero or empty.
impl FromWire<PbCompare> for Compare {
    fn from_wire(wire: PbCompare) -> Result<Self, Malformed> {
        let PbCompare { result, target, key, range_end, target_union } = wire;
        let op = match result {
            0 => CompareOp::Equal,
            1 => CompareOp::Greater,
            2 => CompareOp::Less,
            3 => CompareOp::NotEqual,
            _ => return Err(Malformed("a compare with an unknown operator")),
        };
        let operand = match (target, target_union) {
            (0, Some(PbTargetUnion::Version(version))) => CompareOperand::Version(version),
            (0, _) => CompareOperand::Version(0),
            (1, Some(PbTargetUnion::CreateRevision(revision))) => {
                CompareOperand::CreateRevision(Revision(revision))
            }
            (1, _) => CompareOperand::CreateRevision(Revision::ZERO),
            (2, Some(PbTargetUnion::ModRevision(revision))) => {
                CompareOperand::ModRevision(Revision(revision))
            }
            (2, _) => CompareOperand::ModRevision(Revision::ZERO),
            (3, Some(PbTargetUnion::Value(value))) => CompareOperand::Value(value.into()),
            (3, _) => CompareOperand::Value(bytes::Bytes::new()),
            (4, Some(PbTargetUnion::Lease(lease))) => CompareOperand::Lease(LeaseId::new(lease)),
            (4, _) => CompareOperand::Lease(None),
            _ => return Err(Malformed("a compare with an unknown target")),
        };
        Ok(Self { keys: KeyRange::from_wire(key, range_end), op, operand })
    }
}
