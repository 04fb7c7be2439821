//! Sweeps: many runs of one scenario.
//!
//! A sweep runs, in this order: the run without faults; the lists of failures that were saved; one
//! run per seed. With 100 seeds or more it then checks that every fault was exercised, and that
//! some of its seeds give the same history in another process.

mod canary;
mod execute;
mod saved;
mod summary;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use coord_core::Client;
use coord_mem::MemBackend;

use super::Sim;
use super::choice::Deviations;
use super::exhaust::{Exhausted, Refuted, exhaust};
use super::faults::Fault;
use super::report::FailureReport;
use super::run::{ProcessResult, ScenarioFuture, Settings};
use super::weaken::Weaken;
pub use summary::SweepReport;

/// Many runs of one scenario, under random schedules and faults.
///
/// Each run has a runtime of its own, so a sweep belongs in a plain `#[test]`, not in a
/// `#[tokio::test]`.
///
/// Environment variables:
///
/// - `COORD_SIM`: a seed, or a list of deviations. Only this run is made, and its history printed.
///   Where a test has several sweeps, `NAME:` before it selects one sweep; the other sweeps run
///   as usual.
/// - `COORD_SIM_SEEDS`: how many seeds to run, instead of the number in the code; or which, as in
///   `20000..40000`.
#[derive(Clone)]
#[must_use = "call `run` or `check`"]
pub struct Sweep {
    name: String,
    first_seed: u64,
    seeds: u64,
    pub(crate) settings: Settings,
    is_swarm: bool,
    shrink_runs: usize,
    threads: usize,
    has_canary: bool,
    checks_coverage: bool,
    saved: Option<PathBuf>,
}

impl Sweep {
    /// Creates a sweep with all faults. It runs 200 seeds by default. Give it the name of its test
    /// function, and a name of its own if the test has several sweeps.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            first_seed: 0,
            seeds: 200,
            settings: Settings {
                faults: Fault::ALL.to_vec(),
                fault_time: Duration::from_secs(300),
                settle_time: Duration::from_secs(600),
                max_steps: 200_000,
                wrap_store: None,
                checks_store: false,
            },
            is_swarm: true,
            shrink_runs: 500,
            threads: 1,
            has_canary: true,
            checks_coverage: true,
            saved: None,
        }
    }

    /// Sets the number of seeds.
    pub const fn seeds(mut self, seeds: u64) -> Self {
        self.seeds = seeds;
        self
    }

    /// Sets the first seed. 0 by default: every run of the test repeats the same seeds.
    pub const fn first_seed(mut self, seed: u64) -> Self {
        self.first_seed = seed;
        self
    }

    /// Sets the faults that runs may have. All by default.
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.settings.faults = faults.into_iter().collect();
        self
    }

    /// Removes a fault.
    pub fn without(mut self, fault: Fault) -> Self {
        self.settings.faults.retain(|enabled| *enabled != fault);
        self
    }

    /// Enables every fault in every run. By default each run enables each fault with a probability
    /// of one half.
    pub const fn without_swarm(mut self) -> Self {
        self.is_swarm = false;
        self
    }

    /// Sets when faults stop, in virtual time. 300 s by default.
    pub const fn fault_time(mut self, time: Duration) -> Self {
        self.settings.fault_time = time;
        self
    }

    /// Sets how long the scenario may take to return after the faults. 600 s by default.
    pub const fn settle_time(mut self, time: Duration) -> Self {
        self.settings.settle_time = time;
        self
    }

    /// Sets after how many steps a run is a livelock. 200,000 by default.
    pub const fn max_steps(mut self, steps: u64) -> Self {
        self.settings.max_steps = steps;
        self
    }

    /// Sets in how many runs a failure is shrunk at most. 500 by default.
    pub const fn shrink_runs(mut self, runs: usize) -> Self {
        self.shrink_runs = runs;
        self
    }

    /// Sets the number of threads. 1 by default, because tests run in parallel already.
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Does not run seeds in another process to compare the histories. By default a sweep of 100
    /// seeds or more does.
    pub const fn without_canary(mut self) -> Self {
        self.has_canary = false;
        self
    }

    /// Does not fail when a fault never mattered, or a [`sometimes`](Sim::sometimes) condition
    /// never held. By default a sweep of 100 seeds or more does.
    pub const fn without_coverage(mut self) -> Self {
        self.checks_coverage = false;
        self
    }

    /// Keeps the lists of failures in the file `<folder>/<name>.sim`: a failure is added, and every
    /// later sweep replays them before its seeds.
    pub fn saved_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.saved = Some(folder.into());
        self
    }

    /// Wraps the store of every run, for example to weaken it.
    pub fn wrap_store(
        mut self,
        wrap: impl Fn(MemBackend) -> Client + Send + Sync + 'static,
    ) -> Self {
        self.settings.wrap_store = Some(std::sync::Arc::new(wrap));
        self
    }

    /// Makes the store of every run violate one rule of the contract, to check that this sweep
    /// detects the violation. A sweep that detects it returns an error:
    ///
    /// ```
    /// use coord_testkit::sim::{Sweep, Weaken};
    ///
    /// let sweep = Sweep::new("counter_counts").without_canary().weaken(Weaken::TxnIgnoresCompare);
    /// let noticed = sweep.check(|sim| async move {
    ///     for name in ["a", "b"] {
    ///         sim.spawn(name, |process| async move {
    ///             process.client().put_if_absent("owner", name).await.map(drop)
    ///         });
    ///     }
    ///     sim.join().await;
    ///     let owner = sim.client().get("owner").await.expect("the store responds");
    ///     assert!(owner.is_none_or(|owner| owner.version == 1), "the owner was replaced");
    /// });
    /// assert!(noticed.unwrap_err().failure.text.contains("the owner was replaced"));
    /// ```
    pub fn weaken(self, weakness: Weaken) -> Self {
        self.wrap_store(move |store| weakness.wrap(store))
    }

    /// Compares the response to every read and change of keys, and every watch, with the store: an
    /// oracle that fails a run with the name `linearizability` or `watch`. A response must be the
    /// one that the store gives at its revision, between its request and its receipt; a change must
    /// be applied once; and a watch must deliver each event once, in order.
    ///
    /// The store of a run holds to that, so the check is off by default: it costs about a fifth of
    /// the seeds per second. It is for a layer that [`wrap_store`](Self::wrap_store) puts over the
    /// store. With [`weaken`](Self::weaken) it finds the weakness itself, as in the example. Do not
    /// use it where `wrap_store` replaces the store, or changes keys in it by itself.
    ///
    /// ```
    /// use coord_testkit::sim::{Sweep, Weaken};
    ///
    /// let sweep = Sweep::new("reads").weaken(Weaken::StaleReads).check_store();
    /// let noticed = sweep.check(|sim| async move {
    ///     sim.spawn("a", |process| async move {
    ///         process.client().put("k", "1").await?;
    ///         process.client().get("k").await.map(drop)
    ///     });
    ///     sim.join().await;
    /// });
    /// assert_eq!(noticed.unwrap_err().failure.oracle, "linearizability");
    /// ```
    ///
    /// The rules in detail, and what the check does not see, are in the guide,
    /// `docs/guide/simulation.md`. Source: Herlihy and Wing, "Linearizability: A Correctness
    /// Condition for Concurrent Objects", TOPLAS 1990.
    pub const fn check_store(mut self) -> Self {
        self.settings.checks_store = true;
        self
    }

    /// Runs the sweep.
    ///
    /// # Panics
    /// With a report, if [`check`](Self::check) returns an error. Also where `check` panics.
    pub fn run<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
        self,
        scenario: impl Fn(Sim) -> F + Sync,
    ) -> SweepReport {
        match self.check(scenario) {
            Ok(report) => report,
            Err(report) => panic!("{report}"),
        }
    }

    /// Runs the sweep, and returns the report of a failure.
    ///
    /// # Errors
    /// The first run that failed, shrunk. Also if a fault never mattered, a named condition never
    /// held, or a run is not deterministic.
    ///
    /// # Panics
    /// Inside an async runtime; if a saved list, or the list of `COORD_SIM`, no longer fits the
    /// scenario; if the file of saved lists cannot be read or written, or an environment variable
    /// cannot be read; or if the canary process does not run the sweep.
    pub fn check<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
        self,
        scenario: impl Fn(Sim) -> F + Sync,
    ) -> Result<SweepReport, Box<FailureReport>> {
        self.check_scenario(&erased(scenario))
    }

    /// Runs the scenario with one list of deviations, and panics if the run fails, or if the list
    /// does not fit the scenario any more.
    ///
    /// # Panics
    /// With a report, if the run fails. Also if `list` is not a list of deviations, if the run does
    /// not reach a point of the list, and if a point has another number of options. The same for
    /// the list of `COORD_SIM`. Also inside an async runtime.
    pub fn replay<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
        self,
        list: &str,
        scenario: impl Fn(Sim) -> F + Sync,
    ) {
        let list: Deviations = list.parse().unwrap_or_else(|error| panic!("{error}"));
        let scenario = erased(scenario);
        let result = match self.requested() {
            Some(request) => self.run_requested(&scenario, &request).map(drop),
            None => self.replay_list(&scenario, &list),
        };
        if let Err(report) = result {
            panic!("{report}");
        }
    }

    /// Runs the scenario with every list of at most `max_deviations` deviations of the enabled
    /// faults: a proof, up to that bound. For small scenarios: the number of runs grows with the
    /// number of decision points to the power of `max_deviations`.
    ///
    /// # Panics
    /// With a report, if a run fails. Also if `COORD_SIM` cannot be read or its list no longer fits
    /// the scenario, and inside an async runtime.
    pub fn exhaust<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
        self,
        max_deviations: usize,
        scenario: impl Fn(Sim) -> F + Sync,
    ) -> Exhausted {
        let scenario = erased(scenario);
        if let Some(request) = self.requested() {
            return match self.run_requested(&scenario, &request) {
                Ok(_) => Exhausted { runs: 1, max_deviations },
                Err(report) => panic!("{report}"),
            };
        }
        match exhaust(&scenario, &self.settings, max_deviations) {
            Ok(exhausted) => exhausted,
            Err(Refuted { list, runs }) => match self.report(&scenario, None, list) {
                Some(report) => panic!("run {runs} of the exploration failed\n{report}"),
                None => panic!("run {runs} of the exploration failed, and is not reproducible"),
            },
        }
    }
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A scenario without its types.
pub(crate) fn erased<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
    scenario: impl Fn(Sim) -> F + Sync,
) -> impl Fn(Sim) -> ScenarioFuture + Sync {
    move |sim| {
        let running = scenario(sim);
        Box::pin(async move { running.await.into_result() })
    }
}
