//! Reports: what a failed sweep prints.

use std::fmt::{self, Write as _};

use coord_core::kv::{KeyRange, KeyValue, Range};
use futures_util::FutureExt as _;

use super::choice::Deviations;
use super::failure::Failure;
use super::world::{State, World};
use crate::history::{Event, EventKind, History};

/// How many events a report shows before the failure. Of earlier events it shows the faults.
const LAST_EVENTS: usize = 40;

/// How many earlier faults a report shows, the last ones.
const EARLIER_FAULTS: usize = 40;

/// A failed run, shrunk: what broke, the deviations that make it break, and how to run it again.
#[derive(Clone, Debug)]
pub struct FailureReport {
    /// The name of the sweep.
    pub sweep: String,
    /// The path of the test that ran the sweep; `None` outside a test program.
    pub test: Option<String>,
    /// What broke.
    pub failure: Failure,
    /// The seed whose failed run was shrunk; `None` in every other report, such as that of a saved
    /// list or of the run without faults.
    pub seed: Option<u64>,
    /// How many deviations the run had before it was shrunk.
    pub first_deviations: usize,
    /// The shrunk list.
    pub deviations: Deviations,
    /// What each of its deviations means.
    pub words: Vec<String>,
    /// How many runs the shrinking took.
    pub shrink_runs: usize,
    /// The history of the shrunk run.
    pub history: History,
}

impl FailureReport {
    /// How to run the list again. The name of the sweep is in it where the test may have other
    /// sweeps.
    fn command(&self) -> String {
        let Self { sweep, deviations, .. } = self;
        let Some(test) = &self.test else {
            return format!("run the program with COORD_SIM='{sweep}:{deviations}'");
        };
        let is_named_alike = test.rsplit("::").next() == Some(sweep);
        let prefix = if is_named_alike { String::new() } else { format!("{sweep}:") };
        format!("COORD_SIM='{prefix}{deviations}' cargo test {test} -- --exact")
    }
}

impl FailureReport {
    /// Writes the last events. Of the earlier ones only the faults, which may be the cause.
    fn write_history(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events = &self.history.0;
        let (earlier, last) = events.split_at(events.len().saturating_sub(LAST_EVENTS));
        let is_fault = |event: &&Event| matches!(event.kind, EventKind::Fault(_));
        let faults: Vec<_> = earlier.iter().filter(is_fault).collect();
        let faults = &faults[faults.len().saturating_sub(EARLIER_FAULTS)..];
        match earlier.len() - faults.len() {
            0 => writeln!(f, "\nhistory:")?,
            hidden => writeln!(f, "\nhistory ({hidden} earlier events not shown):")?,
        }
        faults.iter().try_for_each(|event| writeln!(f, "{event}"))?;
        if !faults.is_empty() {
            writeln!(f, "\u{2026}")?;
        }
        last.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

impl std::error::Error for FailureReport {}

impl fmt::Display for FailureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sweep, failure, deviations, words, first_deviations, .. } = self;
        writeln!(f, "the sweep `{sweep}` failed: {failure}")?;
        if self.history.0.is_empty() {
            // It is not about one run: a fault was never exercised, for example.
            return Ok(());
        }
        writeln!(f)?;
        match self.seed {
            Some(seed) => writeln!(
                f,
                "seed {seed} failed with {first_deviations} deviations; {} runs shrank them to {}:",
                self.shrink_runs,
                words.len()
            )?,
            None if words.is_empty() => writeln!(f, "it fails without any fault")?,
            None => writeln!(f, "it fails with these deviations, {}:", words.len())?,
        }
        if words.is_empty() && self.seed.is_some() {
            writeln!(f, "  none: it fails without any fault")?;
        }
        for (i, words) in words.iter().enumerate() {
            writeln!(f, "  {}. {words}", i + 1)?;
        }
        self.write_history(f)?;
        writeln!(f, "\nto run it again with its whole history:")?;
        writeln!(f, "  {}", self.command())?;
        writeln!(f, "\nto keep it as a regression test:")?;
        writeln!(f, "  Sweep::new(\"{sweep}\").replay(\"{deviations}\", scenario);")
    }
}

/// The part of a key that the entries of one wait queue share.
fn queue_of(key: &KeyValue) -> &[u8] {
    let end = key.key.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &key.key[..end]
}

impl World {
    /// The processes that have not finished, and what they wait for.
    pub(crate) fn describe_unfinished(&self) -> String {
        // The store is in memory: it responds at once.
        let range = self.store.range(Range::new(KeyRange::all())).now_or_never();
        let mut keys = range.and_then(Result::ok).map(|range| range.kvs).unwrap_or_default();
        keys.retain(|key| key.lease.is_some());
        keys.sort_by_key(|key| key.create_revision);
        let state = self.lock();
        let stuck = state
            .processes
            .iter()
            .enumerate()
            .filter(|(_, process)| process.has_main && process.exit.is_none());
        let mut text = "not finished:".to_owned();
        for (index, process) in stuck {
            // Writing to a string cannot fail.
            let _ = write!(text, " {} ({})", process.name, process.status());
            for (i, key) in keys.iter().enumerate() {
                if state.owner_of(key).is_none_or(|owner| owner != index) {
                    continue;
                }
                let earlier = keys[..i].iter().rev();
                let predecessor = earlier.clone().find(|other| queue_of(other) == queue_of(key));
                let own = key.key.escape_ascii();
                let _ = match predecessor {
                    Some(predecessor) => write!(
                        text,
                        ", its key \"{own}\" is behind \"{}\" of {}",
                        predecessor.key.escape_ascii(),
                        state.name_owner(predecessor)
                    ),
                    None => write!(text, ", its key \"{own}\" is first"),
                };
            }
            text.push(';');
        }
        text.trim_end_matches(';').to_owned()
    }
}

impl State {
    /// The process that was granted the lease of a key.
    fn owner_of(&self, key: &KeyValue) -> Option<usize> {
        self.leases.get(&key.lease?).copied()
    }

    fn name_owner(&self, key: &KeyValue) -> String {
        match self.owner_of(key).map(|owner| &self.processes[owner]) {
            Some(process) => format!("{} ({})", process.name, process.status()),
            None => "another client".to_owned(),
        }
    }

    /// Whether every process has ended, and none is about to start again.
    pub(crate) fn has_ended(&self) -> bool {
        let mut with_main = self.processes.iter().filter(|process| process.has_main);
        self.restarts == 0 && with_main.all(|process| process.exit.is_some())
    }
}
