//! The `stm-*` workloads: transactions that read numbers and write changed ones.
//!
//! The invariants are checked at the end: transfers do not change the sum over the accounts, and a
//! counter equals the number of commits. `read-committed` permits lost updates, so that they are
//! reported there and fail the run at every other level.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use coord_core::stm::{Isolation, Transaction};
use coord_core::{Error, Stm};
use serde_json::json;
use tokio::time::Instant;

use super::split_mix::SplitMix;
use super::{ReportFields, Worker, Workload};
use crate::bench::flags::StmFlags;
use crate::bench::samples::Samples;
use crate::bench::stats;
use crate::bench::store::Store;

/// The initial balance of an account.
const INITIAL_BALANCE: i64 = 1000;

/// Runs one kind of transaction.
#[derive(Debug)]
pub(crate) struct StmWorkload {
    kind: TransactionKind,
    flags: StmFlags,
    totals: Arc<Totals>,
}

/// The transaction to run.
#[derive(Clone, Copy, Debug)]
enum TransactionKind {
    /// Moves 1 between two random accounts.
    Transfer { accounts: u64 },
    /// Adds 1 to one counter.
    Counter,
}

/// The totals of all workers.
#[derive(Debug, Default)]
struct Totals {
    /// Attempts in this phase.
    attempts: AtomicU64,
    /// Commits in all phases.
    committed: AtomicU64,
}

impl StmWorkload {
    pub(crate) fn transfer(accounts: NonZeroUsize, flags: StmFlags) -> Self {
        let accounts = accounts.get() as u64;
        Self { kind: TransactionKind::Transfer { accounts }, flags, totals: Arc::default() }
    }

    pub(crate) fn counter(flags: StmFlags) -> Self {
        Self { kind: TransactionKind::Counter, flags, totals: Arc::default() }
    }

    /// The keys of the accounts, or of the counter.
    fn keys(&self, store: &Store) -> Vec<Bytes> {
        match self.kind {
            TransactionKind::Counter => vec![store.key("counter").into()],
            TransactionKind::Transfer { accounts } => {
                (0..accounts).map(|n| store.key(&format!("account-{n}")).into()).collect()
            }
        }
    }

    /// The initial value of each key.
    const fn initial_value(&self) -> i64 {
        match self.kind {
            TransactionKind::Transfer { .. } => INITIAL_BALANCE,
            TransactionKind::Counter => 0,
        }
    }

    /// Checks the sum over all keys at the end. Returns the field that reports the invariant.
    fn check_total(&self, total: i64) -> Result<(&'static str, serde_json::Value)> {
        let may_lose_updates = self.flags.isolation == Isolation::ReadCommitted;
        match self.kind {
            TransactionKind::Transfer { accounts } => {
                let expected = INITIAL_BALANCE * i64::try_from(accounts)?;
                let kept = total == expected;
                ensure!(kept || may_lose_updates, "the sum is {total}, not {expected}");
                Ok(("sum_kept", json!(kept)))
            }
            TransactionKind::Counter => {
                let committed = i64::try_from(self.totals.committed.load(Ordering::Relaxed))?;
                let lost = committed - total;
                ensure!(lost == 0 || may_lose_updates, "{lost} increments were lost");
                Ok(("lost_updates", json!(lost)))
            }
        }
    }
}

impl Workload for StmWorkload {
    type Worker = StmWorker;

    async fn worker(&self, store: &Store, number: usize) -> Result<StmWorker> {
        let (client, keys) = (store.connection(number), self.keys(store));
        if number == 0 {
            for key in &keys {
                client.put(key, self.initial_value().to_string()).await?;
            }
        }
        Ok(StmWorker {
            stm: Stm::new(client).isolation(self.flags.isolation),
            prefetch: self.flags.prefetch,
            keys,
            rng: SplitMix::of_worker(self.flags.seed, number),
            totals: Arc::clone(&self.totals),
        })
    }

    fn begin_phase(&self) {
        self.totals.attempts.store(0, Ordering::Relaxed);
    }

    async fn check(&self, store: &Store, operations: u64) -> Result<ReportFields> {
        let mut total = 0;
        for key in self.keys(store) {
            let kv = store.connection(0).get(&key).await?;
            total += parse_number(kv.map(|kv| kv.value))?;
        }
        let (invariant, value) = self.check_total(total)?;
        let attempts = self.totals.attempts.load(Ordering::Relaxed);
        let retries = attempts.saturating_sub(operations) as f64 / operations as f64;
        let mut fields = ReportFields::new();
        if let TransactionKind::Transfer { accounts } = self.kind {
            fields.insert("accounts".to_owned(), json!(accounts));
        }
        fields.insert("isolation".to_owned(), json!(self.flags.isolation.to_string()));
        fields.insert("prefetch".to_owned(), json!(self.flags.prefetch));
        fields.insert(invariant.to_owned(), value);
        fields.insert("retries_per_commit".to_owned(), json!(stats::round_to(retries, 4)));
        Ok(fields)
    }
}

pub(crate) struct StmWorker {
    stm: Stm,
    prefetch: bool,
    keys: Vec<Bytes>,
    rng: SplitMix,
    totals: Arc<Totals>,
}

impl StmWorker {
    /// The keys of the next transaction, and the difference to add to each.
    fn next_changes(&mut self) -> Vec<(Bytes, i64)> {
        let count = self.keys.len() as u64;
        if count == 1 {
            return vec![(self.keys[0].clone(), 1)];
        }
        let from = self.rng.next() % count;
        let to = (from + 1 + self.rng.next() % (count - 1)) % count;
        [(from, -1), (to, 1)].map(|(n, change)| (self.keys[n as usize].clone(), change)).into()
    }
}

impl Worker for StmWorker {
    async fn step(&mut self, samples: &mut Samples) -> Result<()> {
        let changes = self.next_changes();
        let start = Instant::now();
        let mut stm = self.stm.clone();
        if self.prefetch {
            stm = stm.prefetch(changes.iter().map(|(key, _)| key.clone()));
        }
        let totals = Arc::clone(&self.totals);
        stm.run(async move |tx: &mut Transaction| {
            totals.attempts.fetch_add(1, Ordering::Relaxed);
            let mut numbers = Vec::with_capacity(changes.len());
            for (key, _) in &changes {
                numbers.push(parse_number(tx.get(key).await?)?);
            }
            for ((key, change), number) in changes.iter().zip(numbers) {
                tx.put(key, (number + change).to_string());
            }
            Ok::<_, AbortCause>(())
        })
        .await?;
        samples.add("txn", start.elapsed());
        self.totals.committed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        Ok(())
    }
}

/// Why a transaction was aborted.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum AbortCause {
    Store(#[from] Error),
    Value(#[from] anyhow::Error),
}

/// Parses the value of a key.
fn parse_number(value: Option<Bytes>) -> Result<i64> {
    let value = value.context("a key that was put does not exist")?;
    Ok(std::str::from_utf8(&value)?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_sum_fails_the_run_except_at_read_committed() {
        let accounts = NonZeroUsize::new(5).expect("not zero");
        let at = |isolation| {
            let flags = StmFlags { isolation, prefetch: false, seed: 1 };
            StmWorkload::transfer(accounts, flags).check_total(4999)
        };
        assert!(at(Isolation::RepeatableReads).is_err());
        assert_eq!(at(Isolation::ReadCommitted).expect("the level permits it").1, json!(false));
    }
}
