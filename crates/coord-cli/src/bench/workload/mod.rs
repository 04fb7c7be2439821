//! The workloads: one file each.
//!
//! A [`Workload`] hires the workers and judges them; a [`Worker`] makes one operation after the
//! other. To add one: a file here, and a line of `Command` in `crates/coord-cli/src/bench/mod.rs`.

pub(crate) mod election;
pub(crate) mod mutex;
pub(crate) mod raw;
pub(crate) mod session;
pub(crate) mod stm;
pub(crate) mod turns;

use anyhow::Result;
use serde_json::{Map, Value};

use super::notes::Notes;
use super::store::Store;

/// What a workload adds to the report.
pub(crate) type Facts = Map<String, Value>;

/// A kind of operation, and what all who make it share.
pub(crate) trait Workload: Send + Sync {
    type Worker: Worker;

    /// Hires the worker with this number, and sets up what it needs. Not measured.
    fn worker(
        &self,
        store: &Store,
        number: usize,
    ) -> impl Future<Output = Result<Self::Worker>> + Send;

    /// A phase begins: the warm-up, then the measured one.
    fn begin(&self) {}

    /// What is to be told beside the times, of so many operations; an error if something did not
    /// hold that must.
    fn judged(&self, store: &Store, operations: u64) -> impl Future<Output = Result<Facts>> + Send;
}

/// Who makes the operation again and again, alone or beside others.
pub(crate) trait Worker: Send + 'static {
    /// Makes the operation once.
    fn step(&mut self, notes: &mut Notes) -> impl Future<Output = Result<()>> + Send;

    /// Gives up what it was set up with. Not measured.
    fn leave(self) -> impl Future<Output = Result<()>> + Send;
}
