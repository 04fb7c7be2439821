//! The model's checks of requests that need no data, and the keys of a range.
//!
//! They are written from `docs/etcd-contract.md` §2 to §4 and §8 alone, without the checks of
//! `coord-core`, because the comparison cannot find a mistake in shared code.

use bytes::Bytes;
use coord_core::{
    error::ErrorKind,
    kv::{Compare, KeyRange, KeyValue, Limits, Op, Put, Txn},
};

use super::state::{ModelResult, State};

/// §2: an empty end means a single key, a zero byte means no end, anything else is the end.
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

pub(super) fn check_key(key: &Bytes) -> ModelResult<()> {
    if key.is_empty() { Err(ErrorKind::EmptyKey) } else { Ok(()) }
}

/// §3: the checks of a put, in order.
pub(super) fn check_put(put: &Put) -> ModelResult<()> {
    check_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(ErrorKind::ValueProvided);
    }
    if put.ignore_lease && put.lease.is_some() {
        return Err(ErrorKind::LeaseProvided);
    }
    Ok(())
}

/// §8: a write over the size limit is rejected after the checks of its form.
///
/// The size of the encoding is ignored: a generated request is either far below the limit, or above
/// it because of one large value.
pub(super) fn check_size(size_bytes: usize, limits: &Limits) -> ModelResult<()> {
    if size_bytes > limits.max_request_bytes { Err(ErrorKind::RequestTooLarge) } else { Ok(()) }
}

/// §4: the number of operations and their form, on all levels; then duplicate keys; then the size.
pub(super) fn check_txn(txn: &Txn, limits: &Limits) -> ModelResult<()> {
    check_forms(txn, limits.max_txn_ops)?;
    written_keys(&txn.success)?;
    written_keys(&txn.failure)?;
    if is_read_only(txn) {
        return Ok(());
    }
    check_size(txn_size_bytes(txn), limits)
}

/// §4: every step of both branches is a range; a nested transaction is not.
pub(super) fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().all(|op| matches!(op, Op::Range(_)))
        && txn.failure.iter().all(|op| matches!(op, Op::Range(_)))
}

fn check_forms(txn: &Txn, budget: usize) -> ModelResult<()> {
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

/// The keys put and the ranges deleted in a branch. An error if a key is put twice, or put and
/// deleted.
fn written_keys(ops: &[Op]) -> ModelResult<(Vec<Bytes>, Vec<KeyRange>)> {
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
        let (success_puts, success_deletes) = written_keys(&nested.success)?;
        let (failure_puts, failure_deletes) = written_keys(&nested.failure)?;
        for key in &success_puts {
            if !is_free(key, &puts, &deletes) {
                return Err(ErrorKind::DuplicateKey);
            }
        }
        for key in &failure_puts {
            if !is_free(key, &puts, &deletes) {
                return Err(ErrorKind::DuplicateKey);
            }
        }
        // Added after both checks, because the two branches of a transaction may put the same key.
        puts.extend(success_puts);
        puts.extend(failure_puts);
        deletes.extend(success_deletes);
        deletes.extend(failure_deletes);
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

/// §4, an exception in etcd: this check ignores a delete without an end.
fn is_deleted_by(key: &Bytes, range: &KeyRange) -> bool {
    &range.range_end()[..] != b"\0" && is_in(key, range)
}

/// The size of the keys and values of all puts and of the compared values.
fn txn_size_bytes(txn: &Txn) -> usize {
    let compared = txn.compares.iter().map(|compare| match &compare.operand {
        coord_core::kv::CompareOperand::Value(value) => value.len(),
        _ => 0,
    });
    let steps = txn.success.iter().chain(&txn.failure).map(|op| match op {
        Op::Put(put) => put.key.len() + put.value.len(),
        Op::Txn(nested) => txn_size_bytes(nested),
        Op::Range(_) | Op::Delete(_) => 0,
    });
    compared.chain(steps).sum()
}
