//! Exhaustive exploration: every run of a small scenario with at most some number of deviations.
//!
//! The run without deviations lists its decision points. Each point and option is one run with one
//! deviation. Each such run lists its points after the deviation, and so on. No list is run twice,
//! because a deviation is only added after the last one.
//!
//! Source: Emmi, Qadeer and Rakamarić, "Delay-Bounded Scheduling", POPL 2011.

use std::fmt;

use super::choice::{Deviation, Deviations, ReachedPoint, Source};
use super::faults::{ChoiceOption, Fault};
use super::run::{Keep, RunResult, Scenario, Settings, run};

/// The result of an exploration in which no run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// How many runs there are, none of which failed.
    pub runs: u64,
    /// The largest number of deviations that a run may have.
    pub max_deviations: usize,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} runs with at most {} deviations hold", self.runs, self.max_deviations)
    }
}

/// A run that failed, and the number of runs until then.
pub(crate) struct Refuted {
    pub(crate) list: Deviations,
    pub(crate) runs: u64,
}

/// Runs a scenario with every list of at most `max_deviations` deviations of the enabled faults.
pub(crate) fn exhaust(
    scenario: Scenario<'_>,
    settings: &Settings,
    max_deviations: usize,
) -> Result<Exhausted, Refuted> {
    let mut runs = 0;
    let mut pending = vec![Vec::new()];
    while let Some(list) = pending.pop() {
        runs += 1;
        let keep = if list.len() < max_deviations { Keep::Points } else { Keep::Result };
        let source = Source::replay(&Deviations(list.clone()));
        let RunResult { failure, points, .. } = run(scenario, settings, source, keep);
        if failure.is_some() {
            return Err(Refuted { list: Deviations(list), runs });
        }
        let last = list.last().and_then(|last| points.iter().position(|point| is_at(last, point)));
        let first_new = last.map_or(0, |last| last + 1);
        for point in points.iter().skip(first_new) {
            pending.extend(deviations_at(point, &settings.faults).map(|deviation| {
                let mut longer = list.clone();
                longer.push(deviation);
                longer
            }));
        }
    }
    Ok(Exhausted { runs, max_deviations })
}

fn is_at(deviation: &Deviation, point: &ReachedPoint) -> bool {
    deviation.lane == point.lane && deviation.number == point.number
}

/// The deviations that are possible at a point.
fn deviations_at(point: &ReachedPoint, faults: &[Fault]) -> impl Iterator<Item = Deviation> {
    let options: &'static [ChoiceOption] = point.options;
    let count = u16::try_from(options.len()).unwrap_or(u16::MAX);
    let is_enabled = move |value: &u16| faults.contains(&options[usize::from(*value)].fault);
    let deviation = move |value| {
        let ReachedPoint { lane, number, .. } = point.clone();
        Deviation { lane, number, value, options: count }
    };
    (1..count).filter(is_enabled).map(deviation)
}
