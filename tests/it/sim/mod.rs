//! Sweeps of the primitives under every fault, and tests of the simulator itself.

mod adoption;
mod cancellation;
mod election;
mod holders;
mod isolation;
mod lock;
mod mutants;
mod plans;
mod proofs;
mod recipes;
mod regressions;
mod scheduler;
mod simulator;
mod supervisor;
mod transactions;

use coord_core::error::PrimitiveError;
use coord_testkit::sim::{Exclusive, Process, Sim, SweepReport};

/// How many seeds a sweep of one primitive runs.
const SEEDS: u64 = 2_000;

/// Prints what a sweep covered.
#[expect(clippy::print_stdout, reason = "the table is the result of the sweep")]
fn print(name: &str, report: &SweepReport) {
    println!("{name}: {report}");
}

/// Starts the services `a`, `b` and `c`, which contend for one resource, and waits until they end.
async fn contend<F: Future<Output = Result<(), PrimitiveError>> + Send + 'static>(
    sim: &Sim,
    resource: &Exclusive,
    work: fn(Process, Exclusive) -> F,
) {
    for name in ["a", "b", "c"] {
        let resource = resource.clone();
        sim.service(name, move |process| work(process, resource.clone()));
    }
    sim.join().await;
}
