//! The hunt for differences between what is ours and a real etcd.
//!
//! Every script has a seed of its own, and is played to both. What a script says, and what of the
//! answers is compared, is for the [`Quarry`] to say: the store behind the adapter
//! (`stores.rs`), or watch streams message by message (`streams/mod.rs`). A fresh server is a
//! second's work and a script a tenth of one, most of it spent waiting for etcd's catch-up loop; so
//! a **batch** of scripts shares a pair, and several batches run side by side:
//!
//! ```text
//! seeds   7 8 9 10 | 11 12 13 14 | 15 16 17 18        batches of 4
//!         server A | server B    | server C           2 at once: C begins when A or B is done
//! ```
//!
//! When a script makes a difference it is run again on a fresh pair, alone or after the one
//! before it, and made as short as it can be. If then it makes none, all that came before it
//! matters, and the batch is what has to be replayed.

mod stores;

use std::fmt;
use std::ops::Range;

use coord_testkit::mirror::{Tally, Tombstones};
use futures_util::StreamExt as _;
use proptest::strategy::{BoxedStrategy, Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use crate::release::Release;
use crate::streams::Streams;
use stores::Stores;
pub use stores::{sequence, store};

/// A hunt that has found so many differences is over: they are likely to be one.
const FINDS_MAX: usize = 5;

/// How often a sequence is run again to make it shorter. Each time takes a fresh server.
const SHRINKS_MAX: usize = 150;

/// What is held against etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quarry {
    /// `MemBackend`, against etcd behind the adapter.
    Stores,
    /// The watch streams of our server, message by message.
    Streams,
}

/// A quarry: ours and a real etcd, side by side.
pub(crate) trait Pair: Sized {
    /// What is played to both.
    type Script: std::fmt::Debug;

    fn scripts() -> BoxedStrategy<Self::Script>;

    /// Fresh ones.
    async fn fresh(release: &Release) -> Self;

    /// Plays a script, to the first difference, which it describes.
    async fn play(&mut self, script: &Self::Script) -> Result<(), String>;

    /// How much was compared.
    fn tally(&self) -> Tally;
}

/// What to hunt through.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// What is hunted.
    pub quarry: Quarry,
    /// The server to hold it against.
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
    /// What was hunted.
    pub quarry: Quarry,
    /// The server.
    pub release: Release,
    /// The seeds that show it.
    pub seeds: Range<u64>,
    /// The difference, on a script that was made as short as it can be.
    pub difference: String,
}

impl fmt::Display for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minor, seed) = (self.release.minor(), self.seeds.start);
        let count = self.seeds.end - seed;
        let flag = match self.quarry {
            Quarry::Stores => "",
            Quarry::Streams => "--streams ",
        };
        write!(
            f,
            "left ours, right {}: {}\n\nto replay: cargo run -p coord-etcd-tests --example mirror -- \
             {flag}--etcd {minor} --seed {seed} --count {count} --batch {count}",
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
    pub async fn run(&self, progress: impl FnMut(&Bag)) -> Bag {
        match self.quarry {
            Quarry::Stores => self.run_pairs::<Stores>(progress).await,
            Quarry::Streams => self.run_pairs::<Streams>(progress).await,
        }
    }

    /// Runs all sequences, for a test: they make no difference, and are worth something.
    ///
    /// # Panics
    /// If one makes a difference, or they are worth little; if a server does not start.
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    pub async fn finds_nothing(&self) {
        let Bag { tally, finds } = self.run(|_| ()).await;
        let finds: Vec<_> = finds.iter().map(ToString::to_string).collect();
        assert!(finds.is_empty(), "{}", finds.join("\n\n"));
        assert_eq!(tally.sequences, self.count);
        assert!(tally.answers > 20 * self.count, "{tally:?}");
        assert!(tally.events > self.count, "{tally:?}");
    }

    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn run_pairs<P: Pair>(&self, mut progress: impl FnMut(&Bag)) -> Bag {
        let end = self.seed.saturating_add(self.count);
        let first = (self.seed..end).step_by(usize::try_from(self.batch.max(1)).unwrap_or(1));
        let batches = first.map(|first| first..end.min(first.saturating_add(self.batch.max(1))));
        let runs = batches.map(|seeds| self.run_batch::<P>(seeds));
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

    /// Plays scripts one after the other; after a difference, the rest to a fresh pair.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn run_batch<P: Pair>(&self, seeds: Range<u64>) -> Bag {
        let mut bag = Bag::default();
        let mut next = seeds.start;
        while next < seeds.end {
            let began = next;
            let mut pair = P::fresh(&self.release).await;
            while next < seeds.end {
                let result = pair.play(&tree::<P>(next).current()).await;
                next += 1;
                if let Err(difference) = result {
                    bag.finds.push(self.look_closer::<P>(began..next, difference).await);
                    break;
                }
            }
            bag.tally = sum(bag.tally, pair.tally());
        }
        bag
    }

    /// The shortest script found that shows the difference, after as few of `seeds` as possible:
    /// none, the one before it, or all of them, and then it stays as it is.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn look_closer<P: Pair>(&self, seeds: Range<u64>, difference: String) -> Find {
        let (quarry, release) = (self.quarry, self.release.clone());
        let last = seeds.end - 1;
        for first in [last, last.saturating_sub(1).max(seeds.start)] {
            let mut tree = tree::<P>(last);
            let again = self.run_after::<P>(first..last, &tree.current()).await;
            let Err(mut difference) = again else { continue };
            // As proptest does it: simpler while the difference is there, and a step back when not.
            let mut more = tree.simplify();
            for _ in 0..SHRINKS_MAX {
                if !more {
                    break;
                }
                more = match self.run_after::<P>(first..last, &tree.current()).await {
                    Err(still) => {
                        difference = still;
                        tree.simplify()
                    }
                    Ok(()) => tree.complicate(),
                };
            }
            return Find { quarry, release, seeds: first..seeds.end, difference };
        }
        Find { quarry, release, seeds, difference }
    }

    /// Plays a script after those with these seeds.
    #[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
    async fn run_after<P: Pair>(
        &self,
        seeds: Range<u64>,
        script: &P::Script,
    ) -> Result<(), String> {
        let mut pair = P::fresh(&self.release).await;
        for seed in seeds {
            pair.play(&tree::<P>(seed).current()).await?;
        }
        pair.play(script).await
    }
}

/// The script with this seed, and what it can be made into.
fn tree<P: Pair>(seed: u64) -> <BoxedStrategy<P::Script> as proptest::strategy::Strategy>::Tree {
    let config = Config {
        rng_algorithm: RngAlgorithm::XorShift,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    P::scripts().new_tree(&mut TestRunner::new(config)).expect("nothing is filtered")
}

/// What the server's version makes of a deletion at exactly the revision of a compaction.
pub(crate) fn tombstones(release: &Release) -> Tombstones {
    if release.has_since(34, 16) { Tombstones::Kept } else { Tombstones::MayBeLost }
}

fn sum(one: Tally, other: Tally) -> Tally {
    let mut sum = one;
    sum.sequences += other.sequences;
    sum.answers += other.answers;
    sum.refusals += other.refusals;
    sum.events += other.events;
    sum
}
