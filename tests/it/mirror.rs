//! Tests of the mirror: it finds no mismatch between equal backends, and finds every flaw.

use coord_core::KvBackend;
use coord_mem::MemBackend;
use coord_testkit::Mirror;
use coord_testkit::mirror::{Mismatch, Tally};
use coord_testkit::strategy::{self, Clock, Hazards, OpDraft, Operation, Options, TxnDraft};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use crate::model::{Flaw, Flawed, LIMITS};

/// The seed of all sequences. Its value has no meaning.
const SEED: u64 = 20_130_728;

fn mem() -> MemBackend {
    MemBackend::builder().limits(LIMITS).build()
}

/// Random sequences, the same in every run.
fn sequences(count: usize, options: &Options) -> impl Iterator<Item = Vec<Operation>> {
    let rng_algorithm = RngAlgorithm::XorShift;
    let config = Config { rng_algorithm, rng_seed: RngSeed::Fixed(SEED), ..Config::default() };
    let mut runner = TestRunner::new(config);
    let operations = strategy::operations(options);
    (0..count).map(move |_| {
        operations.new_tree(&mut runner).expect("no strategy rejects a value").current()
    })
}

/// Compares `other` with a `MemBackend`, on one sequence after the other.
async fn compare(
    other: impl KvBackend,
    sequences: impl Iterator<Item = Vec<Operation>>,
) -> (Tally, Result<(), Mismatch>) {
    let mut mirror = Mirror::new(mem(), other);
    for sequence in sequences {
        if let Err(mismatch) = mirror.run(&sequence).await {
            return (mirror.tally(), Err(mismatch));
        }
    }
    (mirror.tally(), Ok(()))
}

#[tokio::test(start_paused = true)]
async fn equal_backends_have_no_mismatch() {
    let (tally, result) = compare(mem(), sequences(300, &Options::default())).await;
    if let Err(mismatch) = result {
        panic!("{mismatch}");
    }
    assert_eq!(tally.sequences, 300);
    assert!(tally.responses > 10_000, "{tally:?}");
    assert!(tally.errors > 1_000, "{tally:?}");
    assert!(tally.events > 1_000, "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn mirror_finds_every_flaw() {
    for flaw in Flaw::ALL {
        let flawed = Flawed { inner: mem(), flaw };
        let (tally, result) = compare(flawed, sequences(1_000, &Options::default())).await;
        let mismatch = result.expect_err(&format!("{flaw:?} was not found: {tally:?}"));
        let text = mismatch.to_string();
        assert!(text.contains("left") && text.contains("right"), "{text}");
    }
}

/// The operations of a transaction, including the operations of nested transactions.
fn all_ops(txn: &TxnDraft) -> Vec<&OpDraft> {
    let ops = txn.success.iter().chain(&txn.failure);
    let nested = ops.flat_map(|op| match op {
        OpDraft::Txn(nested) => all_ops(nested),
        op => vec![op],
    });
    nested.collect()
}

/// Whether an operation may be a hazard: a transaction with a put and an unbounded delete.
fn may_be_hazard(operation: &Operation) -> bool {
    let Operation::Txn(txn) = operation else { return false };
    let ops = all_ops(txn);
    let is_unbounded_delete = |op: &&OpDraft| match op {
        OpDraft::Delete(delete) => delete.keys.upper_bound().is_none(),
        _ => false,
    };
    ops.iter().any(|op| matches!(op, OpDraft::Put(_))) && ops.iter().any(is_unbounded_delete)
}

#[tokio::test(start_paused = true)]
async fn sequences_for_real_servers_have_no_hazard_and_no_time() {
    let options = Options { hazards: Hazards::Exclude, clock: Clock::Real, length: 1..=60 };
    for operation in sequences(100, &options).flatten() {
        assert!(!matches!(operation, Operation::Advance { .. }));
        assert!(!may_be_hazard(&operation), "{operation}");
    }
    let with_hazards = Options { hazards: Hazards::Include, ..options.clone() };
    assert!(sequences(100, &with_hazards).flatten().any(|operation| may_be_hazard(&operation)));
    let (_, result) = compare(mem(), sequences(100, &options)).await;
    if let Err(mismatch) = result {
        panic!("{mismatch}");
    }
}
