//! What came up in a run, so that a test can tell whether it tested anything.

use std::collections::BTreeMap;
use std::fmt;

use coord_core::{
    error::ErrorKind,
    kv::{OpResponse, TxnResponse},
};
use coord_testkit::strategy::Operation;

use super::watch::Delivery;

/// Counts of what came up.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// By operation: how often it succeeded, how often it failed.
    pub(super) operations: BTreeMap<&'static str, (usize, usize)>,
    pub(super) errors: BTreeMap<ErrorKind, usize>,
    /// Anything else, by name.
    pub(super) sights: BTreeMap<&'static str, usize>,
}

impl Coverage {
    pub(super) fn operation(&mut self, operation: &Operation, error: Option<ErrorKind>) {
        let (ok, failed) = self.operations.entry(name(operation)).or_default();
        match error {
            None => *ok += 1,
            Some(kind) => {
                *failed += 1;
                *self.errors.entry(kind).or_default() += 1;
            }
        }
    }

    pub(super) fn sight(&mut self, what: &'static str, times: usize) {
        *self.sights.entry(what).or_default() += times;
    }

    pub(super) fn txn(&mut self, response: &TxnResponse) {
        self.sight(if response.succeeded { "txn took then" } else { "txn took else" }, 1);
        for response in &response.responses {
            match response {
                OpResponse::Txn(nested) => {
                    self.sight("nested txn", 1);
                    let deeper = |op: &OpResponse| matches!(op, OpResponse::Txn(_));
                    let deeper = nested.responses.iter().any(deeper);
                    self.sight("txn of three levels", usize::from(deeper));
                    self.txn(nested);
                }
                OpResponse::Range(range) => {
                    self.sight("range in txn found keys", usize::from(!range.kvs.is_empty()));
                }
                OpResponse::Put(_) => self.sight("put in txn", 1),
                OpResponse::Delete(delete) => {
                    self.sight("delete in txn deleted", usize::from(delete.deleted > 0));
                }
            }
        }
    }

    pub(super) fn delivery(&mut self, delivery: &Delivery) {
        match delivery {
            Err(_) => self.sight("watch found history compacted", 1),
            Ok(batch) if batch.events.is_empty() => self.sight("bookmark", 1),
            Ok(batch) => {
                self.sight("batch", 1);
                self.sight("batch of several events", usize::from(batch.events.len() > 1));
                let with_prev = batch.events.iter().any(|event| event.prev_kv.is_some());
                self.sight("batch with prev_kv", usize::from(with_prev));
            }
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, (ok, failed)) in &self.operations {
            writeln!(f, "{name:32} {ok:7} ok {failed:7} failed")?;
        }
        for (kind, times) in &self.errors {
            writeln!(f, "{:32} {times:7}", format!("{kind:?}"))?;
        }
        for (what, times) in &self.sights {
            writeln!(f, "{what:32} {times:7}")?;
        }
        Ok(())
    }
}

/// The operation's name.
pub(super) fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Range(_) => "range",
        Operation::Put(_) => "put",
        Operation::Delete(_) => "delete",
        Operation::Txn(_) => "txn",
        Operation::LeaseGrant(_) => "lease_grant",
        Operation::LeaseRevoke(_) => "lease_revoke",
        Operation::LeaseKeepAlive(_) => "lease_keep_alive",
        Operation::LeaseTimeToLive(_) => "lease_time_to_live",
        Operation::Leases => "leases",
        Operation::Compact(_) => "compact",
        Operation::Watch(_) => "watch",
        Operation::Unwatch(_) => "unwatch",
        Operation::Progress(_) => "progress",
        Operation::ReadWatches => "read_watches",
        Operation::Advance { .. } => "advance",
    }
}
