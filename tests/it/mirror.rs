//! The mirror itself: it is content with twins, and finds every flaw.

use coord_core::KvBackend;
use coord_mem::MemBackend;
use coord_testkit::Mirror;
use coord_testkit::mirror::{Mismatch, Tally};
use coord_testkit::strategy::{self, Clock, Hazards, Operation, Options};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use crate::model::{Flaw, Flawed, LIMITS};

const SEED: u64 = 20_130_728;

fn mem() -> MemBackend {
    MemBackend::builder().limits(LIMITS).build()
}

/// The same sequences every time.
fn sequences(count: usize, options: &Options) -> impl Iterator<Item = Vec<Operation>> {
    let rng_algorithm = RngAlgorithm::XorShift;
    let config = Config { rng_algorithm, rng_seed: RngSeed::Fixed(SEED), ..Config::default() };
    let mut runner = TestRunner::new(config);
    let operations = strategy::operations(options);
    (0..count)
        .map(move |_| operations.new_tree(&mut runner).expect("nothing is filtered").current())
}

/// Holds `other` against a `MemBackend`, one sequence after the other.
async fn mirror(
    other: impl KvBackend,
    sequences: impl Iterator<Item = Vec<Operation>>,
) -> (Tally, Result<(), Mismatch>) {
    let mut mirror = Mirror::new(mem(), other);
    for sequence in sequences {
        if let Err(difference) = mirror.run(&sequence).await {
            return (mirror.tally(), Err(difference));
        }
    }
    (mirror.tally(), Ok(()))
}

#[tokio::test(start_paused = true)]
async fn twins_do_not_differ() {
    let (tally, result) = mirror(mem(), sequences(300, &Options::default())).await;
    if let Err(difference) = result {
        panic!("{difference}");
    }
    assert_eq!(tally.sequences, 300);
    assert!(tally.responses > 10_000, "{tally:?}");
    assert!(tally.errors > 1_000, "{tally:?}");
    assert!(tally.events > 1_000, "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn every_flaw_makes_a_difference() {
    for flaw in Flaw::ALL {
        let flawed = Flawed { inner: mem(), flaw };
        let (tally, result) = mirror(flawed, sequences(1_000, &Options::default())).await;
        let difference = result.expect_err(&format!("{flaw:?} was not found: {tally:?}"));
        let text = difference.to_string();
        assert!(text.contains("left") && text.contains("right"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn sequences_fit_for_a_server_have_no_hazards_and_no_time() {
    let options = Options { hazards: Hazards::Exclude, clock: Clock::Real, length: 1..=60 };
    for operation in sequences(100, &options).flatten() {
        assert!(!matches!(operation, Operation::Advance { .. }));
    }
    let (_, result) = mirror(mem(), sequences(100, &options)).await;
    if let Err(difference) = result {
        panic!("{difference}");
    }
}
