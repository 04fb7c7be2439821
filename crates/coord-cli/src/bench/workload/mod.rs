//! The workloads, one file for each kind.
//!
//! A [`Workload`] creates the workers and checks its invariants at the end. A [`Worker`] repeats
//! one operation. To add a workload, add a file here and a variant of `WorkloadCommand` in
//! `crates/coord-cli/src/bench/mod.rs`, or of `RecipeCommand` in
//! `crates/coord-cli/src/bench/recipes.rs`.

pub(crate) mod barrier;
pub(crate) mod double_barrier;
pub(crate) mod election;
pub(crate) mod lock_cycle;
pub(crate) mod mutex;
pub(crate) mod raw;
pub(crate) mod rwlock;
pub(crate) mod semaphore;
pub(crate) mod session;
mod split_mix;
pub(crate) mod stm;

use anyhow::Result;
use serde_json::{Map, Value};

use super::samples::Samples;
use super::store::Store;

/// The fields that a workload adds to the report.
pub(crate) type ReportFields = Map<String, Value>;

/// An operation to measure, and the state that its workers share.
pub(crate) trait Workload: Send + Sync {
    type Worker: Worker;

    /// Creates the worker with this number and what it needs in the store. Not measured.
    fn worker(
        &self,
        store: &Store,
        number: usize,
    ) -> impl Future<Output = Result<Self::Worker>> + Send;

    /// Called at the start of each phase: the warm-up, then the measured phase.
    fn begin_phase(&self) {}

    /// Checks the invariants after a number of measured operations. Returns fields for the report.
    ///
    /// # Errors
    /// An invariant was violated, or the store failed.
    fn check(
        &self,
        store: &Store,
        operations: u64,
    ) -> impl Future<Output = Result<ReportFields>> + Send;
}

/// One of the concurrent workers, which repeats the operation.
pub(crate) trait Worker: Send + 'static {
    /// Runs the operation once, and adds its latencies to the samples.
    fn step(&mut self, samples: &mut Samples) -> impl Future<Output = Result<()>> + Send;

    /// Releases what the worker was created with. Not measured.
    fn tear_down(self) -> impl Future<Output = Result<()>> + Send;
}
