//! Transactions: judge, check, then do, and nothing can fail any more.
//!
//! The three passes, on `if a absent { put a; txn { if a absent { put b } else { put c } } }`:
//!
//! 1. *Judge* all compares against the state before the transaction, nested ones too, which gives
//!    the path through the branches: here both take their first branch, for `a` is still absent to
//!    the inner compare, although it will have been put when the inner transaction's turn comes.
//! 2. *Check* the steps on the path, and only those: puts first, then ranges. A failure here leaves
//!    the store as it was.
//! 3. *Do* the steps in order, at one new revision. Ranges see what was done: a range after the
//!    inner transaction reads both `a` and `b`.

use std::sync::Arc;

use coord_core::{
    Error, Result,
    kv::{
        Compare, Delete, DeleteResponse, EventKind, Header, KeyRange, KeyValue, LeaseId, Op,
        OpResponse, Put, PutResponse, Range, RangeResponse, Revision, Txn, TxnResponse,
    },
};

use super::Store;
use super::log::{Change, Changed};

/// Which branch a transaction takes, and each nested transaction on that branch, in order.
struct Path {
    succeeded: bool,
    nested: Vec<Self>,
}

impl Path {
    /// The steps of the branch that is taken, each nested transaction with its own path.
    fn steps<'a>(&'a self, txn: &'a Txn) -> impl Iterator<Item = (&'a Op, Option<&'a Self>)> {
        let mut nested = self.nested.iter();
        branch(txn, self.succeeded).iter().map(move |op| {
            let path = matches!(op, Op::Txn(_)).then(|| nested.next()).flatten();
            (op, path)
        })
    }
}

const fn branch(txn: &Txn, succeeded: bool) -> &Vec<Op> {
    if succeeded { &txn.success } else { &txn.failure }
}

const HAZARD: &str =
    "a put that keeps its key's value or lease follows a delete without end that removes the key";

impl Store {
    /// Applies a transaction that has passed [`Txn::check`].
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnResponse> {
        let path = self.judge(txn);
        self.check_puts(txn, &path)?;
        self.check_ranges(txn, &path)?;
        check_hazard(txn, &path, &mut Vec::new())?;

        let mut changes = Changes::begin(self);
        let response = changes.run(txn, &path);
        changes.commit();
        Ok(TxnResponse { header: self.header(), ..response })
    }

    /// The same for a transaction that only reads.
    pub(crate) fn read_only_txn(&self, txn: &Txn) -> Result<TxnResponse> {
        let path = self.judge(txn);
        self.check_ranges(txn, &path)?;
        let responses = path.steps(txn).map(|(op, _)| match op {
            Op::Range(range) => {
                let header = Header::at(self.revision);
                OpResponse::Range(RangeResponse { header, ..self.select(range) })
            }
            other => unreachable!("{other:?} in a transaction that only reads"),
        });
        let responses = responses.collect();
        Ok(TxnResponse { header: self.header(), succeeded: path.succeeded, responses })
    }

    fn judge(&self, txn: &Txn) -> Path {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let nested = branch(txn, succeeded).iter().filter_map(|op| match op {
            Op::Txn(nested) => Some(self.judge(nested)),
            _ => None,
        });
        Path { succeeded, nested: nested.collect() }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let (mut any, mut all) = (false, true);
        self.index.visit(&compare.keys, |kv| {
            any = true;
            all = all && compare.is_met_by(Some(kv));
        });
        if any { all } else { compare.is_met_by(None) }
    }

    fn check_puts(&self, txn: &Txn, path: &Path) -> Result<()> {
        for (op, nested) in path.steps(txn) {
            match (op, nested) {
                (Op::Put(put), _) => {
                    self.check_kept(put)?;
                    self.check_lease(put.lease)?;
                }
                (Op::Txn(txn), Some(path)) => self.check_puts(txn, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_ranges(&self, txn: &Txn, path: &Path) -> Result<()> {
        for (op, nested) in path.steps(txn) {
            match (op, nested) {
                (Op::Range(range), _) => self.check_range(range)?,
                (Op::Txn(txn), Some(path)) => self.check_ranges(txn, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A put that keeps something of its key needs the key.
    pub(super) fn check_kept(&self, put: &Put) -> Result<()> {
        if (put.ignore_value || put.ignore_lease) && self.index.get(&put.key).is_none() {
            return Err(Error::KeyNotFound { key: Some(put.key.clone()) });
        }
        Ok(())
    }

    pub(super) fn check_lease(&self, lease: Option<LeaseId>) -> Result<()> {
        match lease {
            Some(id) if !self.leases.contains(id) => Err(Error::LeaseNotFound { lease }),
            _ => Ok(()),
        }
    }

    /// Unlike outside a transaction, a negative revision is taken at its word here.
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
            return Err(self.compacted(requested));
        }
        Ok(())
    }
}

/// Finds the one way in which a checked transaction could still fail: see [`HAZARD`].
///
/// All other deletes of a put key are refused as duplicates before anything is looked at.
fn check_hazard<'a>(txn: &'a Txn, path: &'a Path, deleted: &mut Vec<&'a KeyRange>) -> Result<()> {
    for (op, nested) in path.steps(txn) {
        match (op, nested) {
            (Op::Delete(delete), _) if delete.keys.upper_bound().is_none() => {
                deleted.push(&delete.keys);
            }
            (Op::Put(put), _)
                if (put.ignore_value || put.ignore_lease)
                    && deleted.iter().any(|range| range.contains(&put.key)) =>
            {
                return Err(Error::Refused { hazard: HAZARD });
            }
            (Op::Txn(txn), Some(path)) => check_hazard(txn, path, deleted)?,
            _ => {}
        }
    }
    Ok(())
}

/// Changes on their way to becoming one revision.
pub(super) struct Changes<'a> {
    store: &'a mut Store,
    /// The revision that the changes will have.
    revision: Revision,
    changes: Changed,
}

impl<'a> Changes<'a> {
    pub(super) const fn begin(store: &'a mut Store) -> Self {
        let revision = store.revision.next();
        Self { store, revision, changes: Changed::new_const() }
    }

    /// Makes the changes, if there were any, the store's next revision.
    pub(super) fn commit(self) {
        if !self.changes.is_empty() {
            self.store.revision = self.revision;
            self.store.log.push(self.changes);
        }
    }

    fn run(&mut self, txn: &Txn, path: &Path) -> TxnResponse {
        let steps = path.steps(txn).map(|(op, nested)| match (op, nested) {
            (Op::Range(range), _) => {
                let header = self.header();
                OpResponse::Range(RangeResponse { header, ..self.store.select(range) })
            }
            (Op::Put(put), _) => OpResponse::Put(self.put(put.clone())),
            (Op::Delete(delete), _) => OpResponse::Delete(self.delete(delete)),
            (Op::Txn(txn), Some(path)) => OpResponse::Txn(self.run(txn, path)),
            (Op::Txn(_), None) => unreachable!("every nested transaction has been judged"),
        });
        let responses = steps.collect();
        TxnResponse { header: Header::default(), succeeded: path.succeeded, responses }
    }

    /// The header of a step: the revision so far.
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

    /// Deletes one key and returns what it was.
    pub(super) fn delete_key(&mut self, key: &[u8]) -> Option<Arc<KeyValue>> {
        let kv = self.store.index.delete(key, self.revision)?;
        self.store.leases.reattach(&kv.key, kv.lease, None);
        let (key, mod_revision) = (kv.key.clone(), self.revision);
        let gone = Arc::new(KeyValue { key, mod_revision, ..KeyValue::default() });
        self.changes.push(Change { kind: EventKind::Delete, kv: gone });
        Some(kv)
    }
}
