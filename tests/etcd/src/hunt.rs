//! The hunt for differences between `MemBackend` and a real etcd.
//!
//! Every sequence has a seed of its own, and is driven to both stores by a
//! [`Mirror`]. A fresh server is a second's work and a sequence a tenth of
//! one, most of it spent waiting for etcd's catch-up loop; so a **batch** of sequences shares a
//! pair of stores, and several batches run side by side:
//!
//! ```text
//! seeds   7 8 9 10 | 11 12 13 14 | 15 16 17 18        batches of 4
//!         server A | server B    | server C           2 at once: C begins when A or B is done
//! ```
//!
//! When a sequence makes a difference it is run again on fresh stores, alone or after the one
//! before it, and made as short as it can be. If then it makes none, all that came before it
//! matters, and the batch is what has to be replayed.
//!
//! The stores have low limits, so that they are met: twelve operations in a transaction, 16 KiB in
//! a request.

use std::fmt;
use std::ops::Range;

use coord_core::Limits;
use coord_etcd::EtcdBackend;
use coord_mem::MemBackend;
use coord_testkit::Mirror;
use coord_testkit::mirror::{Difference, Tally, Tombstones};
use coord_testkit::strategy::{self, Clock, Hazards, Operation, Options};
use futures_util::StreamExt as _;
use proptest::strategy::{BoxedStrategy, Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use crate::cluster::{Cluster, Setup};
use crate::release::Release;

/// Low enough to be met.
const LIMITS: Limits = Limits { max_txn_ops: 12, max_request_bytes: 16 * 1024 };

/// A hunt that has found so many differences is over: they are likely to be one.
const FINDS_MAX: usize = 5;

/// How often a sequence is run again to make it shorter. Each time takes a fresh server.
const SHRINKS_MAX: usize = 150;

/// What to hunt through.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The server to hold `MemBackend` against.
    pub release: Release,
    /// The seed of the first sequence; each that follows has the next one.
    pub seed: u64,
    /// How many sequences.
    pub count: u64,
    /// How many of them share a server.
    pub batch: u64,
    /// How many batches run side by side.
    pub jobs: usize,
}

/// What a hunt brought home.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Bag {
    /// How much was compared.
    pub tally: Tally,
    /// The differences.
    pub finds: Vec<Find>,
}

/// A difference, and how to see it again. Prints as both.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Find {
    /// The server.
    pub release: Release,
    /// The seeds that show it.
    pub seeds: Range<u64>,
    /// The difference, on a sequence that was made as short as it can be.
    pub difference: Difference,
}

impl fmt::Display for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minor, seed) = (self.release.minor(), self.seeds.start);
        let count = self.seeds.end - seed;
        write!(
            f,
            "left MemBackend, right {}: {}\n\nto replay: cargo run -p coord-etcd-tests \
             --example mirror -- --etcd {minor} --seed {seed} --count {count} --batch {count}",
            self.release, self.difference
        )
    }
}

impl Hunt {
    /// Runs all sequences, and calls `progress` after each batch with all that was found so far.
    ///
    /// # Panics
    /// If a server does not start.
    ///
    /// # Cancel safety
    /// Dropping the future stops the servers.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    pub async fn run(&self, mut progress: impl FnMut(&Bag)) -> Bag {
        let end = self.seed.saturating_add(self.count);
        let first = (self.seed..end).step_by(usize::try_from(self.batch.max(1)).unwrap_or(1));
        let batches = first.map(|first| first..end.min(first.saturating_add(self.batch.max(1))));
        let runs = batches.map(|seeds| self.run_batch(seeds));
        let mut runs = futures_util::stream::iter(runs).buffer_unordered(self.jobs.max(1));
        let mut bag = Bag::default();
        while let Some(batch) = runs.next().await {
            bag.tally = sum(bag.tally, batch.tally);
            bag.finds.extend(batch.finds);
            progress(&bag);
            if bag.finds.len() >= FINDS_MAX {
                break;
            }
        }
        bag
    }

    /// Runs sequences one after the other; after a difference, the rest on a fresh pair of stores.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn run_batch(&self, seeds: Range<u64>) -> Bag {
        let mut bag = Bag::default();
        let mut next = seeds.start;
        while next < seeds.end {
            let began = next;
            let (_server, mut mirror) = self.pair().await;
            while next < seeds.end {
                let result = mirror.run(&sequence(next)).await;
                next += 1;
                if let Err(difference) = result {
                    bag.finds.push(self.look_closer(began..next, difference).await);
                    break;
                }
            }
            bag.tally = sum(bag.tally, mirror.tally());
        }
        bag
    }

    /// The shortest sequence found that shows the difference, after as few of `seeds` as possible:
    /// none, the one before it, or all of them, and then it stays as it is.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn look_closer(&self, seeds: Range<u64>, difference: Difference) -> Find {
        let release = self.release.clone();
        let last = seeds.end - 1;
        for first in [last, last.saturating_sub(1).max(seeds.start)] {
            let mut tree = tree(last);
            let Err(mut difference) = self.run_after(first..last, &tree.current()).await else {
                continue;
            };
            // As proptest does it: simpler while the difference is there, and a step back when not.
            let mut more = tree.simplify();
            for _ in 0..SHRINKS_MAX {
                if !more {
                    break;
                }
                more = match self.run_after(first..last, &tree.current()).await {
                    Err(still) => {
                        difference = still;
                        tree.simplify()
                    }
                    Ok(()) => tree.complicate(),
                };
            }
            return Find { release, seeds: first..seeds.end, difference };
        }
        Find { release, seeds, difference }
    }

    /// Runs operations after the sequences with these seeds.
    async fn run_after(
        &self,
        seeds: Range<u64>,
        operations: &[Operation],
    ) -> Result<(), Difference> {
        let (_server, mut mirror) = self.pair().await;
        for seed in seeds {
            mirror.run(&sequence(seed)).await?;
        }
        mirror.run(operations).await
    }

    /// Fresh stores side by side; the server lives as long as its guard.
    async fn pair(&self) -> (Cluster, Mirror<MemBackend, EtcdBackend>) {
        let setup = Setup::new(self.release.clone())
            .argument(&format!("--max-txn-ops={}", LIMITS.max_txn_ops))
            .argument(&format!("--max-request-bytes={}", LIMITS.max_request_bytes));
        let server = setup.start().await;
        let etcd = EtcdBackend::builder(server.endpoints()).limits(LIMITS).connect().await;
        let etcd = etcd.expect("a server that is ready takes connections");
        (server, Mirror::new(store(), etcd).tombstones(tombstones(&self.release)))
    }
}

/// A store with the limits that the servers have.
#[must_use]
pub fn store() -> MemBackend {
    MemBackend::builder().limits(LIMITS).build()
}

/// The sequence with this seed, fit for a real server.
#[must_use]
pub fn sequence(seed: u64) -> Vec<Operation> {
    tree(seed).current()
}

fn tree(seed: u64) -> <BoxedStrategy<Vec<Operation>> as proptest::strategy::Strategy>::Tree {
    let options = Options { hazards: Hazards::Exclude, clock: Clock::Real, length: 1..=60 };
    let config = Config {
        rng_algorithm: RngAlgorithm::XorShift,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    strategy::operations(&options).new_tree(&mut runner).expect("nothing is filtered")
}

/// What the server's version makes of a deletion at exactly the revision of a compaction.
fn tombstones(release: &Release) -> Tombstones {
    let kept = match release.version {
        (3, 4, patch) => patch >= 34,
        (3, 5, patch) => patch >= 16,
        version => version >= (3, 6, 0),
    };
    if kept { Tombstones::Kept } else { Tombstones::MayBeLost }
}

fn sum(one: Tally, other: Tally) -> Tally {
    let mut sum = one;
    sum.sequences += other.sequences;
    sum.answers += other.answers;
    sum.refusals += other.refusals;
    sum.events += other.events;
    sum
}
