//! Wrong checkers: each of them disagrees with the oracle about some random history, so the
//! comparison of the checker with the oracle would detect its error.
//!
//! | mutant | what it misses, or reports without reason |
//! |---|---|
//! | no `rw` edges | write skew, read skew |
//! | no real time | reads of old data |
//! | an absent read is before the first put | a cycle that another gap does not have |

use crate::history::History;
use crate::isolation::base::Base;
use crate::isolation::decide::components;
use crate::isolation::edges::{Builder, GapChoices, Label};
use crate::isolation::log::Log;
use crate::isolation::resolve::resolve;
use crate::isolation::snapshots::place;
use crate::isolation::{EdgeKind, Level, Values};

use super::generator::{execute, programs};
use super::oracle::permits;
use super::verdict_with;

/// How many random histories are tried.
const HISTORIES: u64 = 400;

/// Whether the dependencies that a checker keeps have a cycle. If `first_gap`, it takes each absent
/// key for one that was not created yet.
fn is_cyclic(history: &History, first_gap: bool, keep: impl Fn(Label) -> bool) -> bool {
    let mut log = Log::default();
    history.0.iter().for_each(|event| log.push(event));
    let resolved = resolve(log, Base::default(), Values::Unique);
    let places = place(&resolved);
    let mut choices = GapChoices::new();
    for (number, node) in (0..).zip(&resolved.nodes).filter(|_| first_gap) {
        resolved.each_absent(&node.read_set, |key, _| {
            let first = resolved.versions.gaps_for(number, key).next();
            choices.extend(first.map(|gap| ((number, key), gap)));
        });
    }
    let dependencies = Builder::new(&resolved, &places, &choices).whole();
    components(&dependencies, true, |_, _, label| !label.is_assumed && keep(label)).has_cycle()
}

/// About how many histories a checker that keeps these edges disagrees with the oracle: how many it
/// refutes without reason, and how many violations it misses.
fn disagreements(first_gap: bool, keep: impl Fn(Label) -> bool) -> (u64, u64) {
    let (mut wrong, mut missed) = (0, 0);
    for seed in 0..HISTORIES {
        let mut rng = fastrand::Rng::with_seed(seed);
        let age_max = rng.i64(0..4);
        let count = rng.usize(2..7);
        let execution = execute(&programs(&mut rng, count, age_max, false), false);
        let verdict = verdict_with(execution.history.0.clone(), Values::Unique);
        // What is found without a graph is not the subject here.
        if verdict.anomalies().iter().any(|anomaly| anomaly.steps.is_empty()) {
            continue;
        }
        let is_permitted = permits(&execution, Some(Level::StrictSerializable));
        match (is_permitted, is_cyclic(&execution.history, first_gap, &keep)) {
            (true, true) => wrong += 1,
            (false, false) => missed += 1,
            _ => {}
        }
    }
    (wrong, missed)
}

#[test]
fn checker_without_anti_dependencies_misses_violations() {
    let (wrong, missed) = disagreements(false, |label| !label.kind.is_anti_dependency());
    assert_eq!(wrong, 0);
    assert!(missed > 0, "{missed} of {HISTORIES}");
}

#[test]
fn checker_without_real_time_misses_violations() {
    let (wrong, missed) = disagreements(false, |label| label.kind != EdgeKind::RealTime);
    assert_eq!(wrong, 0);
    assert!(missed > 0, "{missed} of {HISTORIES}");
}

#[test]
fn checker_with_the_first_gap_only_refutes_correct_histories() {
    let (wrong, _) = disagreements(true, |_| true);
    assert!(wrong > 0, "{wrong} of {HISTORIES}");
}
