//! `MemBackend` against the real thing, answer by answer: on every etcd that this machine has, and
//! on the adapter over another `MemBackend`, in process.
//!
//! The seeds are new every time. For long runs there is the example `mirror`.

use std::hash::{BuildHasher, RandomState};

use coord_etcd_tests::hunt::{self, Hunt, Quarry};
use coord_etcd_tests::{Release, serve};
use coord_testkit::Mirror;

/// How many sequences to run on real servers, all together.
const COUNT: u64 = 512;

/// Seeds that nobody has seen, with room to count up.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(()) >> 16
}

#[tokio::test]
async fn mem_backend_answers_as_etcd() {
    let releases = Release::all().unwrap_or_else(|why| panic!("{why}"));
    let count = COUNT.div_ceil(releases.len() as u64);
    for release in releases {
        let quarry = Quarry::Stores;
        let hunt = Hunt { quarry, release, seed: fresh_seed(), count, batch: 32, jobs: 4 };
        hunt.finds_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn adapter_answers_as_the_store_it_is_over() {
    let mut mirror = Mirror::new(hunt::store(), serve::adapter(hunt::store()));
    let first = fresh_seed();
    for seed in first..first + 256 {
        if let Err(difference) = mirror.run(&hunt::sequence(seed)).await {
            panic!("seed {seed}, after {:?}: {difference}", mirror.tally());
        }
    }
}
