//! Cases in simulated runs: large cases under random schedules and every fault.

use std::sync::Arc;

use coord_core::Result;
use coord_core::kv::{Op, Put, Txn};

use super::case::Case;
use super::perform::{PutValues, run};
use crate::history::HistoryRecorder;
use crate::isolation::{self, Verdict};
use crate::sim::Sim;

/// How many attempts a transaction makes at most in a simulated run.
const ATTEMPTS_MAX: u32 = 10;

/// Runs the programs of a case as processes of a simulated run, and checks their history.
///
/// The run has the schedules and faults of its [`Sweep`](crate::sim::Sweep), which also shrinks a
/// failure to a few deviations. Processes that a fault has ended are no failure.
///
/// ```
/// use coord_core::stm::Isolation;
/// use coord_testkit::programs::{Search, simulate};
/// use coord_testkit::sim::Sweep;
///
/// let search = Search::new(Isolation::Serializable);
/// let mut rng = fastrand::Rng::with_seed(1);
/// for number in 0..3 {
///     // Not in the scenario: the deviations of a run decide everything in it.
///     let case = search.random_case(&mut rng);
///     let sweep = Sweep::new(&format!("programs_keep_their_level_{number}")).seeds(10);
///     sweep.run(|sim| {
///         let case = case.clone();
///         async move {
///             let verdict = simulate(&sim, &case).await.expect("the store responds to the test");
///             if verdict.declared().is_refuted() {
///                 sim.fail("isolation", format!("{case}{verdict}"));
///             }
///         }
///     });
/// }
/// ```
///
/// # Errors
/// As [`KvBackend::txn`](coord_core::KvBackend::txn), [`HistoryRecorder::watch_changes`] and
/// [`ChangeRecorder::catch_up`](crate::history::ChangeRecorder::catch_up), on the client of the
/// run.
///
/// # Panics
/// If the run has a process with the name of a program, such as `T1`.
///
/// # Cancel safety
/// If the future is dropped, the programs that have started run on.
pub async fn simulate(sim: &Sim, case: &Case) -> Result<Verdict> {
    let puts = case.initial.iter().map(|key| Op::from(Put::new(key, "0")));
    sim.client().txn(Txn::new().and_then(puts)).await?;
    let recorder = HistoryRecorder::new();
    let mut changes = recorder.watch_changes(sim.client()).await?;
    for (number, program) in (1..).zip(&case.programs) {
        let (name, program) = (format!("T{number}"), Arc::new(program.clone()));
        let recorder = recorder.process(&name);
        sim.spawn(&name.clone(), move |process| async move {
            let client = process.client().clone().record_transactions(recorder);
            run(client, program, name, PutValues::Unique, ATTEMPTS_MAX).await
        });
    }
    sim.join().await;
    changes.catch_up().await?;
    Ok(isolation::check(&recorder.take()))
}
