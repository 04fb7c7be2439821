//! The explorer of cases: runs schedules of a case and checks each of them.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use coord_core::KvBackend;

use super::case::{Case, Counterexample};
use super::explore::{self, Explored};
use super::perform::{self, PutValues};
use super::run::{RunOutcome, Setup, WrapBackend};
use super::schedule::Schedule;
use crate::history::History;
use crate::isolation::{Checker, Status, Values, Verdict};

/// Runs the schedules of cases, and checks the isolation of each run.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use coord_testkit::isolation::Level;
/// use coord_testkit::programs::{Case, Explorer};
///
/// let case: Case = "initial: x y
///     T1 read-committed: r(x) w(y)
///     T2 read-committed: r(y) w(x)"
///     .parse()?;
/// let mut skewed = 0;
/// let explored = Explorer::new().explore(&case, |checked| {
///     assert!(!checked.is_broken(), "ReadCommitted was promised, and kept");
///     skewed += u32::from(checked.verdict.status(Level::RepeatableRead).is_refuted());
///     ControlFlow::Continue(())
/// });
/// assert!(explored.is_complete);
/// assert!(skewed > 0, "write skew, which ReadCommitted permits, occurs");
/// # Ok::<_, coord_testkit::programs::ParseProgramError>(())
/// ```
#[derive(Clone)]
#[must_use = "call `explore`, `random` or `replay`"]
pub struct Explorer {
    stale_window: u32,
    attempts_max: u32,
    schedules_max: u64,
    values: PutValues,
    layer: Option<WrapBackend>,
}

/// A run, and what the checker has found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Checked {
    /// The run.
    pub outcome: RunOutcome,
    /// The verdict about its history.
    pub verdict: Verdict,
}

impl Checked {
    fn new(outcome: RunOutcome, values: Values) -> Self {
        let mut checker = Checker::new().values(values);
        outcome.history.0.iter().for_each(|event| checker.push(event));
        Self { outcome, verdict: checker.finish() }
    }

    /// Whether a transaction was promised a level and did not get it, or a process has failed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.verdict.declared() == Status::Not || self.outcome.results.iter().any(Result::is_err)
    }

    /// The history of the run.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.outcome.history
    }
}

impl Default for Explorer {
    fn default() -> Self {
        Self::new()
    }
}

impl Explorer {
    /// An explorer with the default limits.
    ///
    /// The stale window is one revision, a transaction makes at most three attempts, and at most
    /// 100,000 schedules of a case are run.
    pub const fn new() -> Self {
        Self {
            stale_window: 1,
            attempts_max: 3,
            schedules_max: 100_000,
            values: PutValues::Unique,
            layer: None,
        }
    }

    /// Sets how many revisions a member may be behind that serves a serializable read.
    pub const fn stale_window(mut self, revisions: u32) -> Self {
        self.stale_window = revisions;
        self
    }

    /// Sets how many attempts a transaction makes at most. Without a limit a transaction could
    /// conflict in every turn of another one.
    pub const fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// Sets how many schedules of a case are run at most.
    pub const fn schedules_max(mut self, schedules: u64) -> Self {
        self.schedules_max = schedules;
        self
    }

    /// Sets which values the programs put.
    pub const fn values(mut self, values: PutValues) -> Self {
        self.values = values;
        self
    }

    /// Wraps the backend of each process, to check that a wrong backend is detected. A request of
    /// the layer waits for a turn as one of the process itself.
    pub fn layer(
        mut self,
        wrap: impl Fn(Arc<dyn KvBackend>) -> Arc<dyn KvBackend> + 'static,
    ) -> Self {
        self.layer = Some(Rc::new(wrap));
        self
    }

    /// Runs every distinct schedule of a case, until `visit` breaks.
    ///
    /// # Panics
    /// If the store refuses the initial keys: a key is empty, or there are more than 128. If the
    /// [`layer`](Self::layer) sends other requests in a second run with the same turns. Inside an
    /// async runtime.
    pub fn explore(
        &self,
        case: &Case,
        mut visit: impl FnMut(Checked) -> ControlFlow<()>,
    ) -> Explored {
        let mut check = |outcome| visit(self.check(outcome));
        explore::explore(&self.setup(case), self.schedules_max, &mut check)
    }

    /// Runs random schedules of a case: at each turn, each possible one is equally likely.
    ///
    /// # Panics
    /// If the store refuses the initial keys. Inside an async runtime.
    pub fn random(
        &self,
        case: &Case,
        seed: u64,
        runs: u64,
        mut visit: impl FnMut(Checked) -> ControlFlow<()>,
    ) {
        let mut check = |outcome| visit(self.check(outcome));
        explore::random(&self.setup(case), seed, runs, &mut check);
    }

    /// Runs one schedule, and records its requests as text. A turn that is not possible is left
    /// out; after the last turn, the first process that waits gets the next one.
    ///
    /// # Panics
    /// If the store refuses the initial keys. Inside an async runtime.
    #[must_use]
    pub fn replay(&self, case: &Case, schedule: &Schedule) -> Checked {
        self.check(explore::replay(&self.setup(case), schedule))
    }

    /// The first schedule of a case whose run satisfies `wanted`, and how many were run.
    ///
    /// # Panics
    /// As [`explore`](Self::explore).
    pub fn find(
        &self,
        case: &Case,
        mut wanted: impl FnMut(&Checked) -> bool,
    ) -> (Option<Counterexample>, u64) {
        let mut found = None;
        let explored = self.explore(case, |checked| {
            if !wanted(&checked) {
                return ControlFlow::Continue(());
            }
            found = Some(checked.outcome.schedule);
            ControlFlow::Break(())
        });
        let counterexample = |schedule| Counterexample { case: case.clone(), schedule };
        (found.map(counterexample), explored.schedules)
    }

    fn check(&self, outcome: RunOutcome) -> Checked {
        let values = match self.values {
            PutValues::Unique => Values::Unique,
            PutValues::Equal => Values::Any,
        };
        Checked::new(outcome, values)
    }

    fn setup(&self, case: &Case) -> Setup {
        Setup {
            layer: self.layer.clone(),
            stale_window: self.stale_window,
            ..perform::setup(case, self.values, self.attempts_max)
        }
    }
}

impl std::fmt::Debug for Explorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explorer")
            .field("stale_window", &self.stale_window)
            .field("attempts_max", &self.attempts_max)
            .finish_non_exhaustive()
    }
}
