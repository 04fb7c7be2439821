//! Sweeps: many runs of one scenario.
//!
//! A sweep runs, in this order: the run without faults; the lists of failures that were saved; one
//! run per seed. Then it checks that every fault was exercised, and that some of its seeds give the
//! same history in another process.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use coord_core::{Client, sync};
use coord_mem::MemBackend;

use super::canary::{self, Canary};
use super::choice::{Deviations, Source};
use super::exhaust::{Exhausted, Refuted, exhaust};
use super::failure::Failure;
use super::faults::{Coverage, Fault};
use super::generator::{Generator, Mix};
use super::report::FailureReport;
use super::run::{BackgroundVerdict, Keep, RunResult, Scenario, Settings, Verdict, run};
use super::shrink::shrink;
use super::weaken::Weaken;
use super::{Sim, saved};

/// From this number of seeds on, a sweep checks what it covered.
const SEEDS_FOR_COVERAGE: u64 = 100;

/// Many runs of one scenario, under random schedules and faults.
///
/// Environment variables:
///
/// - `COORD_SIM`: a seed, or a list of deviations. Only this run is made, and its history printed.
/// - `COORD_SIM_SEEDS`: how many seeds to run, instead of the number in the code.
#[derive(Clone)]
#[must_use = "call `run` or `check`"]
pub struct Sweep {
    name: String,
    seeds: u64,
    settings: Settings,
    is_swarm: bool,
    shrink_runs: usize,
    threads: usize,
    has_canary: bool,
    checks_coverage: bool,
    saved: Option<PathBuf>,
}

impl Sweep {
    /// A sweep of 200 seeds with all faults. The name must be that of its test function, so that
    /// the command in the report finds it.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            seeds: 200,
            settings: Settings {
                faults: Fault::ALL.to_vec(),
                fault_time: Duration::from_secs(300),
                settle_time: Duration::from_secs(600),
                max_steps: 200_000,
                wrap_store: None,
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

    /// Enables every fault in every run. By default each run has a random half of them.
    pub const fn without_swarm(mut self) -> Self {
        self.is_swarm = false;
        self
    }

    /// Sets when faults stop, in virtual time. 300 s by default.
    pub const fn fault_time(mut self, time: Duration) -> Self {
        self.settings.fault_time = time;
        self
    }

    /// Sets how long the processes may take to finish after the faults. 600 s by default.
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

    /// Does not run seeds in another process to compare the histories.
    pub const fn without_canary(mut self) -> Self {
        self.has_canary = false;
        self
    }

    /// Does not fail when a fault was not exercised.
    pub const fn without_coverage(mut self) -> Self {
        self.checks_coverage = false;
        self
    }

    /// Keeps the lists of failures in the file `<folder>/<name>.sim`: a failure is added, and every
    /// later sweep replays them first.
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

    /// Makes the store of every run break one promise, to see whether this sweep notices. A sweep
    /// that notices returns an error:
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

    /// Runs the sweep.
    ///
    /// # Panics
    /// With a report, if a run fails, if a fault was never exercised, or if a run is not
    /// deterministic.
    pub fn run<R: Verdict, F: Future<Output = R> + Send + 'static>(
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
    /// The first run that failed, shrunk.
    pub fn check<R: Verdict, F: Future<Output = R> + Send + 'static>(
        self,
        scenario: impl Fn(Sim) -> F + Sync,
    ) -> Result<SweepReport, Box<FailureReport>> {
        self.check_scenario(&erased(scenario))
    }

    /// Runs the scenario with one list of deviations, and panics if the run fails, or if the list
    /// does not fit the scenario any more.
    ///
    /// # Panics
    /// With a report, if the run fails. Also if `list` is not a list of deviations, and if the run
    /// does not reach a point of the list.
    pub fn replay<R: Verdict, F: Future<Output = R> + Send + 'static>(
        self,
        list: &str,
        scenario: impl Fn(Sim) -> F + Sync,
    ) {
        let list: Deviations = list.parse().unwrap_or_else(|error| panic!("{error}"));
        if let Err(report) = self.replay_list(&erased(scenario), &list) {
            panic!("{report}");
        }
    }

    /// Runs the scenario with every list of at most `max_deviations` deviations of the enabled
    /// faults: a proof, up to that bound. For small scenarios: the number of runs grows with the
    /// number of decision points to the power of `max_deviations`.
    ///
    /// # Panics
    /// With a report, if a run fails.
    pub fn exhaust<R: Verdict, F: Future<Output = R> + Send + 'static>(
        self,
        max_deviations: usize,
        scenario: impl Fn(Sim) -> F + Sync,
    ) -> Exhausted {
        let scenario = erased(scenario);
        match exhaust(&scenario, &self.settings, max_deviations) {
            Ok(exhausted) => exhausted,
            Err(Refuted { list, runs }) => match self.report(&scenario, None, list) {
                Some(report) => panic!("run {runs} of the exploration failed\n{report}"),
                None => panic!("run {runs} of the exploration failed, and is not reproducible"),
            },
        }
    }

    /// Runs the scenario once, with a list of deviations or those that a seed generates. Returns
    /// the failure and the deviations that the run made.
    #[cfg(feature = "proptest")]
    pub(crate) fn run_once<R: Verdict, F: Future<Output = R> + Send + 'static>(
        &self,
        seed: u64,
        list: Option<&Deviations>,
        scenario: impl Fn(Sim) -> F + Sync,
    ) -> (Option<Failure>, Deviations) {
        let source = match list {
            Some(list) => Source::replay(list),
            // About how many points a scenario of a few processes has.
            None => Source::Generate(Generator::new(seed, &self.mix(500))),
        };
        let result = run(&erased(scenario), &self.settings, source, Keep::Result);
        (result.failure, result.deviations)
    }

    fn check_scenario(self, scenario: Scenario<'_>) -> Result<SweepReport, Box<FailureReport>> {
        if let Some(canary) = canary::requested() {
            if canary.name == self.name {
                self.run_canary(scenario, &canary);
            }
            return Ok(SweepReport::default());
        }
        if let Ok(request) = env::var("COORD_SIM") {
            return self.run_requested(scenario, &request);
        }
        let no_faults = Deviations::default();
        let first = run(scenario, &self.settings, Source::replay(&no_faults), Keep::Points);
        if let Some(failure) = first.failure {
            return Err(self.shrunk_report(scenario, None, &no_faults, &failure));
        }
        for list in saved::read(self.saved.as_deref(), &self.name) {
            self.replay_list(scenario, &list)?;
        }
        let mix = self.mix(u64::try_from(first.points.len()).unwrap_or(u64::MAX));
        let mut report = self.run_seeds(scenario, &mix)?;
        if self.checks_coverage && report.seeds >= SEEDS_FOR_COVERAGE {
            self.check_coverage(&report)?;
        }
        if self.has_canary && report.seeds >= SEEDS_FOR_COVERAGE {
            report.canary_runs = self.check_canary(scenario, &mix, report.seeds)?;
        }
        Ok(report)
    }

    fn mix(&self, points: u64) -> Mix {
        Mix { faults: self.settings.faults.clone(), is_swarm: self.is_swarm, points }
    }

    fn seeds_to_run(&self) -> u64 {
        match env::var("COORD_SIM_SEEDS") {
            Ok(text) => text.parse().unwrap_or_else(|_| {
                panic!("invalid COORD_SIM_SEEDS {text:?}: must be a number of seeds")
            }),
            Err(_) => self.seeds,
        }
    }

    /// Runs one list or seed, and prints its history.
    fn run_requested(
        &self,
        scenario: Scenario<'_>,
        request: &str,
    ) -> Result<SweepReport, Box<FailureReport>> {
        let list = match request.trim().parse::<u64>() {
            Ok(seed) => {
                let no_faults = Source::replay(&Deviations::default());
                let first = run(scenario, &self.settings, no_faults, Keep::Points);
                let mix = self.mix(u64::try_from(first.points.len()).unwrap_or(u64::MAX));
                let source = Source::Generate(Generator::new(seed, &mix));
                run(scenario, &self.settings, source, Keep::Result).deviations
            }
            Err(_) => request.parse().unwrap_or_else(|error| panic!("COORD_SIM: {error}")),
        };
        let result = run(scenario, &self.settings, Source::replay(&list), Keep::History);
        #[expect(clippy::print_stderr, reason = "the user asked for the history of one run")]
        {
            eprintln!("{}", result.history);
        }
        self.replay_list(scenario, &list)?;
        Ok(SweepReport { seeds: 1, ..SweepReport::default() })
    }

    /// Runs one list, which must fit and must not fail.
    fn replay_list(
        &self,
        scenario: Scenario<'_>,
        list: &Deviations,
    ) -> Result<(), Box<FailureReport>> {
        let result = run(scenario, &self.settings, Source::replay(list), Keep::Result);
        if result.failure.is_some()
            && let Some(report) = self.report(scenario, None, list.clone())
        {
            return Err(report);
        }
        match result.mismatch {
            Some(mismatch) => {
                panic!("the list no longer fits the sweep `{}`: {mismatch}", self.name)
            }
            None => Ok(()),
        }
    }

    fn run_seeds(
        &self,
        scenario: Scenario<'_>,
        mix: &Mix,
    ) -> Result<SweepReport, Box<FailureReport>> {
        let seeds = self.seeds_to_run();
        let (next, has_failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let report = Mutex::new(SweepReport::default());
        let failed = Mutex::new(BTreeMap::new());
        let work = || {
            let mut own = SweepReport::default();
            while !has_failed.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    break;
                }
                let source = Source::Generate(Generator::new(seed, mix));
                let result = run(scenario, &self.settings, source, Keep::Result);
                if let Some(failure) = result.failure {
                    has_failed.store(true, Ordering::Relaxed);
                    sync::lock(&failed).insert(seed, (result.deviations, failure));
                    break;
                }
                own.note(&result);
            }
            sync::lock(&report).add(&own);
        };
        if self.threads > 1 {
            thread::scope(|scope| (0..self.threads).for_each(|_| drop(scope.spawn(work))));
        } else {
            work();
        }
        let failed = std::mem::take(&mut *sync::lock(&failed));
        if let Some((seed, (list, failure))) = failed.into_iter().next() {
            let report = self.shrunk_report(scenario, Some(seed), &list, &failure);
            saved::add(self.saved.as_deref(), &self.name, &report.deviations);
            return Err(report);
        }
        Ok(std::mem::take(&mut *sync::lock(&report)))
    }

    /// Shrinks a failure, and runs it once more for its history.
    fn shrunk_report(
        &self,
        scenario: Scenario<'_>,
        seed: Option<u64>,
        list: &Deviations,
        failure: &Failure,
    ) -> Box<FailureReport> {
        let shrunk = shrink(scenario, &self.settings, list, failure, self.shrink_runs);
        let mut report = self.report(scenario, seed, shrunk.list).unwrap_or_else(|| {
            self.failure_report(Failure::new(
                "nondeterminism",
                format!(
                    "seed {seed:?} failed once ({failure}), but not with the same deviations: the \
                     scenario depends on something that the simulator does not control"
                ),
            ))
        });
        (report.first_deviations, report.shrink_runs) = (list.0.len(), shrunk.runs);
        report
    }

    /// Runs a failing list with its history. `None` if it does not fail.
    fn report(
        &self,
        scenario: Scenario<'_>,
        seed: Option<u64>,
        list: Deviations,
    ) -> Option<Box<FailureReport>> {
        let result = run(scenario, &self.settings, Source::replay(&list), Keep::History);
        let mut report = self.failure_report(result.failure?);
        report.seed = seed;
        report.first_deviations = list.0.len();
        (report.deviations, report.words, report.history) =
            (result.deviations, result.words, result.history);
        Some(report)
    }

    fn failure_report(&self, failure: Failure) -> Box<FailureReport> {
        Box::new(FailureReport {
            sweep: self.name.clone(),
            failure,
            seed: None,
            first_deviations: 0,
            deviations: Deviations::default(),
            words: Vec::new(),
            shrink_runs: 0,
            history: crate::history::History::default(),
        })
    }

    /// Fails if a fault that could fire never mattered, or a named condition never held.
    fn check_coverage(&self, report: &SweepReport) -> Result<(), Box<FailureReport>> {
        let missing: Vec<_> = report.coverage.missing().iter().map(ToString::to_string).collect();
        let never = report.sometimes.iter().filter(|(_, holds)| !**holds);
        let missing: Vec<_> =
            missing.into_iter().chain(never.map(|(name, _)| (*name).to_owned())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let text = format!(
            "never exercised in {} seeds: {}; run more seeds, or remove the fault with `without`\n{}",
            report.seeds,
            missing.join(", "),
            report.coverage
        );
        Err(self.failure_report(Failure::new("coverage", text)))
    }

    /// Runs one seed in a hundred in another process, and compares the histories.
    fn check_canary(
        &self,
        scenario: Scenario<'_>,
        mix: &Mix,
        seeds: u64,
    ) -> Result<u64, Box<FailureReport>> {
        let chosen: Vec<u64> = (0..seeds).step_by(100).take(20).collect();
        let Some(other) = canary::run_elsewhere(&self.name, &chosen, mix.points) else {
            return Ok(0);
        };
        for seed in &chosen {
            let here = self.canary_text(scenario, mix, *seed);
            let there = other.get(seed).map_or("no result", String::as_str);
            if let Some(difference) = canary::first_difference(&here, there) {
                let text = format!("seed {seed} differs in another process: {difference}");
                return Err(self.failure_report(Failure::new("nondeterminism", text)));
            }
        }
        Ok(u64::try_from(chosen.len()).unwrap_or(u64::MAX))
    }

    /// In the other process: runs the seeds, and writes their histories.
    fn run_canary(&self, scenario: Scenario<'_>, canary: &Canary) {
        let mix = self.mix(canary.points);
        for seed in &canary.seeds {
            canary.write(*seed, &self.canary_text(scenario, &mix, *seed));
        }
    }

    /// The history of a seed, its failure, and the hash of the final store.
    fn canary_text(&self, scenario: Scenario<'_>, mix: &Mix, seed: u64) -> String {
        let source = Source::Generate(Generator::new(seed, mix));
        let result = run(scenario, &self.settings, source, Keep::History);
        let RunResult { history, failure, store_hash, exits, .. } = result;
        format!("{history}failure {failure:?}\nexits {exits:?}\nstore {store_hash:016x}\n")
    }
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A scenario without its types.
fn erased<R: Verdict, F: Future<Output = R> + Send + 'static>(
    scenario: impl Fn(Sim) -> F + Sync,
) -> impl Fn(Sim) -> BackgroundVerdict + Sync {
    move |sim| {
        let running = scenario(sim);
        Box::pin(async move { running.await.into_result() })
    }
}

/// What a sweep without a failure covered.
#[derive(Clone, Debug, Default)]
pub struct SweepReport {
    /// How many seeds were run.
    pub seeds: u64,
    /// How many steps all runs took.
    pub steps: u64,
    /// How many deviations all runs had.
    pub deviations: u64,
    /// How many seeds gave the same history in another process.
    pub canary_runs: u64,
    /// How often each fault was exercised.
    pub coverage: Coverage,
    /// The named conditions, and whether each held at least once.
    pub sometimes: BTreeMap<&'static str, bool>,
}

impl SweepReport {
    fn note(&mut self, result: &RunResult) {
        self.seeds += 1;
        self.steps += result.steps;
        self.deviations += u64::try_from(result.deviations.0.len()).unwrap_or(u64::MAX);
        self.coverage.add(&result.coverage);
        for (name, holds) in &result.sometimes {
            *self.sometimes.entry(name).or_default() |= holds;
        }
    }

    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.deviations += other.deviations;
        self.coverage.add(&other.coverage);
        for (name, holds) in &other.sometimes {
            *self.sometimes.entry(name).or_default() |= holds;
        }
    }
}

impl fmt::Display for SweepReport {
    /// The counts, and a table of the faults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, steps, deviations, canary_runs, .. } = self;
        writeln!(
            f,
            "{seeds} seeds hold: {steps} steps, {deviations} deviations, {canary_runs} seeds \
             repeated in another process"
        )?;
        for (name, holds) in &self.sometimes {
            writeln!(f, "sometimes {name}: {}", if *holds { "yes" } else { "never" })?;
        }
        write!(f, "{}", self.coverage)
    }
}
