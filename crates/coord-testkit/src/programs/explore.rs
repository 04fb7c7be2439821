//! Exploration: every distinct schedule of a setup, depth first, by running it again and again.
//!
//! A run follows the turns of the path, then takes the first option of each new node. The next run
//! takes the next option of the deepest node that has one. Turns that commute are tried in one
//! order only, by *sleep sets*: after the subtree of a turn is done, the turn sleeps in its
//! siblings' subtrees until a turn is taken that does not commute with it.
//!
//! ```text
//! T1 reads x, T2 reads y, both in the middle of a transaction
//!
//!        .                    second subtree: T1 sleeps, and T2's read commutes with it, so
//!   T1 /   \ T2               after T2 the turn T1 is not tried: T1 T2 has the same schedules
//!     .     .
//!  T2 |     | (T1 sleeps)
//! ```
//!
//! Turns of two processes commute unless one of them changes the store, or one begins a transaction
//! and the other ends an attempt: the order of an end and a begin is the order in real time.
//!
//! Source: Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", LNCS 1032
//! (1996), section 5.
#![expect(clippy::future_not_send, reason = "a run stays on the thread that drives it")]

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::{AddAssign, ControlFlow};

use hashbrown::HashSet;
use tokio::runtime::{Builder, Runtime};
use tokio::task::coop::unconstrained;

use super::run::{Run, RunOutcome, Setup, TurnEffect};
use super::schedule::{Schedule, Turn};
use crate::history::EventKind;

/// The size of an exploration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explored {
    /// The schedules that were run to their end.
    pub schedules: u64,
    /// How many of them differ in what a transaction has read or written, or in how it ended.
    pub distinct: u64,
    /// The runs that were stopped because each possible turn was tried before, and commutes with
    /// the turns since.
    pub pruned: u64,
    /// Whether all schedules were run. Otherwise the limit was reached, or the exploration was
    /// ended early.
    pub is_complete: bool,
}

impl AddAssign for Explored {
    fn add_assign(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.distinct += other.distinct;
        self.pruned += other.pruned;
        self.is_complete &= other.is_complete;
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedules, distinct, pruned, is_complete } = self;
        let all = if *is_complete { "all " } else { "" };
        write!(f, "{all}{schedules} schedules, {distinct} distinct results, {pruned} pruned")
    }
}

/// A node of the path: the turns that are possible after the turns before it.
struct PathNode {
    options: Vec<Turn>,
    /// A hash of the request of each option.
    requests: Vec<Option<u64>>,
    /// The option of the current path.
    current: usize,
    effect: TurnEffect,
    sleeping: Vec<(Turn, TurnEffect)>,
    /// The options whose subtrees are done.
    done: Vec<(Turn, TurnEffect)>,
}

impl PathNode {
    fn turn(&self) -> Turn {
        self.options[self.current]
    }

    fn sleeps(&self, turn: Turn) -> bool {
        self.sleeping.iter().any(|(sleeping, _)| *sleeping == turn)
    }

    /// The turns that sleep after the current turn.
    fn sleeping_after(&self) -> Vec<(Turn, TurnEffect)> {
        let tried = self.sleeping.iter().chain(&self.done);
        let turn = self.turn();
        tried
            .filter(|(other, effect)| {
                other.process != turn.process && commute(*effect, self.effect)
            })
            .copied()
            .collect()
    }

    /// Moves to the next option. Returns whether there is one.
    fn advance(&mut self) -> bool {
        self.done.push((self.turn(), self.effect));
        let rest = self.current + 1..self.options.len();
        let next = rest.into_iter().find(|&option| !self.sleeps(self.options[option]));
        self.current = next.unwrap_or(self.current);
        next.is_some()
    }
}

fn commute(a: TurnEffect, b: TurnEffect) -> bool {
    !(a.writes || b.writes || (a.begins && b.ends) || (a.ends && b.begins))
}

/// The runtime of runs: virtual time, in the thread of the caller.
fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O can be built")
}

/// Runs code on virtual time, without tokio's cooperative budget: a turn must not be interrupted.
///
/// # Panics
/// Inside an async runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(unconstrained(future))
}

/// Runs every distinct schedule, up to `limit`, and passes each outcome to `visit`.
pub(super) fn explore(
    setup: &Setup,
    limit: u64,
    visit: &mut dyn FnMut(RunOutcome) -> ControlFlow<()>,
) -> Explored {
    block_on(explore_all(setup, limit, visit))
}

async fn explore_all(
    setup: &Setup,
    limit: u64,
    visit: &mut dyn FnMut(RunOutcome) -> ControlFlow<()>,
) -> Explored {
    let mut explored = Explored::default();
    let mut results = HashSet::new();
    let mut path: Vec<PathNode> = Vec::new();
    while explored.schedules < limit {
        let mut run = Run::start(setup, false).await;
        for node in &mut path {
            for (turn, request) in node.options.iter().zip(&node.requests) {
                assert!(
                    run.next_hash(turn.process) == *request,
                    "T{} sends other requests than in an earlier run with the same turns: its code \
                     must decide by what it reads only",
                    turn.process + 1
                );
            }
            node.effect = run.take(node.turn()).await;
        }
        if extend(&mut run, &mut path).await {
            let outcome = run.finish().await;
            explored.schedules += 1;
            results.insert(fingerprint(&outcome));
            explored.distinct = results.len().try_into().unwrap_or(u64::MAX);
            if visit(outcome).is_break() {
                return explored;
            }
        } else {
            explored.pruned += 1;
        }
        while path.last_mut().is_some_and(|node| !node.advance()) {
            path.pop();
        }
        if path.is_empty() {
            explored.is_complete = true;
            return explored;
        }
    }
    explored
}

/// Extends a path until the run has ended. Returns `false` if only sleeping turns are left.
async fn extend(run: &mut Run, path: &mut Vec<PathNode>) -> bool {
    loop {
        let options = run.options();
        if options.is_empty() {
            return true;
        }
        let sleeping = path.last().map_or_else(Vec::new, PathNode::sleeping_after);
        let requests = options.iter().map(|turn| run.next_hash(turn.process)).collect();
        let (effect, done) = (TurnEffect::default(), Vec::new());
        let mut node = PathNode { options, requests, current: 0, effect, sleeping, done };
        let Some(first) = node.options.iter().position(|turn| !node.sleeps(*turn)) else {
            return false;
        };
        node.current = first;
        node.effect = run.take(node.turn()).await;
        path.push(node);
    }
}

/// Runs random schedules, until `runs` or until `visit` breaks.
pub(super) fn random(
    setup: &Setup,
    seed: u64,
    runs: u64,
    visit: &mut dyn FnMut(RunOutcome) -> ControlFlow<()>,
) {
    block_on(async {
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..runs {
            let mut run = Run::start(setup, false).await;
            loop {
                let options = run.options();
                let Some(turn) = rng.choice(&options) else { break };
                run.take(*turn).await;
            }
            if visit(run.finish().await).is_break() {
                return;
            }
        }
    });
}

/// Runs one schedule, traced. Turns that are not possible are left out; after the last turn, the
/// first process that waits gets its turn.
pub(super) fn replay(setup: &Setup, schedule: &Schedule) -> RunOutcome {
    block_on(async {
        let mut run = Run::start(setup, true).await;
        for turn in &schedule.0 {
            if run.is_possible(*turn) {
                run.take(*turn).await;
            }
        }
        while let Some(turn) = run.options().first() {
            run.take(*turn).await;
        }
        run.finish().await
    })
}

/// A hash of what the transactions have read and written, and how they ended.
fn fingerprint(outcome: &RunOutcome) -> u64 {
    let mut hasher = DefaultHasher::new();
    let attempts = outcome.history.0.iter().filter_map(|event| match &event.kind {
        EventKind::Attempt(attempt) => Some(attempt),
        _ => None,
    });
    let mut attempts: Vec<_> = attempts.collect();
    // The order in which they have ended is no difference.
    attempts.sort_by_key(|attempt| (attempt.transaction, attempt.number));
    for attempt in attempts {
        (attempt.transaction, attempt.number).hash(&mut hasher);
        for read in &attempt.reads {
            (&read.key, read.found.as_ref().map(|(revision, _)| revision.0)).hash(&mut hasher);
        }
        for range in &attempt.ranges {
            range.range.hash(&mut hasher);
            range.found.iter().for_each(|(key, revision)| (key, revision.0).hash(&mut hasher));
        }
        attempt.writes.iter().for_each(|write| (&write.key, &write.value).hash(&mut hasher));
        std::mem::discriminant(&attempt.end).hash(&mut hasher);
    }
    hasher.finish()
}
