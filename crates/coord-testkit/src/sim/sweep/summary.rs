//! The summary of a sweep without a failure.

use std::collections::BTreeMap;
use std::fmt;

use crate::sim::faults::FaultCoverage;
use crate::sim::run::RunResult;

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
    pub coverage: FaultCoverage,
    /// The named conditions, and whether each held at least once.
    pub sometimes: BTreeMap<&'static str, bool>,
}

impl SweepReport {
    pub(super) fn note(&mut self, result: &RunResult) {
        self.seeds += 1;
        self.steps += result.steps;
        self.deviations += u64::try_from(result.deviations.0.len()).unwrap_or(u64::MAX);
        self.coverage.add(&result.coverage);
        for (name, holds) in &result.sometimes {
            *self.sometimes.entry(name).or_default() |= holds;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
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
