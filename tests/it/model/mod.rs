//! Model test: `MemBackend` and a model of the contract run the same random operations, and every
//! result is compared.
//!
//! The model keeps a full copy of all keys for every revision, finds the keys of a range or a lease
//! by linear search, and is written from the text of the contract alone. It is slow and shares no
//! code with the backend, so a mistake in both at the same place is unlikely:
//!
//! ```text
//!                      +-> MemBackend -> result --+
//! random operations ---+                          +--> equal? else shrink and report
//!                      +-> model ------> result --+
//! ```
//!
//! Compared are all responses with all headers; the kind, the outcome and the revisions of errors;
//! the batches that watches deliver; and, from time to time and at the end, every readable
//! revision. The limits are low, so that sequences reach them: 12 operations in a transaction, 16
//! KiB in a request.
//!
//! `state`, `rules`, `range`, `txn`, `lease` and `watch` are the model. `run` drives both sides,
//! `coverage` counts what was exercised, and `flawed` has backends that must not pass.

mod coverage;
mod flawed;
mod lease;
mod range;
mod rules;
mod run;
mod state;
mod txn;
mod watch;

use std::hash::{BuildHasher, RandomState};

use coord_core::{KvBackend, error::ErrorKind, kv::Limits};
use coord_mem::MemBackend;
use coord_testkit::strategy::{self, Hazards, Operation, Options};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner};

use coverage::Coverage;
pub(crate) use flawed::{Flaw, Flawed};
use run::Mismatch;

/// Limits that random sequences reach.
pub(crate) const LIMITS: Limits = Limits { max_txn_ops: 12, max_request_bytes: 16 * 1024 };

/// The number of random sequences.
const CASES: u32 = 2_048;

/// The seed of tests whose sequences must be the same in every run. Its value has no meaning.
const SEED: u64 = 20_130_728;

/// Runs the operations on `backend` and on a new model, on a paused clock of their own.
fn run_on<B: KvBackend>(
    backend: &B,
    operations: &[Operation],
    coverage: &mut Coverage,
) -> Result<(), Mismatch> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be built");
    runtime.block_on(run::run(backend, operations, coverage))
}

fn mem() -> MemBackend {
    MemBackend::builder().limits(LIMITS).build()
}

/// A runner and its seed: `fixed_seed`, else `PROPTEST_RNG_SEED`, else a random seed.
fn runner(cases: u32, fixed_seed: Option<u64>) -> (TestRunner, u64) {
    // In a debug build the default generator would take most of the run time.
    let rng_algorithm = RngAlgorithm::XorShift;
    let config = Config { failure_persistence: None, cases, rng_algorithm, ..Config::default() };
    let seed = match (fixed_seed, config.rng_seed) {
        (Some(seed), _) | (None, RngSeed::Fixed(seed)) => seed,
        (None, RngSeed::Random) => RandomState::new().hash_one(()),
    };
    (TestRunner::new(Config { rng_seed: RngSeed::Fixed(seed), ..config }), seed)
}

/// Searches for a sequence on which a backend differs from the model, and shrinks it.
fn find_mismatch<B: KvBackend>(
    runner: &mut TestRunner,
    make: impl Fn() -> B,
) -> Option<(Mismatch, Vec<Operation>)> {
    let operations = strategy::operations(&Options::default());
    let result = runner.run(&operations, |operations| {
        run_on(&make(), &operations, &mut Coverage::default()).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(mismatch, operations)) => Some((mismatch.to_string(), operations)),
        Err(TestError::Abort(reason)) => panic!("no sequence could be generated: {reason}"),
    }
}

/// Runs the same sequences in every run, and returns their coverage. Panics on a mismatch.
fn sample(cases: u32, options: &Options) -> Coverage {
    let (mut runner, _) = runner(cases, Some(SEED));
    let operations = strategy::operations(options);
    let mut coverage = Coverage::default();
    for _ in 0..cases {
        let sequence =
            operations.new_tree(&mut runner).expect("no strategy rejects a value").current();
        if let Err(mismatch) = run_on(&mem(), &sequence, &mut coverage) {
            panic!("{mismatch}");
        }
    }
    coverage
}

#[test]
fn mem_backend_responds_like_the_model() {
    // `PROPTEST_CASES` can only raise the number.
    let (mut runner, seed) = runner(CASES.max(Config::default().cases), None);
    if let Some((mismatch, _)) = find_mismatch(&mut runner, mem) {
        panic!(
            "{mismatch}\n\nto replay: PROPTEST_RNG_SEED={seed} cargo test -p coord-tests \
             --test it mem_backend_responds_like_the_model"
        );
    }
}

#[test]
fn model_test_finds_and_shrinks_every_flaw() {
    for flaw in Flaw::ALL {
        let (mut runner, _) = runner(CASES, Some(SEED));
        let found = find_mismatch(&mut runner, || Flawed { inner: mem(), flaw });
        let (mismatch, operations) = found.unwrap_or_else(|| panic!("{flaw:?} was not found"));
        assert!(operations.len() <= 12, "{flaw:?} was not shrunk:\n{mismatch}");
    }
}

#[test]
fn random_sequences_cover_every_operation_and_error() {
    let coverage = sample(256, &Options::default());
    for (name, (ok, _)) in &coverage.operations {
        assert!(*ok > 0, "no {name} succeeded:\n{coverage}");
    }
    assert_eq!(coverage.operations.len(), 15, "an operation was never generated:\n{coverage}");
    let kinds = [
        ErrorKind::EmptyKey,
        ErrorKind::KeyNotFound,
        ErrorKind::ValueProvided,
        ErrorKind::LeaseProvided,
        ErrorKind::DuplicateKey,
        ErrorKind::TooManyOps,
        ErrorKind::RequestTooLarge,
        ErrorKind::EmptyWatchRange,
        ErrorKind::InvalidTtl,
        ErrorKind::TtlTooLarge,
        ErrorKind::Refused,
        ErrorKind::Compacted,
        ErrorKind::FutureRevision,
        ErrorKind::LeaseNotFound,
        ErrorKind::LeaseExists,
    ];
    for kind in kinds {
        assert!(coverage.errors.contains_key(&kind), "no {kind:?}:\n{coverage}");
    }
    assert_eq!(coverage.observations.len(), 13, "an observation is missing:\n{coverage}");
    for (observation, times) in &coverage.observations {
        assert!(*times > 0, "never observed: {observation}\n{coverage}");
    }
}

#[test]
fn sequences_without_hazards_are_never_refused() {
    let options = Options { hazards: Hazards::Exclude, ..Options::default() };
    let coverage = sample(256, &options);
    assert!(!coverage.errors.contains_key(&ErrorKind::Refused), "{coverage}");
}
