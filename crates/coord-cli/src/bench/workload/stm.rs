//! `stm-*`: transactions that read numbers and write them back, changed.
//!
//! What they must not lose is judged at the end: a transfer keeps the sum over the accounts, and a
//! counter has counted every commit. At `read-committed` both may be lost, and are only told.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use coord_core::stm::{Stm, Transaction};
use coord_core::{Error, Isolation, KvBackendExt, stm};
use serde_json::json;
use tokio::time::Instant;

use super::{Facts, Worker, Workload};
use crate::bench::figures;
use crate::bench::flags::StmFlags;
use crate::bench::notes::Notes;
use crate::bench::store::Store;

/// What an account has before anything is moved.
const START: i64 = 1000;

/// Moves 1 from one account to another, both drawn, or counts one number up.
#[derive(Debug)]
pub(crate) struct Changes {
    what: What,
    flags: StmFlags,
    tally: Arc<Tally>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Transfer { accounts: u64 },
    Count,
}

/// What all workers have done.
#[derive(Debug, Default)]
struct Tally {
    /// In this phase.
    attempts: AtomicU64,
    /// Since the beginning.
    committed: AtomicU64,
}

impl Changes {
    pub(crate) fn transfer(accounts: NonZeroUsize, flags: StmFlags) -> Self {
        let accounts = accounts.get() as u64;
        Self { what: What::Transfer { accounts }, flags, tally: Arc::default() }
    }

    pub(crate) fn count(flags: StmFlags) -> Self {
        Self { what: What::Count, flags, tally: Arc::default() }
    }

    fn keys(&self, store: &Store) -> Vec<Bytes> {
        match self.what {
            What::Count => vec![store.key("counter").into()],
            What::Transfer { accounts } => {
                (0..accounts).map(|n| store.key(&format!("account-{n}")).into()).collect()
            }
        }
    }

    const fn start(&self) -> i64 {
        match self.what {
            What::Transfer { .. } => START,
            What::Count => 0,
        }
    }

    /// What was found at the end, and what must have been.
    fn verdict(&self, total: i64) -> Result<(&'static str, serde_json::Value)> {
        let lossless = self.flags.isolation != Isolation::ReadCommitted;
        match self.what {
            What::Transfer { accounts } => {
                let wanted = START * i64::try_from(accounts)?;
                ensure!(total == wanted || !lossless, "the sum is {total}, not {wanted}");
                Ok(("sum_kept", json!(total == wanted)))
            }
            What::Count => {
                let committed = i64::try_from(self.tally.committed.load(Ordering::Relaxed))?;
                let lost = committed - total;
                ensure!(lost == 0 || !lossless, "{lost} increments were lost");
                Ok(("lost_updates", json!(lost)))
            }
        }
    }
}

impl Workload for Changes {
    type Worker = Changer;

    async fn worker(&self, store: &Store, number: usize) -> Result<Changer> {
        let (kv, keys) = (store.of_worker(number), self.keys(store));
        if number == 0 {
            for key in &keys {
                kv.put(key, self.start().to_string()).await?;
            }
        }
        Ok(Changer {
            stm: stm(Arc::clone(kv)).isolation(self.flags.isolation),
            prefetch: self.flags.prefetch,
            keys,
            draws: SplitMix(self.flags.seed.wrapping_mul(1_000_003).wrapping_add(number as u64)),
            tally: Arc::clone(&self.tally),
        })
    }

    fn begin(&self) {
        self.tally.attempts.store(0, Ordering::Relaxed);
    }

    async fn judged(&self, store: &Store, operations: u64) -> Result<Facts> {
        let mut total = 0;
        for key in self.keys(store) {
            let kv = store.of_worker(0).get(&key).await?;
            total += number(kv.map(|kv| kv.value))?;
        }
        let (name, verdict) = self.verdict(total)?;
        let attempts = self.tally.attempts.load(Ordering::Relaxed);
        let retries = attempts.saturating_sub(operations) as f64 / operations as f64;
        let mut facts = Facts::new();
        if let What::Transfer { accounts } = self.what {
            facts.insert("accounts".to_owned(), json!(accounts));
        }
        facts.insert("isolation".to_owned(), json!(self.flags.isolation.to_string()));
        facts.insert("prefetch".to_owned(), json!(self.flags.prefetch));
        facts.insert(name.to_owned(), verdict);
        facts.insert("retries_per_commit".to_owned(), json!(figures::rounded(retries, 4)));
        Ok(facts)
    }
}

pub(crate) struct Changer {
    stm: Stm,
    prefetch: bool,
    keys: Vec<Bytes>,
    draws: SplitMix,
    tally: Arc<Tally>,
}

impl Changer {
    /// The keys of the next transaction, and what it adds to each.
    fn next(&mut self) -> Vec<(Bytes, i64)> {
        let count = self.keys.len() as u64;
        if count == 1 {
            return vec![(self.keys[0].clone(), 1)];
        }
        let from = self.draws.next() % count;
        let to = (from + 1 + self.draws.next() % (count - 1)) % count;
        [(from, -1), (to, 1)].map(|(n, change)| (self.keys[n as usize].clone(), change)).into()
    }
}

impl Worker for Changer {
    async fn step(&mut self, notes: &mut Notes) -> Result<()> {
        let changes = self.next();
        let begun = Instant::now();
        let mut stm = self.stm.clone();
        if self.prefetch {
            stm = stm.prefetch(changes.iter().map(|(key, _)| key.clone()));
        }
        let tally = Arc::clone(&self.tally);
        stm.run(async move |tx: &mut Transaction| {
            tally.attempts.fetch_add(1, Ordering::Relaxed);
            let mut numbers = Vec::with_capacity(changes.len());
            for (key, _) in &changes {
                numbers.push(number(tx.get(key).await?)?);
            }
            for ((key, change), number) in changes.iter().zip(numbers) {
                tx.put(key, (number + change).to_string());
            }
            Ok::<_, Stopped>(())
        })
        .await?;
        notes.add("txn", begun.elapsed());
        self.tally.committed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn leave(self) -> Result<()> {
        Ok(())
    }
}

/// Why a transaction was given up.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Stopped {
    Store(#[from] Error),
    Value(#[from] anyhow::Error),
}

fn number(value: Option<Bytes>) -> Result<i64> {
    let value = value.context("a key that was put does not exist")?;
    Ok(std::str::from_utf8(&value)?.parse()?)
}

/// The generator of the Go program, so that both draw the same accounts.
///
/// Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA
/// 2014, figure 17.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_mix_matches_the_reference_implementation() {
        let mut draws = SplitMix(1_234_567);
        let drawn = [draws.next(), draws.next(), draws.next()];
        // From the authors' reference implementation.
        assert_eq!(
            drawn,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn changed_sum_fails_the_run_except_at_read_committed() {
        let accounts = NonZeroUsize::new(5).expect("not zero");
        let at = |isolation| {
            let flags = StmFlags { isolation, prefetch: false, seed: 1 };
            Changes::transfer(accounts, flags).verdict(4999)
        };
        assert!(at(Isolation::RepeatableReads).is_err());
        assert_eq!(at(Isolation::ReadCommitted).expect("allowed").1, json!(false));
    }
}
