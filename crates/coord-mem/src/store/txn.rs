//! Transactions: evaluate the compares, check the operations, then apply them without failing.
//!
//! The three passes, on `if a absent { put a; txn { if a absent { put b } else { put c } } }`:
//!
//! 1. *Evaluate* the compares of the transaction and of the nested transactions on its path,
//!    against the state before the transaction. The result is the path through the branches. Here
//!    both transactions take their success branch: for the inner compare `a` is absent too,
//!    although the outer transaction puts `a` before the inner one is applied.
//! 2. *Check* the operations on the path, and no others: puts first, then ranges. If a check fails,
//!    the store is unchanged.
//! 3. *Apply* the operations in order, at one new revision. A range reads the writes of earlier
//!    operations of the transaction: a range after the inner transaction reads both `a` and `b`.

use std::sync::Arc;

use coord_core::{
    Error, Result,
    kv::{
        Compare, Delete, DeleteResponse, EventKind, Header, KeyRange, KeyValue, LeaseId, Op,
        OpResponse, Put, PutResponse, Range, RangeResponse, Revision, Txn, TxnResponse,
    },
};

use super::Store;
use super::log::{Change, RevisionChanges};

/// The branch that a transaction takes, and the paths of the nested transactions on it, in order.
struct Path {
    succeeded: bool,
    nested: Vec<Self>,
}

impl Path {
    /// The operations on the path, each nested transaction with its own path.
    fn ops<'a>(&'a self, txn: &'a Txn) -> impl Iterator<Item = (&'a Op, Option<&'a Self>)> {
        let mut nested = self.nested.iter();
        branch(txn, self.succeeded).iter().map(move |op| {
            let path = matches!(op, Op::Txn(_)).then(|| nested.next()).flatten();
            (op, path)
        })
    }
}

/// The operations of the branch that is taken.
const fn branch(txn: &Txn, succeeded: bool) -> &Vec<Op> {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Why a transaction is refused: etcd would crash.
const PUT_AFTER_UNBOUNDED_DELETE: &str =
    "a put with ignore_value or ignore_lease follows an unbounded delete of its key";

impl Store {
    /// Applies a transaction that passed [`Txn::check`].
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnResponse> {
        let path = self.evaluate(txn);
        self.check_puts(txn, &path)?;
        self.check_ranges(txn, &path)?;
        check_put_after_unbounded_delete(txn, &path, &mut Vec::new())?;

        let mut changes = PendingRevision::begin(self);
        let response = changes.run(txn, &path);
        changes.commit();
        Ok(TxnResponse { header: self.header(), ..response })
    }

    /// Like [`txn`](Self::txn), for a read-only transaction, which needs no write lock.
    pub(crate) fn read_only_txn(&self, txn: &Txn) -> Result<TxnResponse> {
        let path = self.evaluate(txn);
        self.check_ranges(txn, &path)?;
        let responses = path.ops(txn).map(|(op, _)| match op {
            Op::Range(range) => {
                let header = Header::at(self.revision);
                OpResponse::Range(RangeResponse { header, ..self.select(range) })
            }
            other => unreachable!("{other:?} in a read-only transaction"),
        });
        let responses = responses.collect();
        Ok(TxnResponse { header: self.header(), succeeded: path.succeeded, responses })
    }

    /// Pass 1: evaluates the compares on the path.
    fn evaluate(&self, txn: &Txn) -> Path {
        let succeeded = txn.compares.iter().all(|compare| self.compare_holds(compare));
        let nested = branch(txn, succeeded).iter().filter_map(|op| match op {
            Op::Txn(nested) => Some(self.evaluate(nested)),
            _ => None,
        });
        Path { succeeded, nested: nested.collect() }
    }

    /// Whether a compare holds for every key of its range, or for an absent key if the range is
    /// empty.
    fn compare_holds(&self, compare: &Compare) -> bool {
        let (mut any, mut all) = (false, true);
        self.index.visit(&compare.keys, |kv| {
            any = true;
            all = all && compare.is_met_by(Some(kv));
        });
        if any { all } else { compare.is_met_by(None) }
    }

    /// Pass 2: checks the puts on the path.
    fn check_puts(&self, txn: &Txn, path: &Path) -> Result<()> {
        for (op, nested) in path.ops(txn) {
            match (op, nested) {
                (Op::Put(put), _) => {
                    self.check_ignored_fields(put)?;
                    self.check_lease(put.lease)?;
                }
                (Op::Txn(txn), Some(path)) => self.check_puts(txn, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Pass 2: checks the ranges on the path.
    fn check_ranges(&self, txn: &Txn, path: &Path) -> Result<()> {
        for (op, nested) in path.ops(txn) {
            match (op, nested) {
                (Op::Range(range), _) => self.check_range(range)?,
                (Op::Txn(txn), Some(path)) => self.check_ranges(txn, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks that the key of a put with `ignore_value` or `ignore_lease` exists.
    pub(super) fn check_ignored_fields(&self, put: &Put) -> Result<()> {
        if (put.ignore_value || put.ignore_lease) && self.index.get(&put.key).is_none() {
            return Err(Error::KeyNotFound { key: Some(put.key.clone()) });
        }
        Ok(())
    }

    /// Checks that the lease of a put exists.
    pub(super) fn check_lease(&self, lease: Option<LeaseId>) -> Result<()> {
        match lease {
            Some(id) if !self.leases.contains(id) => Err(Error::LeaseNotFound { lease }),
            _ => Ok(()),
        }
    }

    /// Checks the revision of a range. Unlike outside a transaction, a negative revision is not
    /// treated as zero, but compared with the compact revision, which is -1 before the first
    /// compaction.
    fn check_range(&self, range: &Range) -> Result<()> {
        let Some(requested) = range.revision.filter(|revision| *revision != Revision::ZERO) else {
            return Ok(());
        };
        let current = self.revision;
        if requested > current {
            let (requested, current) = (Some(requested), Some(current));
            return Err(Error::FutureRevision { requested, current });
        }
        if requested < self.compact_revision {
            return Err(self.compacted_error(requested));
        }
        Ok(())
    }
}

/// Checks for the only way in which a checked transaction could still fail:
/// [`PUT_AFTER_UNBOUNDED_DELETE`].
///
/// [`Txn::check`] rejects a transaction that puts a key after any other delete of the key:
/// duplicate key.
fn check_put_after_unbounded_delete<'a>(
    txn: &'a Txn,
    path: &'a Path,
    deleted: &mut Vec<&'a KeyRange>,
) -> Result<()> {
    for (op, nested) in path.ops(txn) {
        match (op, nested) {
            (Op::Delete(delete), _) if delete.keys.upper_bound().is_none() => {
                deleted.push(&delete.keys);
            }
            (Op::Put(put), _)
                if (put.ignore_value || put.ignore_lease)
                    && deleted.iter().any(|range| range.contains(&put.key)) =>
            {
                return Err(Error::Refused { hazard: PUT_AFTER_UNBOUNDED_DELETE });
            }
            (Op::Txn(txn), Some(path)) => check_put_after_unbounded_delete(txn, path, deleted)?,
            _ => {}
        }
    }
    Ok(())
}

/// A revision that is not committed yet, and its changes so far.
pub(super) struct PendingRevision<'a> {
    store: &'a mut Store,
    /// The revision that the changes will have.
    revision: Revision,
    changes: RevisionChanges,
}

impl<'a> PendingRevision<'a> {
    pub(super) const fn begin(store: &'a mut Store) -> Self {
        let revision = store.revision.next();
        Self { store, revision, changes: RevisionChanges::new_const() }
    }

    /// Commits the changes as the store's next revision; without changes, the store's revision
    /// stays the same.
    pub(super) fn commit(self) {
        if !self.changes.is_empty() {
            self.store.revision = self.revision;
            self.store.log.push(self.changes);
        }
    }

    /// Pass 3: applies the operations on the path. Cannot fail.
    fn run(&mut self, txn: &Txn, path: &Path) -> TxnResponse {
        let responses = path.ops(txn).map(|(op, nested)| match (op, nested) {
            (Op::Range(range), _) => {
                let header = self.header();
                OpResponse::Range(RangeResponse { header, ..self.store.select(range) })
            }
            (Op::Put(put), _) => OpResponse::Put(self.put(put.clone())),
            (Op::Delete(delete), _) => OpResponse::Delete(self.delete(delete)),
            (Op::Txn(txn), Some(path)) => OpResponse::Txn(self.run(txn, path)),
            (Op::Txn(_), None) => unreachable!("every nested transaction has been evaluated"),
        });
        let responses = responses.collect();
        TxnResponse { header: Header::default(), succeeded: path.succeeded, responses }
    }

    /// The header of an operation's response: before the first change, the store's old revision.
    fn header(&self) -> Header {
        Header::at(if self.changes.is_empty() { self.store.revision } else { self.revision })
    }

    pub(super) fn put(&mut self, put: Put) -> PutResponse {
        let Put { key, value, lease, prev_kv, ignore_value, ignore_lease } = put;
        let mod_revision = self.revision;
        let (before, kv) = self.store.index.put(key, |key, before| KeyValue {
            key,
            value: match before {
                Some(before) if ignore_value => before.value.clone(),
                _ => value,
            },
            create_revision: before.map_or(mod_revision, |before| before.create_revision),
            mod_revision,
            version: before.map_or(0, |before| before.version) + 1,
            lease: if ignore_lease { before.and_then(|before| before.lease) } else { lease },
        });
        let old_lease = before.as_ref().and_then(|before| before.lease);
        self.store.leases.reattach(&kv.key, old_lease, kv.lease);
        self.changes.push(Change { kind: EventKind::Put, kv });
        let prev_kv = before.filter(|_| prev_kv).map(Arc::unwrap_or_clone);
        PutResponse { header: Header::at(self.revision), prev_kv }
    }

    pub(super) fn delete(&mut self, delete: &Delete) -> DeleteResponse {
        let mut keys = Vec::new();
        self.store.index.visit(&delete.keys, |kv| keys.push(kv.key.clone()));
        let mut prev_kvs = Vec::new();
        let mut deleted = 0;
        for key in keys {
            let Some(kv) = self.delete_key(&key) else { continue };
            deleted += 1;
            if delete.prev_kv {
                prev_kvs.push(Arc::unwrap_or_clone(kv));
            }
        }
        DeleteResponse { header: self.header(), deleted, prev_kvs }
    }

    /// Deletes one key, and returns its last version.
    pub(super) fn delete_key(&mut self, key: &[u8]) -> Option<Arc<KeyValue>> {
        let kv = self.store.index.delete(key, self.revision)?;
        self.store.leases.reattach(&kv.key, kv.lease, None);
        let (key, mod_revision) = (kv.key.clone(), self.revision);
        let tombstone = Arc::new(KeyValue { key, mod_revision, ..KeyValue::default() });
        self.changes.push(Change { kind: EventKind::Delete, kv: tombstone });
        Some(kv)
    }
}
