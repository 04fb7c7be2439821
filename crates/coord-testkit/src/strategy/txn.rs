//! Strategies of transactions: nested up to three levels, valid and invalid.
//!
//! If all transactions were equally likely, nearly all would be refused for duplicate keys, because
//! there are only six keys. Branches are therefore short and mix puts with reads, so that most
//! transactions are accepted, and some still have duplicate keys.

use bytes::Bytes;
use coord_core::kv::{Compare, CompareOp, CompareOperand, KeyRange, Revision};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::pools::key_range_or_empty;
use super::requests::{delete, put, range};
use super::{At, CompareDraft, Hazards, OpDraft, RangeDraft, TxnDraft, at, lease_id, value};

/// The largest number of levels in a transaction, the outermost included.
const MAX_TXN_DEPTH: u32 = 3;

/// A transaction.
pub fn txn(hazards: Hazards) -> BoxedStrategy<TxnDraft> {
    match hazards {
        Hazards::Include => prop_oneof![11 => txn_of(MAX_TXN_DEPTH), 1 => delete_and_put()].boxed(),
        Hazards::Exclude => txn_of(MAX_TXN_DEPTH).prop_map(without_hazard).boxed(),
    }
}

/// A transaction that deletes and puts one key, in either order.
///
/// The delete is unbounded, because every other such transaction is refused for a duplicate key.
fn delete_and_put() -> BoxedStrategy<TxnDraft> {
    let keeps_value = prop::bool::weighted(0.3);
    (delete(), put(), range_op(), prop::bool::ANY, keeps_value)
        .prop_map(|(mut delete, mut put, range, delete_first, keeps_value)| {
            delete.keys = KeyRange::starting_at(&put.key);
            if keeps_value {
                put.value = Bytes::new();
                put.ignore_value = true;
            }
            let mut success = vec![OpDraft::Put(put), OpDraft::Range(range)];
            success.insert(if delete_first { 0 } else { 2 }, OpDraft::Delete(delete));
            TxnDraft { success, ..TxnDraft::default() }
        })
        .boxed()
}

/// A transaction with at most `depth` levels.
fn txn_of(depth: u32) -> BoxedStrategy<TxnDraft> {
    let compares = prop_oneof![10 => vec(compare(), 0..=2), 1 => vec(compare(), 3..=5)];
    (compares, branch(depth), branch(depth))
        .prop_map(|(compares, success, failure)| TxnDraft { compares, success, failure })
        .boxed()
}

fn branch(depth: u32) -> BoxedStrategy<Vec<OpDraft>> {
    let op = op(depth);
    prop_oneof![
        20 => vec(op.clone(), 0..=2),
        6 => vec(op.clone(), 3),
        1 => vec(op, 4..=12),
    ]
    .boxed()
}

fn op(depth: u32) -> BoxedStrategy<OpDraft> {
    let flat = prop_oneof![
        3 => put().prop_map(OpDraft::Put),
        3 => range_op().prop_map(OpDraft::Range),
        2 => delete().prop_map(OpDraft::Delete),
    ];
    if depth <= 1 {
        return flat.boxed();
    }
    prop_oneof![6 => flat, 2 => txn_of(depth - 1).prop_map(OpDraft::Txn)].boxed()
}

/// A range in a transaction. At least half of the ranges read the current state, because a range at
/// an unavailable revision makes the whole transaction fail.
fn range_op() -> BoxedStrategy<RangeDraft> {
    (range(), prop::bool::ANY)
        .prop_map(|(mut range, current)| {
            if current {
                range.revision = At::Absolute(0);
            }
            range
        })
        .boxed()
}

/// A compare, often one that holds.
pub fn compare() -> BoxedStrategy<CompareDraft> {
    let op =
        select(&[CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual][..]);
    let operand = prop_oneof![
        (0_i64..=2).prop_map(CompareOperand::Version),
        Just(CompareOperand::CreateRevision(Revision::ZERO)),
        Just(CompareOperand::ModRevision(Revision::ZERO)),
        value().prop_map(CompareOperand::Value),
        prop::option::of(lease_id()).prop_map(CompareOperand::Lease),
    ];
    (key_range_or_empty(), op, operand, at())
        .prop_map(|(keys, op, operand, revision)| CompareDraft {
            request: Compare { keys, op, operand },
            revision,
        })
        .boxed()
}

/// Removes the unbounded deletes from a transaction with a put.
fn without_hazard(mut txn: TxnDraft) -> TxnDraft {
    if has_put(&txn) {
        remove_unbounded_deletes(&mut txn);
    }
    txn
}

/// The operations of both branches, without those of nested transactions.
fn ops(txn: &TxnDraft) -> impl Iterator<Item = &OpDraft> {
    txn.success.iter().chain(&txn.failure)
}

fn has_put(txn: &TxnDraft) -> bool {
    ops(txn).any(|op| match op {
        OpDraft::Put(_) => true,
        OpDraft::Txn(nested) => has_put(nested),
        OpDraft::Range(_) | OpDraft::Delete(_) => false,
    })
}

fn remove_unbounded_deletes(txn: &mut TxnDraft) {
    for branch in [&mut txn.success, &mut txn.failure] {
        branch.retain(|op| !matches!(op, OpDraft::Delete(delete) if is_unbounded(&delete.keys)));
        for op in branch {
            if let OpDraft::Txn(nested) = op {
                remove_unbounded_deletes(nested);
            }
        }
    }
}

fn is_unbounded(keys: &KeyRange) -> bool {
    keys.upper_bound().is_none()
}
