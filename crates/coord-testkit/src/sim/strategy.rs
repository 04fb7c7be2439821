//! Runs as values of a proptest strategy, so that a property test can combine a simulated run with
//! random inputs of its own.
//!
//! A [`Plan`] is a seed. Its run notes the deviations that it made. When the test fails, proptest
//! simplifies the plan: the candidates are lists with fewer deviations, first without halves of the
//! list, then without quarters, and so on. proptest's own limit on the number of candidates,
//! `max_shrink_iters`, applies.

use std::sync::{Arc, Mutex};

use coord_core::sync;
use proptest::arbitrary::any;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::Sim;
use super::choice::{Deviation, Deviations};
use super::failure::Failure;
use super::run::ProcessResult;
use super::sweep::{Sweep, erased};

/// A run as a value of proptest: a seed, or after simplification a list of deviations.
///
/// ```
/// use coord_testkit::sim::{Sweep, plans};
/// use proptest::prelude::*;
///
/// proptest!(ProptestConfig::with_cases(20), |(plan in plans(), amount in 1..100_u32)| {
///     let run = plan.run(&Sweep::new("adds"), move |sim| async move {
///         sim.spawn("a", move |process| async move {
///             process.client().put("amount", amount.to_string()).await.map(drop)
///         });
///         sim.join().await;
///     });
///     prop_assert!(run.is_ok(), "{run:?}");
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    seed: u64,
    /// The deviations that the run makes; `None` if the seed generates them.
    list: Option<Deviations>,
    /// The deviations that the last run made.
    made: Arc<Mutex<Option<Deviations>>>,
}

impl Plan {
    /// Returns the deviations of a simplified plan; `None` for a seed.
    #[must_use]
    pub const fn deviations(&self) -> Option<&Deviations> {
        self.list.as_ref()
    }

    /// Runs a scenario with the settings of a sweep.
    ///
    /// # Errors
    /// The failure of the run.
    ///
    /// # Panics
    /// Inside an async runtime.
    pub fn run<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
        &self,
        sweep: &Sweep,
        scenario: impl Fn(Sim) -> F + Sync,
    ) -> Result<(), Failure> {
        let (failure, made) = sweep.run_once(self.seed, self.list.as_ref(), &erased(scenario));
        *sync::lock(&self.made) = Some(made);
        failure.map_or(Ok(()), Err)
    }
}

/// Plans of random runs, which proptest shrinks to few deviations.
#[must_use]
pub const fn plans() -> Plans {
    Plans
}

/// The strategy that [`plans`] returns.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Plans;

impl Strategy for Plans {
    type Tree = PlanTree;
    type Value = Plan;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let seed = any::<u64>().new_tree(runner)?.current();
        let plan = Plan { seed, list: None, made: Arc::default() };
        Ok(PlanTree { plan, best: None, span: 0, start: 0 })
    }
}

/// A plan that is being simplified.
#[derive(Clone, Debug)]
pub struct PlanTree {
    plan: Plan,
    /// The smallest list that failed so far.
    best: Option<Vec<Deviation>>,
    /// How many deviations the candidate leaves out, and from where on.
    span: usize,
    start: usize,
}

impl PlanTree {
    /// Makes the next candidate, without the deviations `start .. start + span`.
    fn next_candidate(&mut self) -> bool {
        let Some(best) = &self.best else { return false };
        if self.start >= best.len() {
            (self.span, self.start) = (self.span / 2, 0);
        }
        if self.span == 0 || best.is_empty() {
            return false;
        }
        let end = (self.start + self.span).min(best.len());
        let rest = [&best[..self.start], &best[end..]].concat();
        self.plan.list = Some(Deviations(rest));
        true
    }
}

impl ValueTree for PlanTree {
    type Value = Plan;

    fn current(&self) -> Plan {
        self.plan.clone()
    }

    /// The current plan has failed: its run is the best so far.
    fn simplify(&mut self) -> bool {
        let made = sync::lock(&self.plan.made).take();
        let Some(Deviations(made)) = made else { return false };
        let is_first = self.best.is_none();
        if is_first {
            self.span = made.len().div_ceil(2);
        }
        self.best = Some(made);
        self.next_candidate()
    }

    /// The current plan has not failed: the next candidate leaves out other deviations.
    fn complicate(&mut self) -> bool {
        self.start += self.span;
        let has_next = self.next_candidate();
        if !has_next && let Some(best) = &self.best {
            self.plan.list = Some(Deviations(best.clone()));
        }
        has_next
    }
}
