//! Shrinking: from a failing case to a small one with a simple schedule.
//!
//! A smaller case is accepted if *any* of its schedules fails, because the schedule of the larger
//! one means little to it. The order of the steps:
//!
//! ```text
//! 1. only the programs in the cycle        6. names of keys: x, y, z
//! 2. without one program                   7. all schedules: fewest context switches,
//! 3. without one operation                    then freshest reads
//! 4. without an initial key                8. names of programs: T1 first
//! 5. one key instead of two
//! ```
//!
//! Steps 2 to 5 are repeated until none is accepted. Of a case with many schedules, at most
//! [`SCHEDULES_MAX`] are tried in order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::case::{Case, Counterexample};
use super::explorer::{Checked, Explorer};
use super::program::ProgramOperation;
use super::schedule::{Schedule, Turn};
use crate::isolation::Participant;

/// How many random schedules of a smaller case are tried before the schedules in order.
const RANDOM_RUNS: u64 = 50;

/// How many schedules of a smaller case are tried at most, one after the other.
const SCHEDULES_MAX: u64 = 2_000;

/// What shrinking has made of a counterexample.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shrunk {
    /// The case and its schedule.
    pub counterexample: Counterexample,
    /// How many runs it took.
    pub runs: u64,
}

impl Explorer {
    /// Shrinks a counterexample: looks for fewer programs, fewer operations and a simpler schedule
    /// that still satisfy `fails`. After `runs_max` runs no further case is tried, and only the
    /// schedules of the smallest case are compared.
    ///
    /// Let `fails` accept what is no stronger than the original failure, for example every history
    /// that refutes the same level.
    ///
    /// ```
    /// use coord_testkit::isolation::Level;
    /// use coord_testkit::programs::{Counterexample, Explorer};
    ///
    /// let found: Counterexample = "initial: a b c
    ///     T1 read-committed: r(c) r(b) w(a) w(c)
    ///     T2 read-committed: w(c)
    ///     T3 read-committed: r(a) r(c) w(b)
    ///     schedule: T2 T1 T1 T3 T3 T3 T1"
    ///     .parse()?;
    /// let shrunk = Explorer::new().shrink(&found, 10_000, |checked| {
    ///     checked.verdict.status(Level::RepeatableRead).is_refuted()
    /// });
    /// let case = &shrunk.counterexample.case;
    /// assert!(case.programs.len() == 2 && case.operations() <= 4, "{case}");
    /// # Ok::<_, coord_testkit::programs::ParseProgramError>(())
    /// ```
    ///
    /// # Panics
    /// As [`explore`](Self::explore).
    #[must_use]
    pub fn shrink(
        &self,
        found: &Counterexample,
        runs_max: u64,
        fails: impl Fn(&Checked) -> bool,
    ) -> Shrunk {
        let mut shrinker =
            CaseShrinker { explorer: self, fails: &fails, best: found.clone(), runs: 0, runs_max };
        shrinker.cut_to_participants();
        loop {
            let before = shrinker.best.case.clone();
            shrinker.drop_programs();
            shrinker.drop_operations();
            shrinker.drop_initial_keys();
            shrinker.merge_keys();
            if shrinker.best.case == before || shrinker.is_spent() {
                break;
            }
        }
        shrinker.rename();
        shrinker.simplify_schedule();
        shrinker.reorder_programs();
        Shrunk { counterexample: shrinker.best, runs: shrinker.runs }
    }
}

struct CaseShrinker<'a> {
    explorer: &'a Explorer,
    fails: &'a dyn Fn(&Checked) -> bool,
    best: Counterexample,
    runs: u64,
    runs_max: u64,
}

impl CaseShrinker<'_> {
    const fn is_spent(&self) -> bool {
        self.runs >= self.runs_max
    }

    /// Accepts a case if one of its schedules fails. `hint` is tried first.
    fn accept(&mut self, case: Case, hint: Schedule) -> bool {
        if self.is_spent() {
            return false;
        }
        let found = self.failing_schedule(&case, &hint);
        let is_failing = found.is_some();
        if let Some(schedule) = found {
            self.best = Counterexample { case, schedule };
        }
        is_failing
    }

    fn failing_schedule(&mut self, case: &Case, hint: &Schedule) -> Option<Schedule> {
        self.runs += 1;
        let replayed = self.explorer.replay(case, hint);
        if (self.fails)(&replayed) {
            return Some(replayed.outcome.schedule);
        }
        let mut found = None;
        let mut visit = |checked: Checked| {
            self.runs += 1;
            if !(self.fails)(&checked) {
                return ControlFlow::Continue(());
            }
            found = Some(checked.outcome.schedule);
            ControlFlow::Break(())
        };
        self.explorer.random(case, 0, RANDOM_RUNS, &mut visit);
        if found.is_none() {
            let explorer = self.explorer.clone().schedules_max(SCHEDULES_MAX);
            let mut found_in_order = None;
            let explored = explorer.explore(case, |checked| {
                if !(self.fails)(&checked) {
                    return ControlFlow::Continue(());
                }
                found_in_order = Some(checked.outcome.schedule);
                ControlFlow::Break(())
            });
            self.runs += explored.schedules;
            found = found_in_order;
        }
        found
    }

    /// Keeps the programs of one anomaly, and those of clients without transactions.
    fn cut_to_participants(&mut self) {
        let checked = self.explorer.replay(&self.best.case, &self.best.schedule);
        self.runs += 1;
        for anomaly in checked.verdict.anomalies() {
            let is_participant = |index: usize| {
                let number = u64::try_from(index + 1).unwrap_or(u64::MAX);
                anomaly.participants.contains(&Participant::Transaction(number))
                    || self.best.case.programs[index].isolation.is_none()
            };
            let programs = 0..self.best.case.programs.len();
            let dropped: BTreeSet<_> = programs.filter(|index| !is_participant(*index)).collect();
            let (case, schedule) = without(&self.best, &dropped);
            if self.accept(case, schedule) {
                return;
            }
        }
    }

    fn drop_programs(&mut self) {
        for index in (0..self.best.case.programs.len()).rev() {
            if self.best.case.programs.len() > 1 {
                let (case, schedule) = without(&self.best, &BTreeSet::from([index]));
                self.accept(case, schedule);
            }
        }
    }

    fn drop_operations(&mut self) {
        for index in 0..self.best.case.programs.len() {
            for operation in (0..self.best.case.programs[index].operations.len()).rev() {
                let mut case = self.best.case.clone();
                case.programs[index].operations.remove(operation);
                self.accept(case, self.best.schedule.clone());
            }
        }
    }

    fn drop_initial_keys(&mut self) {
        for key in self.best.case.initial.clone() {
            let mut case = self.best.case.clone();
            case.initial.remove(&key);
            self.accept(case, self.best.schedule.clone());
        }
    }

    /// Replaces one key by another one everywhere.
    fn merge_keys(&mut self) {
        let keys: Vec<_> = self.best.case.keys().into_iter().collect();
        for (index, key) in keys.iter().enumerate() {
            for other in &keys[..index] {
                let is_used = self.best.case.keys().contains(key);
                let merge = BTreeMap::from([(key.clone(), other.clone())]);
                if is_used
                    && self.accept(renamed(&self.best.case, &merge), self.best.schedule.clone())
                {
                    break;
                }
            }
        }
    }

    /// Replaces the keys by x, y, z and so on, in the order of their first use.
    fn rename(&mut self) {
        let case = &self.best.case;
        let is_range =
            |operation: &ProgramOperation| matches!(operation, ProgramOperation::Range(_));
        if case.programs.iter().any(|program| program.operations.iter().any(is_range)) {
            // The names show which keys a range has.
            return;
        }
        let operations = case.programs.iter().flat_map(|program| &program.operations);
        let mut names = BTreeMap::new();
        for key in operations.filter_map(ProgramOperation::key).chain(&case.initial) {
            let next = ["x", "y", "z"].get(names.len());
            let next = next.map_or_else(|| format!("k{}", names.len()), |name| (*name).to_owned());
            names.entry(key.clone()).or_insert(next);
        }
        let case = renamed(case, &names);
        self.accept(case, self.best.schedule.clone());
    }

    /// Takes the schedule with the fewest context switches, and of these the freshest reads.
    fn simplify_schedule(&mut self) {
        let cost = |schedule: &Schedule| {
            (schedule.context_switches(), schedule.stale_reads(), schedule.0.len())
        };
        let mut best = self.best.schedule.clone();
        let explorer = self.explorer.clone().schedules_max(SCHEDULES_MAX);
        let explored = explorer.explore(&self.best.case, |checked| {
            if (self.fails)(&checked) && cost(&checked.outcome.schedule) < cost(&best) {
                best = checked.outcome.schedule;
            }
            ControlFlow::Continue(())
        });
        self.runs += explored.schedules;
        self.best.schedule = best;
    }

    /// Numbers the programs in the order of their first turns.
    fn reorder_programs(&mut self) {
        let mut order: Vec<usize> = Vec::new();
        let turns = self.best.schedule.0.iter().map(|turn| turn.process);
        for index in turns.chain(0..self.best.case.programs.len()) {
            if !order.contains(&index) {
                order.push(index);
            }
        }
        let position = |index| order.iter().position(|other| *other == index).unwrap_or(index);
        let turns = self.best.schedule.0.iter();
        let turns = turns.map(|turn| Turn { process: position(turn.process), ..*turn }).collect();
        let mut case = self.best.case.clone();
        case.programs = order.iter().map(|index| case.programs[*index].clone()).collect();
        let (case, schedule) = (case, Schedule(turns));
        self.runs += 1;
        if (self.fails)(&self.explorer.replay(&case, &schedule)) {
            self.best = Counterexample { case, schedule };
        }
    }
}

/// The case without some programs, and the turns of the others.
fn without(found: &Counterexample, dropped: &BTreeSet<usize>) -> (Case, Schedule) {
    let mut case = found.case.clone();
    let mut index = 0;
    case.programs.retain(|_| {
        index += 1;
        !dropped.contains(&(index - 1))
    });
    let kept = found.schedule.0.iter().filter(|turn| !dropped.contains(&turn.process));
    let turns = kept.map(|turn| {
        let process = turn.process - dropped.range(..turn.process).count();
        Turn { process, ..*turn }
    });
    (case, Schedule(turns.collect()))
}

/// The case with other names of keys.
fn renamed(case: &Case, names: &BTreeMap<String, String>) -> Case {
    let name = |key: &String| names.get(key).unwrap_or(key).clone();
    let mut renamed = case.clone();
    renamed.initial = case.initial.iter().map(name).collect();
    for program in &mut renamed.programs {
        for operation in &mut program.operations {
            *operation = match &*operation {
                ProgramOperation::Range(prefix) => ProgramOperation::Range(prefix.clone()),
                other => other.key().map_or(ProgramOperation::Abort, |key| other.on(&name(key))),
            };
        }
    }
    renamed
}
