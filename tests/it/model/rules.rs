//! What is refused before any data is looked at, and which keys a range means.
//!
//! Written from `docs/etcd-contract.md` §2 to §4 alone, and on purpose without the checks of
//! `coord-core`: two programs that share a mistake agree.

use bytes::Bytes;
use coord_core::{
    error::ErrorKind,
    kv::{Compare, KeyRange, KeyValue, Limits, Op, Put, Txn},
};

use super::state::{Answer, State};

/// §2: an empty end is a single key, a zero byte is no end, anything else is where it ends.
pub(super) fn is_in(key: &Bytes, range: &KeyRange) -> bool {
    let (start, end) = (range.start(), range.range_end());
    if end.is_empty() {
        key == start
    } else if &end[..] == b"\0" {
        key >= start
    } else {
        start <= key && key < end
    }
}

/// All keys of a range, in key order.
pub(super) fn keys_in(state: &State, range: &KeyRange) -> Vec<KeyValue> {
    state.values().filter(|kv| is_in(&kv.key, range)).cloned().collect()
}

pub(super) fn check_key(key: &Bytes) -> Answer<()> {
    if key.is_empty() { Err(ErrorKind::EmptyKey) } else { Ok(()) }
}

/// §3: the checks of a put, in order.
pub(super) fn check_put(put: &Put) -> Answer<()> {
    check_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(ErrorKind::ValueProvided);
    }
    if put.ignore_lease && put.lease.is_some() {
        return Err(ErrorKind::LeaseProvided);
    }
    Ok(())
}

/// §8: a change that is too large is refused once it has been found to be well formed.
///
/// The encoding is left out of account: what is drawn is either far below the limit or, by one
/// big value, above it.
pub(super) fn check_size(size_bytes: usize, limits: &Limits) -> Answer<()> {
    if size_bytes > limits.max_request_bytes { Err(ErrorKind::RequestTooLarge) } else { Ok(()) }
}

/// §4: the number of operations and their forms, on all levels; then keys given twice.
pub(super) fn check_txn(txn: &Txn, limits: &Limits) -> Answer<()> {
    check_forms(txn, limits.max_txn_ops)?;
    touched(&txn.success)?;
    touched(&txn.failure)?;
    if is_read_only(txn) {
        return Ok(());
    }
    check_size(weight(txn), limits)
}

/// §4: every step of both branches is a range; a nested transaction is not.
pub(super) fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().all(|op| matches!(op, Op::Range(_)))
        && txn.failure.iter().all(|op| matches!(op, Op::Range(_)))
}

fn check_forms(txn: &Txn, budget: usize) -> Answer<()> {
    let mut count = txn.compares.len();
    count = count.max(txn.success.len());
    count = count.max(txn.failure.len());
    if count > budget {
        return Err(ErrorKind::TooManyOps);
    }
    for Compare { keys, .. } in &txn.compares {
        check_key(keys.start())?;
    }
    for branch in [&txn.success, &txn.failure] {
        for op in branch {
            match op {
                Op::Range(range) => check_key(range.keys.start())?,
                Op::Put(put) => check_put(put)?,
                Op::Delete(delete) => check_key(delete.keys.start())?,
                Op::Txn(nested) => check_forms(nested, budget - count)?,
            }
        }
    }
    Ok(())
}

/// The keys put and the ranges deleted on a branch; an error if they collide.
fn touched(ops: &[Op]) -> Answer<(Vec<Bytes>, Vec<KeyRange>)> {
    let (mut puts, mut deletes) = (Vec::<Bytes>::new(), Vec::<KeyRange>::new());
    let is_free = |key: &Bytes, puts: &[Bytes], deletes: &[KeyRange]| {
        !puts.contains(key) && !deletes.iter().any(|range| is_deleted_by(key, range))
    };
    for op in ops {
        if let Op::Delete(delete) = op {
            deletes.push(delete.keys.clone());
        }
    }
    for op in ops {
        let Op::Txn(nested) = op else { continue };
        let (then_puts, then_deletes) = touched(&nested.success)?;
        let (else_puts, else_deletes) = touched(&nested.failure)?;
        for key in &then_puts {
            if !is_free(key, &puts, &deletes) {
                return Err(ErrorKind::DuplicateKey);
            }
        }
        for key in &else_puts {
            if !is_free(key, &puts, &deletes) {
                return Err(ErrorKind::DuplicateKey);
            }
        }
        // Only now: that Then and Else put the same key is no collision.
        puts.extend(then_puts);
        puts.extend(else_puts);
        deletes.extend(then_deletes);
        deletes.extend(else_deletes);
    }
    for op in ops {
        if let Op::Put(put) = op {
            if !is_free(&put.key, &puts, &deletes) {
                return Err(ErrorKind::DuplicateKey);
            }
            puts.push(put.key.clone());
        }
    }
    Ok((puts, deletes))
}

/// §4, the hole: to this check a delete without end deletes nothing.
fn is_deleted_by(key: &Bytes, range: &KeyRange) -> bool {
    &range.range_end()[..] != b"\0" && is_in(key, range)
}

/// The keys and values of all puts.
fn weight(txn: &Txn) -> usize {
    let compared = txn.compares.iter().map(|compare| match &compare.operand {
        coord_core::kv::CompareOperand::Value(value) => value.len(),
        _ => 0,
    });
    let steps = txn.success.iter().chain(&txn.failure).map(|op| match op {
        Op::Put(put) => put.key.len() + put.value.len(),
        Op::Txn(nested) => weight(nested),
        Op::Range(_) | Op::Delete(_) => 0,
    });
    compared.chain(steps).sum()
}
