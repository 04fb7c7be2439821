//! The check of one response: its revision, and what the store has at that revision.
//!
//! The *base* of a request is the last revision before its changes: the revision of the response,
//! less one if the request has changed a key. The state at both is read from the store again:
//!
//! ```text
//! txn if version(k) = 0 then put k=1, range k     response: revision 8, succeeded, k=1
//! base 7    k is absent    so the compare is met
//! at 8      k=1, version 1, created at 8          so the put took effect, and the range is right
//! ```

use coord_core::error::Outcome;
use coord_core::kv::{
    Compare, Delete, DeleteResponse, KeyRange, KeyValue, Op, OpResponse, Put, PutResponse, Range,
    RangeResponse, Revision, TxnResponse,
};
use coord_core::{Error, KvBackend as _};
use coord_mem::MemBackend;

use super::respond_now;
use crate::Call;
use crate::stale_member::is_serializable;

/// Nothing is wrong, or what is.
pub(super) type CheckResult = Result<(), String>;

/// What the check has observed of the store while it processed one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    /// The revisions of the store before the request and after it.
    pub(super) before: Revision,
    pub(super) after: Revision,
    /// Whether the store responded at once, so that nothing else can have changed it meanwhile.
    pub(super) at_once: bool,
}

impl Observed {
    /// Checks that a request with an error added no revision, if its outcome is known.
    pub(super) fn check_error(self, error: &Error) -> CheckResult {
        if error.outcome() == Outcome::NotApplied {
            return self.check_count(0).map_err(|text| format!("{text}, despite \"{error}\""));
        }
        Ok(())
    }

    /// Checks the number of revisions that the request has added, if it is known.
    fn check_count(self, expected: i64) -> CheckResult {
        let added = self.after.0 - self.before.0;
        if self.at_once && added != expected {
            return Err(format!("added {added} revisions to the store, not {expected}"));
        }
        Ok(())
    }

    /// Checks the revision of a response, and the number of changes.
    fn check_revision(self, revision: Revision, has_changed: bool, is_stale: bool) -> CheckResult {
        let Self { before, after, .. } = self;
        if revision > after {
            return Err(format!("has revision {revision}, but the store is at {after}"));
        }
        let first = if has_changed { before.next() } else { before };
        if revision < first && !is_stale {
            return Err(format!(
                "has revision {revision}, but the store was at {before} before the request"
            ));
        }
        self.check_count(i64::from(has_changed))
    }
}

/// Fails unless both are equal.
fn check_equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> CheckResult {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: found {found:?}, expected {expected:?}"))
}

/// Reads the store at a revision; `None` if that revision is compacted.
fn read(mem: &MemBackend, range: Range, at: Revision) -> Option<RangeResponse> {
    let requested = range.revision.filter(|revision| *revision > Revision::ZERO);
    respond_now(mem.range(range.at(requested.unwrap_or(at))))
}

/// The keys of a range at a revision.
fn keys_at(mem: &MemBackend, keys: &KeyRange, at: Revision) -> Option<Vec<KeyValue>> {
    read(mem, Range::new(keys), at).map(|read| read.kvs)
}

/// The last revision before the changes of a request.
const fn base_of(revision: Revision, has_changed: bool) -> Revision {
    if has_changed { Revision(revision.0 - 1) } else { revision }
}

pub(super) fn check_range(
    mem: &MemBackend,
    call: &Call,
    response: &RangeResponse,
    observed: Observed,
) -> CheckResult {
    let Call::Range(range) = call else { return Ok(()) };
    let revision = response.header.revision;
    observed.check_revision(revision, false, range.serializable)?;
    check_read(mem, range, response, revision)
}

fn check_read(
    mem: &MemBackend,
    range: &Range,
    response: &RangeResponse,
    at: Revision,
) -> CheckResult {
    let Some(expected) = read(mem, range.clone(), at) else { return Ok(()) };
    check_equal(&format!("keys of {} at {at}", range.keys), &response.kvs, &expected.kvs)?;
    let counts = |read: &RangeResponse| (read.count, read.more);
    check_equal("count, and whether there are more", &counts(response), &counts(&expected))
}

pub(super) fn check_put(
    mem: &MemBackend,
    call: &Call,
    response: &PutResponse,
    observed: Observed,
) -> CheckResult {
    let Call::Put(put) = call else { return Ok(()) };
    let revision = response.header.revision;
    observed.check_revision(revision, true, false)?;
    check_put_at(mem, put, response, revision)
}

/// Checks the key of a put at the revision of the put, and the previous key in the response.
fn check_put_at(mem: &MemBackend, put: &Put, response: &PutResponse, at: Revision) -> CheckResult {
    let key = KeyRange::key(&put.key);
    let before = keys_at(mem, &key, base_of(at, true));
    let (Some(before), Some(after)) = (before, keys_at(mem, &key, at)) else { return Ok(()) };
    let previous = before.first();
    let kept = |is_kept: bool| previous.filter(|_| is_kept);
    let expected = KeyValue {
        key: put.key.clone(),
        value: kept(put.ignore_value).map_or(&put.value, |kv| &kv.value).clone(),
        create_revision: previous.map_or(at, |kv| kv.create_revision),
        mod_revision: at,
        version: previous.map_or(0, |kv| kv.version) + 1,
        lease: kept(put.ignore_lease).map_or(put.lease, |kv| kv.lease),
    };
    check_equal("the key after the put", &after.first(), &Some(&expected))?;
    check_equal("the previous key", &response.prev_kv.as_ref(), &previous.filter(|_| put.prev_kv))
}

pub(super) fn check_delete(
    mem: &MemBackend,
    call: &Call,
    response: &DeleteResponse,
    observed: Observed,
) -> CheckResult {
    let Call::Delete(delete) = call else { return Ok(()) };
    let (revision, has_changed) = (response.header.revision, response.deleted > 0);
    observed.check_revision(revision, has_changed, false)?;
    check_deleted(mem, delete, response, base_of(revision, has_changed))?;
    check_absent(mem, &delete.keys, revision)
}

/// Checks which keys the response to a delete counts and returns, on the keys before the delete.
fn check_deleted(
    mem: &MemBackend,
    delete: &Delete,
    response: &DeleteResponse,
    base: Revision,
) -> CheckResult {
    let Some(before) = keys_at(mem, &delete.keys, base) else { return Ok(()) };
    let count = i64::try_from(before.len()).unwrap_or(i64::MAX);
    check_equal("the number of deleted keys", &response.deleted, &count)?;
    let expected = if delete.prev_kv { before } else { Vec::new() };
    check_equal("the deleted keys", &response.prev_kvs, &expected)
}

fn check_absent(mem: &MemBackend, keys: &KeyRange, at: Revision) -> CheckResult {
    let left = keys_at(mem, keys, at).unwrap_or_default();
    check_equal("the keys after the delete", &left, &Vec::new())
}

pub(super) fn check_txn(
    mem: &MemBackend,
    call: &Call,
    response: &TxnResponse,
    observed: Observed,
) -> CheckResult {
    let Call::Txn(txn) = call else { return Ok(()) };
    let (revision, has_changed) = (response.header.revision, has_changed(&response.responses));
    observed.check_revision(revision, has_changed, is_serializable(txn))?;
    let base = base_of(revision, has_changed);
    if let Some(is_met) = are_met(mem, &txn.compares, base) {
        check_equal(&format!("compares met at {base}"), &response.succeeded, &is_met)?;
    }
    let ops = if response.succeeded { &txn.success } else { &txn.failure };
    check_equal("the number of results", &response.responses.len(), &ops.len())?;
    for (i, result) in response.responses.iter().enumerate() {
        check_op(mem, ops, i, result, (base, revision))
            .map_err(|text| format!("operation {}: {text}", i + 1))?;
    }
    Ok(())
}

/// Whether a transaction with these results has changed a key.
fn has_changed(results: &[OpResponse]) -> bool {
    results.iter().any(|result| match result {
        OpResponse::Range(_) => false,
        OpResponse::Put(_) => true,
        OpResponse::Delete(delete) => delete.deleted > 0,
        OpResponse::Txn(nested) => has_changed(&nested.responses),
    })
}

/// Whether all compares are met at a revision; `None` if that revision is compacted.
fn are_met(mem: &MemBackend, compares: &[Compare], at: Revision) -> Option<bool> {
    let mut are_met = true;
    for compare in compares {
        let found = keys_at(mem, &compare.keys, at)?;
        are_met &= match &found[..] {
            [] => compare.is_met_by(None),
            kvs => kvs.iter().all(|kv| compare.is_met_by(Some(kv))),
        };
    }
    Some(are_met)
}

/// Checks the result of operation `i` of a branch, unless the state that it depends on is not
/// readable: the state between two operations that change the same keys.
fn check_op(
    mem: &MemBackend,
    ops: &[Op],
    i: usize,
    result: &OpResponse,
    (base, revision): (Revision, Revision),
) -> CheckResult {
    let changed_before = |keys: &KeyRange| ops[..i].iter().any(|op| changes(op, keys));
    let changed_after = |keys: &KeyRange| ops[i + 1..].iter().any(|op| changes(op, keys));
    match (&ops[i], result) {
        (Op::Range(range), OpResponse::Range(response)) => {
            match (changed_before(&range.keys), changed_after(&range.keys)) {
                (false, _) => check_read(mem, range, response, base),
                (true, false) => check_read(mem, range, response, revision),
                (true, true) => Ok(()),
            }
        }
        (Op::Put(put), OpResponse::Put(response)) => {
            let key = KeyRange::key(&put.key);
            if changed_before(&key) || changed_after(&key) {
                return Ok(());
            }
            check_put_at(mem, put, response, revision)
        }
        (Op::Delete(delete), OpResponse::Delete(response)) => {
            if !changed_before(&delete.keys) {
                check_deleted(mem, delete, response, base)?;
            }
            if changed_after(&delete.keys) {
                return Ok(());
            }
            check_absent(mem, &delete.keys, revision)
        }
        (Op::Txn(_), OpResponse::Txn(_)) => Ok(()),
        (op, result) => Err(format!("the result {result:?} is not one of {op:?}")),
    }
}

/// Whether an operation can change a key of the range.
fn changes(op: &Op, keys: &KeyRange) -> bool {
    match op {
        Op::Range(_) => false,
        Op::Put(put) => keys.contains(&put.key),
        Op::Delete(delete) => {
            // Two ranges have a key in common only if the start of one of them is in the other.
            keys.contains(delete.keys.start()) || delete.keys.contains(keys.start())
        }
        Op::Txn(nested) => nested.success.iter().chain(&nested.failure).any(|op| changes(op, keys)),
    }
}

#[cfg(test)]
mod tests;
