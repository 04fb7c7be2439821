//! Differential runs: random scenarios run on coord and on a real etcd, and the results are
//! compared.
//!
//! Each scenario has its own seed. The [`Target`] decides what a scenario contains and what is
//! compared: the responses of two stores (`stores.rs`), or the messages of watch streams
//! (`watch_streams/mod.rs`). Starting a server takes about a second, and a scenario takes 100 ms,
//! most of which is spent waiting for etcd's catch-up loop. So a **batch** of scenarios shares a
//! pair of servers, and several batches run concurrently:
//!
//! ```text
//! seeds   7 8 9 10 | 11 12 13 14 | 15 16 17 18        batches of 4
//!         server A | server B    | server C           2 jobs: C starts when A or B is done
//! ```
//!
//! A scenario with a mismatch runs again on a new pair of servers, alone or after the previous
//! scenario, and is shrunk. If the mismatch does not occur then, it depends on all earlier
//! scenarios, and the report names the batch to replay.

mod stores;
mod watch_streams;

use std::fmt;
use std::ops::Range;

use coord_testkit::mirror::{Tally, Tombstones};
use futures_util::StreamExt as _;
use proptest::strategy::{BoxedStrategy, Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use crate::release::Release;
use stores::Stores;
pub use stores::{sequence, store};
use watch_streams::WatchStreams;

/// A run ends after this many mismatches, because they probably have one cause.
const MAX_MISMATCHES: usize = 5;

/// The maximum number of runs for shrinking one scenario. Each run starts a server.
const MAX_SHRINK_STEPS: usize = 150;

/// What is compared with etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The responses of `MemBackend`, with the responses of etcd behind the adapter.
    Stores,
    /// The messages of watch streams of coord's server, with the messages of etcd.
    WatchStreams,
}

/// An implementation of a [`Target`]: a part of coord and a real etcd, which run the same
/// scenarios.
pub(crate) trait Pair: Sized {
    /// A scenario that runs on both sides.
    type Scenario: fmt::Debug;

    /// The strategy for scenarios.
    fn scenarios() -> BoxedStrategy<Self::Scenario>;

    /// Starts a pair with empty stores.
    async fn start(release: &Release) -> Self;

    /// Runs a scenario up to the first mismatch, and returns its description.
    async fn run(&mut self, scenario: &Self::Scenario) -> Result<(), String>;

    /// The number of compared scenarios, responses and events.
    fn tally(&self) -> Tally;
}

/// The parameters of a differential run.
#[derive(Clone, Debug)]
pub struct DifferentialRun {
    /// What is compared with etcd.
    pub target: Target,
    /// The etcd release to compare with.
    pub release: Release,
    /// The seed of the first scenario. Each later scenario has the next seed.
    pub seed: u64,
    /// The number of scenarios.
    pub count: u64,
    /// The number of scenarios that share a pair of servers.
    pub batch: u64,
    /// The number of batches that run concurrently.
    pub jobs: usize,
}

/// The result of a differential run.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RunReport {
    /// The number of compared scenarios, responses and events.
    pub tally: Tally,
    /// The mismatches.
    pub mismatches: Vec<Mismatch>,
}

/// A mismatch. `Display` prints it with the command that reproduces it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Mismatch {
    /// What was compared.
    pub target: Target,
    /// The etcd release that was compared with.
    pub release: Release,
    /// The seeds that reproduce it.
    pub seeds: Range<u64>,
    /// The description of the mismatch, on the shrunk scenario.
    pub difference: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minor, seed) = (self.release.minor(), self.seeds.start);
        let count = self.seeds.end - seed;
        let flag = match self.target {
            Target::Stores => "",
            Target::WatchStreams => "--streams ",
        };
        write!(
            f,
            "left coord, right {}: {}\n\nto replay: cargo run -p coord-etcd-tests --example mirror -- \
             {flag}--etcd {minor} --seed {seed} --count {count} --batch {count}",
            self.release, self.difference
        )
    }
}

impl DifferentialRun {
    /// Runs the scenarios, and ends early after five mismatches. Calls `progress` after each batch
    /// with the results so far.
    ///
    /// # Panics
    /// If a server does not start.
    ///
    /// # Cancel safety
    /// Dropping the future stops the servers.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    pub async fn run(&self, progress: impl FnMut(&RunReport)) -> RunReport {
        match self.target {
            Target::Stores => self.run_pairs::<Stores>(progress).await,
            Target::WatchStreams => self.run_pairs::<WatchStreams>(progress).await,
        }
    }

    /// Runs all scenarios, and asserts that there is no mismatch and that enough was compared.
    ///
    /// # Panics
    /// If there is a mismatch, if too little was compared, or if a server does not start.
    ///
    /// # Cancel safety
    /// The same as [`run`](Self::run).
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    pub async fn assert_no_mismatch(&self) {
        let RunReport { tally, mismatches } = self.run(|_| ()).await;
        let mismatches: Vec<_> = mismatches.iter().map(ToString::to_string).collect();
        assert!(mismatches.is_empty(), "{}", mismatches.join("\n\n"));
        assert_eq!(tally.sequences, self.count);
        assert!(tally.responses > 20 * self.count, "{tally:?}");
        assert!(tally.events > self.count, "{tally:?}");
    }

    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn run_pairs<P: Pair>(&self, mut progress: impl FnMut(&RunReport)) -> RunReport {
        let end = self.seed.saturating_add(self.count);
        let first = (self.seed..end).step_by(usize::try_from(self.batch.max(1)).unwrap_or(1));
        let batches = first.map(|first| first..end.min(first.saturating_add(self.batch.max(1))));
        let runs = batches.map(|seeds| self.run_batch::<P>(seeds));
        let mut runs = futures_util::stream::iter(runs).buffer_unordered(self.jobs.max(1));
        let mut report = RunReport::default();
        while let Some(batch) = runs.next().await {
            report.tally = sum(report.tally, batch.tally);
            report.mismatches.extend(batch.mismatches);
            progress(&report);
            if report.mismatches.len() >= MAX_MISMATCHES {
                break;
            }
        }
        report
    }

    /// Runs scenarios one after the other. After a mismatch, the rest run on a new pair.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn run_batch<P: Pair>(&self, seeds: Range<u64>) -> RunReport {
        let mut report = RunReport::default();
        let mut next = seeds.start;
        while next < seeds.end {
            let first = next;
            let mut pair = P::start(&self.release).await;
            while next < seeds.end {
                let result = pair.run(&tree::<P>(next).current()).await;
                next += 1;
                if let Err(difference) = result {
                    report.mismatches.push(self.shrink::<P>(first..next, difference).await);
                    break;
                }
            }
            report.tally = sum(report.tally, pair.tally());
        }
        report
    }

    /// The shrunk scenario that reproduces a mismatch, alone or after the previous scenario. If it
    /// needs all scenarios of `seeds`, it is not shrunk.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn shrink<P: Pair>(&self, seeds: Range<u64>, difference: String) -> Mismatch {
        let (target, release) = (self.target, self.release.clone());
        let last = seeds.end - 1;
        for first in [last, last.saturating_sub(1).max(seeds.start)] {
            let mut tree = tree::<P>(last);
            let rerun = self.run_after::<P>(first..last, &tree.current()).await;
            let Err(mut difference) = rerun else { continue };
            // The algorithm of proptest: simplify while the mismatch occurs, else step back.
            let mut more = tree.simplify();
            for _ in 0..MAX_SHRINK_STEPS {
                if !more {
                    break;
                }
                more = match self.run_after::<P>(first..last, &tree.current()).await {
                    Err(simpler) => {
                        difference = simpler;
                        tree.simplify()
                    }
                    Ok(()) => tree.complicate(),
                };
            }
            return Mismatch { target, release, seeds: first..seeds.end, difference };
        }
        Mismatch { target, release, seeds, difference }
    }

    /// Runs a scenario on a new pair, after the scenarios with these seeds.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn run_after<P: Pair>(
        &self,
        seeds: Range<u64>,
        scenario: &P::Scenario,
    ) -> Result<(), String> {
        let mut pair = P::start(&self.release).await;
        for seed in seeds {
            pair.run(&tree::<P>(seed).current()).await?;
        }
        pair.run(scenario).await
    }
}

/// The scenario with this seed, as a tree that can be shrunk.
fn tree<P: Pair>(seed: u64) -> <BoxedStrategy<P::Scenario> as proptest::strategy::Strategy>::Tree {
    let config = Config {
        rng_algorithm: RngAlgorithm::XorShift,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    P::scenarios().new_tree(&mut TestRunner::new(config)).expect("no strategy rejects a value")
}

/// Whether a release retains a deletion at exactly the revision of a compaction.
pub(crate) fn tombstones(release: &Release) -> Tombstones {
    if release.has_since(34, 16) { Tombstones::Kept } else { Tombstones::MayBeLost }
}

fn sum(one: Tally, other: Tally) -> Tally {
    let mut sum = one;
    sum.sequences += other.sequences;
    sum.responses += other.responses;
    sum.errors += other.errors;
    sum.events += other.events;
    sum
}
