//! Requests as a client writes them, with the builders of etcd-client.
//!
//! A range is set as its two fields, because the builders' methods for prefixes rewrite empty keys.
//! Each part of a transaction is set once and in order, because the builder panics otherwise.

use coord_core::kv::{
    Compact, Compare, CompareOp, CompareOperand, Delete, LeaseGrant, LeaseTimeToLive, Op, Put,
    Range, Revision, SortOrder, SortTarget, Txn, Watch, WatchFilter,
};
use etcd_client as etcd;

use super::lease_number;

/// A revision on the wire: zero if there is none.
fn revision(revision: Option<Revision>) -> i64 {
    revision.map_or(0, i64::from)
}

/// A range: its key and its options.
pub(crate) fn range(range: &Range) -> (Vec<u8>, etcd::GetOptions) {
    let mut options = etcd::GetOptions::new()
        .with_range(range.keys.range_end().clone())
        .with_revision(revision(range.revision))
        .with_limit(range.limit.map_or(0, |limit| i64::try_from(limit.get()).unwrap_or(i64::MAX)))
        .with_sort(sort_target(range.sort_target), sort_order(range.sort_order))
        .with_min_mod_revision(revision(range.min_mod_revision))
        .with_max_mod_revision(revision(range.max_mod_revision))
        .with_min_create_revision(revision(range.min_create_revision))
        .with_max_create_revision(revision(range.max_create_revision));
    if range.serializable {
        options = options.with_serializable();
    }
    if range.keys_only {
        options = options.with_keys_only();
    }
    if range.count_only {
        options = options.with_count_only();
    }
    (range.keys.start().clone().into(), options)
}

const fn sort_target(target: SortTarget) -> etcd::SortTarget {
    match target {
        SortTarget::Key => etcd::SortTarget::Key,
        SortTarget::Version => etcd::SortTarget::Version,
        SortTarget::CreateRevision => etcd::SortTarget::Create,
        SortTarget::ModRevision => etcd::SortTarget::Mod,
        SortTarget::Value => etcd::SortTarget::Value,
    }
}

const fn sort_order(order: SortOrder) -> etcd::SortOrder {
    match order {
        SortOrder::None => etcd::SortOrder::None,
        SortOrder::Ascending => etcd::SortOrder::Ascend,
        SortOrder::Descending => etcd::SortOrder::Descend,
    }
}

/// A put: its key, its value and its options.
pub(crate) fn put(put: &Put) -> (Vec<u8>, Vec<u8>, etcd::PutOptions) {
    let mut options = etcd::PutOptions::new().with_lease(lease_number(put.lease));
    if put.prev_kv {
        options = options.with_prev_key();
    }
    if put.ignore_value {
        options = options.with_ignore_value();
    }
    if put.ignore_lease {
        options = options.with_ignore_lease();
    }
    (put.key.clone().into(), put.value.clone().into(), options)
}

/// A delete: its key and its options.
pub(crate) fn delete(delete: &Delete) -> (Vec<u8>, etcd::DeleteOptions) {
    let mut options = etcd::DeleteOptions::new().with_range(delete.keys.range_end().clone());
    if delete.prev_kv {
        options = options.with_prev_key();
    }
    (delete.keys.start().clone().into(), options)
}

/// A transaction, with the nested transactions.
pub(crate) fn txn(txn: &Txn) -> etcd::Txn {
    etcd::Txn::new()
        .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.success.iter().map(op).collect::<Vec<_>>())
        .or_else(txn.failure.iter().map(op).collect::<Vec<_>>())
}

/// An operation of a transaction.
pub(crate) fn op(op: &Op) -> etcd::TxnOp {
    match op {
        Op::Range(request) => {
            let (key, options) = range(request);
            etcd::TxnOp::get(key, Some(options))
        }
        Op::Put(request) => {
            let (key, value, options) = put(request);
            etcd::TxnOp::put(key, value, Some(options))
        }
        Op::Delete(request) => {
            let (key, options) = delete(request);
            etcd::TxnOp::delete(key, Some(options))
        }
        Op::Txn(nested) => etcd::TxnOp::txn(txn(nested)),
    }
}

fn compare(compare: &Compare) -> etcd::Compare {
    let key = compare.keys.start().clone();
    let op = match compare.op {
        CompareOp::Equal => etcd::CompareOp::Equal,
        CompareOp::Greater => etcd::CompareOp::Greater,
        CompareOp::Less => etcd::CompareOp::Less,
        CompareOp::NotEqual => etcd::CompareOp::NotEqual,
    };
    let condition = match &compare.operand {
        CompareOperand::Version(version) => etcd::Compare::version(key, op, *version),
        CompareOperand::CreateRevision(revision) => {
            etcd::Compare::create_revision(key, op, revision.0)
        }
        CompareOperand::ModRevision(revision) => etcd::Compare::mod_revision(key, op, revision.0),
        CompareOperand::Value(value) => etcd::Compare::value(key, op, value.clone()),
        CompareOperand::Lease(lease) => etcd::Compare::lease(key, op, lease_number(*lease)),
    };
    condition.with_range(compare.keys.range_end().clone())
}

/// A compaction: its revision and its options.
pub(crate) fn compact(compact: Compact) -> (i64, etcd::CompactionOptions) {
    let options = etcd::CompactionOptions::new();
    (compact.revision.0, if compact.physical { options.with_physical() } else { options })
}

/// A watch: its key and its options. The store chooses the id and does not fragment messages.
pub(crate) fn watch(watch: &Watch) -> (Vec<u8>, etcd::WatchOptions) {
    let filters = watch.filters.iter().map(|filter| match filter {
        WatchFilter::NoPut => etcd::WatchFilterType::NoPut,
        WatchFilter::NoDelete => etcd::WatchFilterType::NoDelete,
    });
    let mut options = etcd::WatchOptions::new()
        .with_range(watch.keys.range_end().clone())
        .with_start_revision(revision(watch.start_revision))
        .with_filters(filters.collect::<Vec<_>>());
    if watch.prev_kv {
        options = options.with_prev_key();
    }
    if watch.progress_notify {
        options = options.with_progress_notify();
    }
    (watch.keys.start().clone().into(), options)
}

/// A grant: its TTL in seconds and its options.
///
/// The pre-flight check has refused a fractional TTL, and a TTL above the limit.
pub(crate) fn lease_grant(grant: LeaseGrant) -> (i64, etcd::LeaseGrantOptions) {
    let seconds = i64::try_from(grant.ttl.as_secs()).unwrap_or(i64::MAX);
    (seconds, etcd::LeaseGrantOptions::new().with_id(lease_number(grant.id)))
}

/// A request for the state of a lease: its id and its options.
pub(crate) fn lease_time_to_live(request: LeaseTimeToLive) -> (i64, etcd::LeaseTimeToLiveOptions) {
    let options = etcd::LeaseTimeToLiveOptions::new();
    (request.id.get(), if request.keys { options.with_keys() } else { options })
}
