//! The execution of a sweep: runs, shrinks, and checks what was covered.

use std::collections::BTreeMap;
use std::env;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use coord_core::sync;

use super::canary::{self, Canary};
use super::{Sweep, SweepReport, saved};
use crate::history::History;
use crate::sim::choice::{Deviations, Source};
use crate::sim::failure::Failure;
use crate::sim::faults;
use crate::sim::generator::{Generator, Mix};
use crate::sim::report::FailureReport;
use crate::sim::run::{Keep, RunResult, Scenario, run};
use crate::sim::shrink::shrink;

/// From this number of seeds on, a sweep checks what it covered, and runs the canary.
const SEEDS_FOR_COVERAGE: u64 = 100;

/// One of this many seeds is repeated in another process. A seed modulo 4 selects the scheduling
/// policy (`generator.rs`), so the number is odd: in a sweep of 304 seeds or more, the repeated
/// seeds have all four remainders.
const CANARY_STEP: usize = 101;

/// The seeds of a sweep that are repeated in another process. They are about one in a hundred.
fn canary_seeds(seeds: Range<u64>) -> Vec<u64> {
    seeds.step_by(CANARY_STEP).collect()
}

/// How many points of a run are of its schedule.
fn schedule_points(result: &RunResult) -> usize {
    result.points.iter().filter(|point| faults::is_of_schedule(point.options)).count()
}

impl Sweep {
    /// Runs the scenario once, with a list of deviations or those that a seed generates. Returns
    /// the failure and the deviations that the run made.
    #[cfg(feature = "proptest")]
    pub(crate) fn run_once(
        &self,
        seed: u64,
        list: Option<&Deviations>,
        scenario: Scenario<'_>,
    ) -> (Option<Failure>, Deviations) {
        let source = match list {
            Some(list) => Source::replay(list),
            // About how many points a scenario of a few processes has.
            None => Source::Generate(Generator::new(seed, &self.mix(500))),
        };
        let result = run(scenario, &self.settings, source, Keep::Result);
        (result.failure, result.deviations)
    }

    pub(super) fn check_scenario(
        self,
        scenario: Scenario<'_>,
    ) -> Result<SweepReport, Box<FailureReport>> {
        let canary = canary::requested();
        if let Some(canary) = canary.as_ref().filter(|canary| canary.name == self.name) {
            self.run_canary(scenario, canary);
        }
        if let Some(request) = self.requested() {
            return self.run_requested(scenario, &request);
        }
        let first = self.run_without_faults(scenario);
        if let Some(failure) = first.failure {
            return Err(self.shrunk_report(scenario, None, &first.deviations, &failure));
        }
        for list in saved::read(self.saved.as_deref(), &self.name) {
            self.replay_list(scenario, &list)?;
        }
        let mix = self.mix(schedule_points(&first));
        let seeds = self.seeds_to_run();
        let mut report = self.run_seeds(scenario, &mix, seeds.clone())?;
        if self.checks_coverage && report.seeds >= SEEDS_FOR_COVERAGE {
            self.check_coverage(&report)?;
        }
        if self.has_canary && canary.is_none() && report.seeds >= SEEDS_FOR_COVERAGE {
            report.canary_runs = self.check_canary(scenario, &mix, seeds)?;
        }
        Ok(report)
    }

    /// The run without faults, with its points.
    fn run_without_faults(&self, scenario: Scenario<'_>) -> RunResult {
        let no_faults = Source::replay(&Deviations::default());
        run(scenario, &self.settings, no_faults, Keep::Points)
    }

    /// The faults of random runs that have about `points` points of the schedule.
    fn mix(&self, points: usize) -> Mix {
        let points = u64::try_from(points).unwrap_or(u64::MAX);
        Mix { faults: self.settings.faults.clone(), is_swarm: self.is_swarm, points }
    }

    fn seeds_to_run(&self) -> Range<u64> {
        let Ok(text) = env::var("COORD_SIM_SEEDS") else {
            return self.first_seed..self.first_seed.saturating_add(self.seeds);
        };
        let range = text.split_once("..").map_or_else(
            || text.parse().ok().map(|seeds| 0..seeds),
            |(first, end)| Some(first.parse().ok()?..end.parse().ok()?),
        );
        range.unwrap_or_else(|| {
            panic!(
                "invalid COORD_SIM_SEEDS {text:?}: must be a number of seeds such as 20000, or a \
                 range such as 20000..40000"
            )
        })
    }

    /// The list or seed that the user wants to run, for this sweep or for every sweep of a test.
    pub(super) fn requested(&self) -> Option<String> {
        let request = env::var("COORD_SIM").ok()?;
        match request.split_once(':') {
            Some((name, request)) => (name == self.name).then(|| request.to_owned()),
            None => Some(request),
        }
    }

    /// Runs one list or seed, and prints its history.
    pub(super) fn run_requested(
        &self,
        scenario: Scenario<'_>,
        request: &str,
    ) -> Result<SweepReport, Box<FailureReport>> {
        let list = match request.trim().parse::<u64>() {
            Ok(seed) => {
                let mix = self.mix(schedule_points(&self.run_without_faults(scenario)));
                let source = Source::Generate(Generator::new(seed, &mix));
                run(scenario, &self.settings, source, Keep::Result).deviations
            }
            Err(_) => request.parse().unwrap_or_else(|error| panic!("COORD_SIM: {error}")),
        };
        let mut result = run(scenario, &self.settings, Source::replay(&list), Keep::History);
        #[expect(clippy::print_stderr, reason = "the user requests the history of one run")]
        {
            eprintln!("{}", result.history);
        }
        if let Some(failure) = result.failure.take() {
            return Err(self.run_report(failure, result, &list));
        }
        self.assert_fits(result.mismatch);
        Ok(SweepReport { seeds: 1, ..SweepReport::default() })
    }

    /// Runs one list, which must fit and must not fail.
    pub(super) fn replay_list(
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
        self.assert_fits(result.mismatch);
        Ok(())
    }

    /// Panics if a list does not fit the scenario any more.
    fn assert_fits(&self, mismatch: Option<String>) {
        if let Some(mismatch) = mismatch {
            panic!(
                "the list no longer fits the sweep `{}`: {mismatch}; delete the list, or correct it",
                self.name
            )
        }
    }

    fn run_seeds(
        &self,
        scenario: Scenario<'_>,
        mix: &Mix,
        seeds: Range<u64>,
    ) -> Result<SweepReport, Box<FailureReport>> {
        let (next, has_failed) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
        let report = Mutex::new(SweepReport::default());
        let failed = Mutex::new(BTreeMap::new());
        let work = || {
            let mut own = SweepReport::default();
            while !has_failed.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
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
                    "{} failed once ({failure}), but not with the same deviations: the scenario \
                     depends on something that the simulator does not control",
                    seed.map_or("the run without faults".to_owned(), |seed| format!("seed {seed}"))
                ),
            ))
        });
        (report.first_deviations, report.shrink_runs) = (list.0.len(), shrunk.runs);
        report
    }

    /// Runs a failing list with its history. `None` if it does not fail.
    pub(super) fn report(
        &self,
        scenario: Scenario<'_>,
        seed: Option<u64>,
        list: Deviations,
    ) -> Option<Box<FailureReport>> {
        let mut result = run(scenario, &self.settings, Source::replay(&list), Keep::History);
        let mut report = self.run_report(result.failure.take()?, result, &list);
        report.seed = seed;
        Some(report)
    }

    /// The report of a recorded run of `list` that failed.
    fn run_report(
        &self,
        failure: Failure,
        result: RunResult,
        list: &Deviations,
    ) -> Box<FailureReport> {
        let mut report = self.failure_report(failure);
        report.first_deviations = list.0.len();
        (report.deviations, report.words, report.history) =
            (result.deviations, result.words, result.history);
        report
    }

    fn failure_report(&self, failure: Failure) -> Box<FailureReport> {
        Box::new(FailureReport {
            sweep: self.name.clone(),
            test: canary::test_name(),
            failure,
            seed: None,
            first_deviations: 0,
            deviations: Deviations::default(),
            words: Vec::new(),
            shrink_runs: 0,
            history: History::default(),
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

    /// Repeats the chosen seeds in another process, and compares the histories.
    fn check_canary(
        &self,
        scenario: Scenario<'_>,
        mix: &Mix,
        seeds: Range<u64>,
    ) -> Result<u64, Box<FailureReport>> {
        let chosen = canary_seeds(seeds);
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
    fn run_canary(&self, scenario: Scenario<'_>, canary: &Canary) -> ! {
        let mix = self.mix(canary.points);
        for seed in &canary.seeds {
            canary.write(*seed, &self.canary_text(scenario, &mix, *seed));
        }
        canary.finish()
    }

    /// The history of a seed, its failure, and the hash of the final store.
    fn canary_text(&self, scenario: Scenario<'_>, mix: &Mix, seed: u64) -> String {
        let source = Source::Generate(Generator::new(seed, mix));
        let result = run(scenario, &self.settings, source, Keep::History);
        let RunResult { history, failure, store_hash, exits, .. } = result;
        format!("{history}failure {failure:?}\nexits {exits:?}\nstore {store_hash:016x}\n")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn canary_repeats_one_seed_in_a_hundred_of_each_policy() {
        let remainders: BTreeSet<_> = canary_seeds(0..400).iter().map(|seed| seed % 4).collect();
        assert_eq!(remainders.len(), 4);
        assert_eq!(canary_seeds(20_000..30_000).len(), 100);
    }
}
