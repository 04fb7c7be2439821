//! `MemBackend` against a model of the contract, on random operations, answer by answer.
//!
//! The model keeps a whole copy of all keys for every revision, finds everything by looking at
//! everything, and is written from the text of the contract alone. It is slow and it shares no
//! line with the backend, so that where the two agree both are likely to be right:
//!
//! ```text
//!                      +-> MemBackend -> answer --+
//! random operations ---+                          +--> the same? else shrink, and print
//!                      +-> model ------> answer --+
//! ```
//!
//! Compared are all answers in full, with every header, and of errors the kind, the outcome and
//! the revisions in them; what watches deliver, batch by batch; and, now and then and at the end,
//! every revision there is. The limits are set low, so that they are met: twelve operations in a
//! transaction, 16 KiB in a request.
//!
//! The parts: `state`, `rules`, `range`, `txn`, `lease` and `watch` are the model; `run` drives
//! both sides; `coverage` counts what came up; `flawed` are backends that must not pass.

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
use run::Difference;

/// Low enough to be met.
pub(crate) const LIMITS: Limits = Limits { max_txn_ops: 12, max_request_bytes: 16 * 1024 };

const CASES: u32 = 2_048;

/// Any will do; it is fixed where a test is about what comes up.
const SEED: u64 = 20_130_728;

/// Runs the operations against a backend of their own, on a clock of their own.
fn run_on<B: KvBackend>(
    backend: &B,
    operations: &[Operation],
    coverage: &mut Coverage,
) -> Result<(), Difference> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread can be had");
    runtime.block_on(run::run(backend, operations, coverage))
}

fn mem() -> MemBackend {
    MemBackend::builder().limits(LIMITS).build()
}

/// A runner that goes on where `PROPTEST_RNG_SEED` says, or else anywhere, and knows where.
fn runner(cases: u32, fixed_seed: Option<u64>) -> (TestRunner, u64) {
    // In a debug build the default generator would take most of the time.
    let rng_algorithm = RngAlgorithm::XorShift;
    let config = Config { failure_persistence: None, cases, rng_algorithm, ..Config::default() };
    let seed = match (fixed_seed, config.rng_seed) {
        (Some(seed), _) | (None, RngSeed::Fixed(seed)) => seed,
        (None, RngSeed::Random) => RandomState::new().hash_one(()),
    };
    (TestRunner::new(Config { rng_seed: RngSeed::Fixed(seed), ..config }), seed)
}

/// Looks for a sequence on which a backend differs from the model, and shrinks it.
fn find_difference<B: KvBackend>(
    runner: &mut TestRunner,
    make: impl Fn() -> B,
) -> Option<(Difference, Vec<Operation>)> {
    let operations = strategy::operations(&Options::default());
    let result = runner.run(&operations, |operations| {
        run_on(&make(), &operations, &mut Coverage::default()).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(difference, operations)) => Some((difference.to_string(), operations)),
        Err(TestError::Abort(reason)) => panic!("no sequences could be drawn: {reason}"),
    }
}

/// Runs sequences that are the same every time.
fn sample(cases: u32, options: &Options) -> Coverage {
    let (mut runner, _) = runner(cases, Some(SEED));
    let operations = strategy::operations(options);
    let mut coverage = Coverage::default();
    for _ in 0..cases {
        let sequence = operations.new_tree(&mut runner).expect("nothing is filtered").current();
        if let Err(difference) = run_on(&mem(), &sequence, &mut coverage) {
            panic!("{difference}");
        }
    }
    coverage
}

#[test]
fn mem_backend_answers_as_the_model() {
    // `PROPTEST_CASES` can raise the number, but not lower it.
    let (mut runner, seed) = runner(CASES.max(Config::default().cases), None);
    if let Some((difference, _)) = find_difference(&mut runner, mem) {
        panic!(
            "{difference}\n\nto replay: PROPTEST_RNG_SEED={seed} cargo test -p coord-tests \
             --test it mem_backend_answers_as_the_model"
        );
    }
}

#[test]
fn every_flaw_is_found() {
    for flaw in Flaw::ALL {
        let (mut runner, _) = runner(CASES, Some(SEED));
        let found = find_difference(&mut runner, || Flawed { inner: mem(), flaw });
        let (difference, operations) = found.unwrap_or_else(|| panic!("{flaw:?} was not found"));
        assert!(operations.len() <= 12, "{flaw:?} was not shrunk:\n{difference}");
    }
}

#[test]
fn random_operations_meet_every_operation_and_every_error() {
    let coverage = sample(256, &Options::default());
    for (name, (ok, _)) in &coverage.operations {
        assert!(*ok > 0, "no {name} succeeded:\n{coverage}");
    }
    assert_eq!(coverage.operations.len(), 15, "an operation never came up:\n{coverage}");
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
    assert_eq!(coverage.sights.len(), 13, "something was never seen:\n{coverage}");
    for (sight, times) in &coverage.sights {
        assert!(*times > 0, "never seen: {sight}\n{coverage}");
    }
}

#[test]
fn without_hazards_nothing_is_refused_as_one() {
    let options = Options { hazards: Hazards::Exclude, ..Options::default() };
    let coverage = sample(256, &options);
    assert!(!coverage.errors.contains_key(&ErrorKind::Refused), "{coverage}");
}
