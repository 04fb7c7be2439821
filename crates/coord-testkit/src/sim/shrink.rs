//! Shrinking: from the many deviations of a failing run to the few that make it fail.
//!
//! A candidate is the list without some deviations, perhaps with another one changed, or with a
//! lower option at one point. It replaces the list if its run fails in the same oracle, a panic at
//! the same place, and an error of the scenario with the same text but for numbers. The order of
//! preference: fewest deviations, then lowest options. The passes, which end early when the budget
//! is spent:
//!
//! 1. remove all deviations of one fault;
//! 2. remove spans: halves, quarters, and so on to single deviations;
//! 3. keep one deviation alone, at another point of its lane or of the same lane of another
//!    process: often the other deviations only led the run to the point at which the kept one has
//!    its effect, and processes with one role are interchangeable;
//! 4. remove one deviation and change another one: move it to a point close by in its lane, or
//!    choose another option. Without the removed deviation, a process may reach the point that
//!    matters one request earlier or later, or need another delay for the same race;
//! 5. lower the option of one deviation.
//!
//! Passes 1 and 2 are repeated until neither helps, at first in no more than half of the budget: of
//! hundreds of deviations, each removal may change everything that follows. Pass 3 runs once, up to
//! three quarters of the budget. Pass 4 is repeated until it does not help, with passes 1 and 2
//! after each success. Pass 5 is repeated at the end.

use std::sync::Arc;

use super::choice::{Deviation, Deviations, Source};
use super::failure::Failure;
use super::faults::{self, Fault};
use super::run::{Keep, RunResult, Scenario, Settings, run};

/// A failing list, and how many runs it took to find.
#[derive(Clone, Debug)]
pub(crate) struct ShrunkList {
    pub(crate) list: Deviations,
    pub(crate) runs: usize,
}

/// To how many points of a lane a single deviation is moved.
const MOVED_TO_MAX: u32 = 40;

struct Shrinker<'a> {
    scenario: Scenario<'a>,
    settings: &'a Settings,
    failure: &'a Failure,
    best: Vec<Deviation>,
    runs: usize,
    /// After how many runs the current pass ends.
    limit: usize,
}

/// Shrinks the deviations of a run that failed, in at most `budget` runs.
pub(crate) fn shrink(
    scenario: Scenario<'_>,
    settings: &Settings,
    list: &Deviations,
    failure: &Failure,
    budget: usize,
) -> ShrunkList {
    let best = list.0.clone();
    let limit = budget / 2;
    let mut shrinker = Shrinker { scenario, settings, failure, best, runs: 0, limit };
    shrinker.remove();
    let was_cut = shrinker.is_spent();
    if shrinker.best.len() > 1 {
        shrinker.limit = budget - budget / 4;
        shrinker.keep_one_moved();
    }
    shrinker.limit = budget;
    if was_cut {
        shrinker.remove();
    }
    while shrinker.remove_and_change() {
        shrinker.remove();
    }
    while shrinker.lower_options() {}
    ShrunkList { list: Deviations(shrinker.best), runs: shrinker.runs }
}

impl Shrinker<'_> {
    /// Runs a candidate, and keeps it if it fails in the same way and is smaller.
    fn accepts(&mut self, candidate: Vec<Deviation>) -> bool {
        if self.is_spent() {
            return false;
        }
        self.runs += 1;
        let source = Source::replay(&Deviations(candidate));
        let RunResult { failure, deviations, .. } =
            run(self.scenario, self.settings, source, Keep::Result);
        let is_same = failure.is_some_and(|failure| failure.is_like(self.failure));
        // A deviation at a point that the run does not reach any more is not in the result.
        let Deviations(found) = deviations;
        let is_smaller = size(&found) < size(&self.best);
        if is_same && is_smaller {
            self.best = found;
        }
        is_same && is_smaller
    }

    /// Runs candidates until one is kept. Hundreds of deviations have millions of candidates, so
    /// each is made only when it is run.
    fn accepts_any(&mut self, candidates: impl IntoIterator<Item = Vec<Deviation>>) -> bool {
        let mut candidates = candidates.into_iter();
        while !self.is_spent()
            && let Some(candidate) = candidates.next()
        {
            if self.accepts(candidate) {
                return true;
            }
        }
        false
    }

    const fn is_spent(&self) -> bool {
        self.runs >= self.limit
    }

    fn remove(&mut self) {
        while !self.best.is_empty() && (self.remove_faults() | self.remove_spans()) {}
    }

    fn remove_faults(&mut self) -> bool {
        let mut has_improved = false;
        for fault in Fault::ALL {
            let is_other = |deviation: &&Deviation| fault_of(deviation) != Some(fault);
            let rest: Vec<_> = self.best.iter().filter(is_other).cloned().collect();
            if rest.len() < self.best.len() {
                has_improved |= self.accepts(rest);
            }
        }
        has_improved
    }

    fn remove_spans(&mut self) -> bool {
        let mut has_improved = false;
        let mut span = self.best.len().div_ceil(2);
        while span > 0 {
            let mut start = 0;
            while start < self.best.len() {
                let end = (start + span).min(self.best.len());
                let rest = [&self.best[..start], &self.best[end..]].concat();
                if self.accepts(rest) {
                    has_improved = true;
                } else {
                    start += span;
                }
            }
            span = if span > self.best.len() { self.best.len() / 2 } else { span / 2 };
        }
        has_improved
    }

    /// Keeps one deviation, at each of the first points of its lane, then of the lanes of other
    /// processes.
    fn keep_one_moved(&mut self) {
        let singles = single_deviations(&self.best).into_iter();
        self.accepts_any(singles.flat_map(|deviation| {
            let moved_to = move |number| vec![Deviation { number, ..deviation.clone() }];
            (1..=MOVED_TO_MAX).map(moved_to)
        }));
    }

    fn remove_and_change(&mut self) -> bool {
        let best = self.best.clone();
        self.accepts_any((0..best.len()).flat_map(|removed| {
            let rest = [&best[..removed], &best[removed + 1..]].concat();
            (0..rest.len()).flat_map(move |changed| with_variants(&rest, changed))
        }))
    }

    fn lower_options(&mut self) -> bool {
        let best = self.best.clone();
        self.accepts_any((0..best.len()).flat_map(|i| {
            let best = &best;
            (1..best[i].value).map(move |value| {
                let mut candidate = best.clone();
                candidate[i].value = value;
                candidate
            })
        }))
    }
}

/// The lists in which one deviation is replaced by a variant of it.
fn with_variants(
    list: &[Deviation],
    changed: usize,
) -> impl Iterator<Item = Vec<Deviation>> + use<> {
    let list = list.to_vec();
    let variants: Vec<_> = variants(&list[changed]).collect();
    variants.into_iter().map(move |variant| {
        let mut candidate = list.clone();
        candidate[changed] = variant;
        candidate
    })
}

/// The deviations to keep alone: each kind of decision and option once for each process. The last
/// deviation of the run comes first, because a failure often follows its cause soon; deviations of
/// [`Fault::Latency`] come last, because there are many, and other faults do more. Postponed steps
/// are left out.
fn single_deviations(list: &[Deviation]) -> Vec<Deviation> {
    let mut single: Vec<Deviation> = Vec::new();
    for deviation in list.iter().rev().filter(|d| fault_of(d) != Some(Fault::Reorder)) {
        let kind = |lane: &str| lane.rsplit_once('.').map(|(_, kind)| kind.to_owned());
        let alike = list.iter().map(|other| &other.lane);
        let alike = alike.filter(|lane| kind(lane) == kind(&deviation.lane));
        for lane in std::iter::once(&deviation.lane).chain(alike) {
            let is_known = single.iter().any(|o| o.lane == *lane && o.value == deviation.value);
            if !is_known {
                single.push(Deviation { lane: Arc::clone(lane), ..deviation.clone() });
            }
        }
    }
    single.sort_by_key(|deviation| fault_of(deviation) == Some(Fault::Latency));
    single
}

/// The same deviation at points close by, and other options at the same point.
fn variants(deviation: &Deviation) -> impl Iterator<Item = Deviation> {
    let Deviation { number, value, options, .. } = *deviation;
    let points = [number.saturating_sub(1), number + 1, number.saturating_sub(2), number + 2];
    let points = points.into_iter().filter(|point| *point > 0).map(move |point| (point, value));
    let others = (1..options).filter(move |other| *other != value).map(move |v| (number, v));
    points.chain(others).map(|(number, value)| Deviation { number, value, ..deviation.clone() })
}

/// Fewest deviations first, then lowest options.
fn size(list: &[Deviation]) -> (usize, u64) {
    (list.len(), list.iter().map(|deviation| u64::from(deviation.value)).sum())
}

/// The fault that a deviation injects.
fn fault_of(deviation: &Deviation) -> Option<Fault> {
    let options = faults::options_of(&deviation.lane)?;
    options.get(usize::from(deviation.value)).map(|option| option.fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::run::ScenarioFuture;
    use crate::sim::{Sim, Sweep};

    /// A list of some hundred deviations has millions of candidates, which took minutes to make
    /// after the budget was spent.
    #[test]
    fn no_candidate_is_made_when_the_budget_is_spent() {
        let scenario = |_: Sim| Box::pin(async { Ok(()) }) as ScenarioFuture;
        let settings = Sweep::new("no_candidate_is_made_when_the_budget_is_spent").settings;
        let failure = Failure::new("none", "");
        let mut shrinker = Shrinker {
            scenario: &scenario,
            settings: &settings,
            failure: &failure,
            best: Vec::new(),
            runs: 0,
            limit: 3,
        };
        let mut made = 0;
        let mut candidates = std::iter::repeat_with(|| {
            made += 1;
            Vec::new()
        })
        .take(100);
        assert!(!shrinker.accepts_any(&mut candidates));
        assert!(!shrinker.accepts_any(&mut candidates));
        assert_eq!((made, shrinker.runs), (3, 3));
    }
}
