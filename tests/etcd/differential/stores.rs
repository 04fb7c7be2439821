//! Differential tests of `MemBackend`, response by response: against every etcd release of this
//! machine, and against the adapter over another `MemBackend`, in process.
//!
//! The seeds are random. The example `mirror` makes longer runs.

use std::hash::{BuildHasher, RandomState};

use coord_etcd_tests::differential::{self, DifferentialRun, Target};
use coord_etcd_tests::{Release, test_server};
use coord_testkit::Mirror;

/// The number of sequences on all real servers together.
const SEQUENCES: u64 = 512;

/// A random seed, low enough to count up from.
fn random_seed() -> u64 {
    RandomState::new().hash_one(()) >> 16
}

#[tokio::test]
async fn mem_backend_responds_like_etcd() {
    let releases = Release::all().unwrap_or_else(|why| panic!("{why}"));
    let count = SEQUENCES.div_ceil(releases.len() as u64);
    for release in releases {
        let target = Target::Stores;
        let run =
            DifferentialRun { target, release, seed: random_seed(), count, batch: 32, jobs: 4 };
        run.assert_no_mismatch().await;
    }
}

#[tokio::test(start_paused = true)]
async fn adapter_responds_like_its_store() {
    let mut mirror =
        Mirror::new(differential::store(), test_server::adapter_over(differential::store()));
    let first = random_seed();
    for seed in first..first + 256 {
        if let Err(mismatch) = mirror.run(&differential::sequence(seed)).await {
            panic!("seed {seed}, after {:?}: {mismatch}", mirror.tally());
        }
    }
}
