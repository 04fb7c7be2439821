//! Coverage of a run: counts of operations, errors and other observations, so that a test can
//! assert that its random sequences exercise the whole contract.

use std::collections::BTreeMap;
use std::fmt;

use coord_core::{
    error::ErrorKind,
    kv::{OpResponse, TxnResponse},
};
use coord_testkit::strategy::Operation;

use super::watch::Delivery;

/// The counts of a run.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// The number of successes and of failures of each operation.
    pub(super) operations: BTreeMap<&'static str, (usize, usize)>,
    /// The number of errors of each kind.
    pub(super) errors: BTreeMap<ErrorKind, usize>,
    /// The number of other observations, by name.
    pub(super) observations: BTreeMap<&'static str, usize>,
}

impl Coverage {
    /// Counts an operation and its error, if any.
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

    /// Counts an observation. Zero times registers its name.
    pub(super) fn observe(&mut self, what: &'static str, times: usize) {
        *self.observations.entry(what).or_default() += times;
    }

    /// Counts the parts of a transaction's response.
    pub(super) fn txn(&mut self, response: &TxnResponse) {
        self.observe(
            if response.succeeded { "txn took success branch" } else { "txn took failure branch" },
            1,
        );
        for response in &response.responses {
            match response {
                OpResponse::Txn(nested) => {
                    self.observe("nested txn", 1);
                    let deeper = |op: &OpResponse| matches!(op, OpResponse::Txn(_));
                    let deeper = nested.responses.iter().any(deeper);
                    self.observe("txn of three levels", usize::from(deeper));
                    self.txn(nested);
                }
                OpResponse::Range(range) => {
                    self.observe("range in txn found keys", usize::from(!range.kvs.is_empty()));
                }
                OpResponse::Put(_) => self.observe("put in txn", 1),
                OpResponse::Delete(delete) => {
                    self.observe("delete in txn deleted", usize::from(delete.deleted > 0));
                }
            }
        }
    }

    /// Counts a delivery of a watch.
    pub(super) fn delivery(&mut self, delivery: &Delivery) {
        match delivery {
            Err(_) => self.observe("watch found history compacted", 1),
            Ok(batch) if batch.events.is_empty() => self.observe("progress notification", 1),
            Ok(batch) => {
                self.observe("batch", 1);
                self.observe("batch of several events", usize::from(batch.events.len() > 1));
                let with_prev = batch.events.iter().any(|event| event.prev_kv.is_some());
                self.observe("batch with prev_kv", usize::from(with_prev));
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
        for (what, times) in &self.observations {
            writeln!(f, "{what:32} {times:7}")?;
        }
        Ok(())
    }
}

/// The name of an operation.
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
