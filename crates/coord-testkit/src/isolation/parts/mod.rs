//! Checks a history in parts, and forgets transactions that nothing to come can concern.
//!
//! When enough attempts have been added, they are placed as in a whole history, and a *boundary* is
//! chosen: transactions placed at or before it are forgotten, with their versions, except for the
//! current version of each key.
//!
//! ```text
//! revision     1    2    3    4    5    6    7    8
//! placed       T1   T2        T3   T4   T6   T5
//! T4 has no place; its window      |         |
//! boundary                    |  T1, T2 and T3 are forgotten: T4 is kept, with its window
//! ```
//!
//! A transaction that is placed after the boundary is after everything that was forgotten, whatever
//! the order in time. So the boundary is a floor for all of them. Other times are kept only to
//! detect late attempts, and for transactions that may be attempted again. A cycle through what was
//! forgotten needs an edge back to it:
//!
//! - a transaction that comes too late, or reads a version that was overwritten before the
//!   boundary. Such events are *doubts*, which make levels undecided;
//! - a window that the boundary cuts, because it is too long to be kept: another doubt.
//!
//! A cycle refutes a level only if it consists of edges that nothing to come can take back.

mod part;
mod settled;

use std::mem::take;

use part::Part;
use settled::Settled;

use super::anomaly::{Anomaly, AnomalyKind};
use super::base::Base;
use super::classify;
use super::conclude::{Summary, graphs, is_strong};
use super::cycles::short_cycles;
use super::decide::{Decider, Decision, EdgeSet, SETS};
use super::edges::{Builder, GapChoices};
use super::log::{self, Log};
use super::options::Values;
use super::resolve::first_revision;
use super::snapshots::Window;
use crate::history::{Attempt, AttemptEnd, Event, EventKind};

/// How far a doubt reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// A cycle with `rw` edges or edges of time may have been missed.
    Cycles,
    /// A read may be of a version that no level permits.
    Reads,
    /// Anything may have been missed.
    All,
    /// What was found may be wrong.
    Findings,
}

impl Doubt {
    fn concerns(self, set: EdgeSet) -> bool {
        match set {
            EdgeSet::Writes => self >= Self::All,
            EdgeSet::Reads => self >= Self::Reads,
            _ => true,
        }
    }
}

/// The state of a check in parts.
#[derive(Debug)]
pub(super) struct Parts {
    window: usize,
    /// The number of attempts at which the next transactions are forgotten.
    next: usize,
    base: Base,
    settled: Settled,
    /// When the last of the forgotten transactions began.
    newest_begin: u64,
    summary: Summary,
    /// Whether a read of a version, not of an absent key, could be resolved.
    has_found: bool,
    doubt: Option<Doubt>,
    beyond: usize,
}

impl Parts {
    pub(super) fn new(window: usize) -> Self {
        let window = window.max(1);
        Self {
            window,
            next: window.saturating_mul(4),
            base: Base::partial(),
            settled: Settled::default(),
            newest_begin: 0,
            summary: Summary::default(),
            has_found: false,
            doubt: None,
            beyond: 0,
        }
    }

    pub(super) const fn has_forgotten(&self) -> bool {
        self.summary.coverage.attempts > 0
    }

    /// Adds an event to the log, unless it comes too late.
    pub(super) fn push(&mut self, log: &mut Log, event: &Event, values: Values) {
        let is_late = self.has_forgotten()
            && match &event.kind {
                EventKind::Attempt(attempt) => self.is_late(log, event, attempt),
                // What was concluded from its absence may be wrong.
                EventKind::Changed(change) if change.revision.0 <= self.base.boundary => {
                    self.doubt(Doubt::Findings)
                }
                _ => false,
            };
        if is_late {
            return;
        }
        log.push(event);
        if log.attempts.len() >= self.next {
            let part = self.part(take(log), values, false);
            self.conclude(&part);
            *log = self.forget(part);
            self.next = (4 * self.window).max(log.attempts.len() + self.window);
        }
    }

    /// Notes a doubt. Returns true.
    fn doubt(&mut self, doubt: Doubt) -> bool {
        self.doubt = self.doubt.max(Some(doubt));
        self.beyond += 1;
        true
    }

    /// Whether an attempt cannot be checked any more.
    fn is_late(&mut self, log: &Log, event: &Event, attempt: &Attempt) -> bool {
        if self.settled.contains(attempt.transaction) {
            return self.doubt(Doubt::Findings);
        }
        if let AttemptEnd::Committed { revision } = attempt.end
            && !attempt.writes.is_empty()
            && (1..=self.base.boundary).contains(&revision.0)
        {
            return self.doubt(Doubt::All);
        }
        if log::nanoseconds(event.at) < self.newest_begin {
            self.doubt(Doubt::Cycles);
        }
        // A forgotten revision may be that of the attempt.
        let keys = attempt.writes.iter().filter_map(|write| log.known_key(&write.key));
        if attempt.end == AttemptEnd::Unknown
            && keys.into_iter().any(|key| self.base.marks(key).has_unclaimed)
        {
            self.doubt(Doubt::Reads);
        }
        false
    }

    /// Concludes about all that is left.
    pub(super) fn finish(mut self, log: Log, values: Values) -> Summary {
        let part = self.part(log, values, true);
        self.conclude(&part);
        if self.summary.coverage.reads > 0 && !self.has_found {
            // That keys are absent may mean nothing: whether it does is known for whole histories.
            self.doubt(Doubt::All);
        }
        let mut summary = self.summary;
        summary.coverage.beyond_window = self.beyond;
        if self.doubt == Some(Doubt::Findings) {
            summary.anomalies.clear();
            summary.breaks_declared = false;
            summary.decisions.clear();
        }
        let is_lost = |anomaly: &Anomaly| anomaly.kind == AnomalyKind::LostWrite;
        if values == Values::Unique
            && self.doubt >= Some(Doubt::All)
            && summary.anomalies.iter().any(is_lost)
        {
            // A write may be in a revision that no transaction claims, instead of being lost.
            summary.anomalies.retain(|anomaly| !is_lost(anomaly));
            summary.breaks_declared = false;
        }
        for (set, _) in SETS {
            let decision = summary.decisions.entry(set).or_insert(Decision::Acyclic);
            if *decision == Decision::Acyclic && self.doubt.is_some_and(|doubt| doubt.concerns(set))
            {
                *decision = Decision::Undecided;
            }
        }
        summary
    }

    /// Checks what is forgotten.
    fn conclude(&mut self, part: &Part) {
        let Part { resolved, places, .. } = part;
        for doubt in part.doubts() {
            self.doubt(doubt);
        }
        part.count(&mut self.summary.coverage);
        self.has_found |= part.has_found();
        let boundary = part.boundary;
        let windows: Vec<Window> =
            part.windows.iter().copied().filter(|window| window.first <= boundary).collect();
        let choices = GapChoices::new();
        let all = graphs(resolved, places, &windows, &mut Builder::new(resolved, places, &choices));
        let mut builder = Builder::new(resolved, places, &choices).certain();
        let certain = graphs(resolved, places, &windows, &mut builder);
        let decider = Decider { resolved, places, graphs: &all };
        let decisions = decider.decide_part(&certain);
        let cycles = short_cycles(resolved, &certain, &places.failing, |set| decisions[&set]);
        for (set, decision) in &decisions {
            let known = self.summary.decisions.entry(*set).or_insert(Decision::Acyclic);
            if *known == Decision::Acyclic || *decision == Decision::Cyclic {
                *known = *decision;
            }
        }
        if decisions.values().any(|decision| *decision == Decision::Undecided) {
            self.beyond += 1;
        }
        let edges = all.iter().map(|dependencies| dependencies.graph.edge_count());
        self.summary.coverage.edges += edges.sum::<usize>();
        let findings = part.findings();
        let inconsistent = part.inconsistent_attempts();
        self.summary.breaks_declared |= !findings.is_empty()
            || inconsistent.iter().any(|&attempt| is_strong(resolved, attempt));
        for anomaly in classify::anomalies(resolved, cycles, findings, inconsistent) {
            self.add_anomaly(anomaly);
        }
    }

    /// Adds an anomaly, of which a shorter example may be known.
    fn add_anomaly(&mut self, anomaly: Anomaly) {
        let anomalies = &mut self.summary.anomalies;
        let rank = |anomaly: &Anomaly| (anomaly.kind, anomaly.order);
        match anomalies.binary_search_by_key(&rank(&anomaly), rank) {
            Err(place) => anomalies.insert(place, anomaly),
            Ok(known) if anomaly.steps.is_empty() => anomalies[known].count += anomaly.count,
            Ok(known) if anomaly.steps.len() < anomalies[known].steps.len() => {
                anomalies[known] = anomaly;
            }
            Ok(_) => {}
        }
    }

    fn part(&mut self, log: Log, values: Values, is_last: bool) -> Part {
        Part::new(log, take(&mut self.base), values, if is_last { None } else { Some(self.window) })
    }

    /// Forgets what was checked. Returns the rest.
    fn forget(&mut self, part: Part) -> Log {
        let boundary = part.boundary;
        let current = part.current_versions();
        let unclaimed = part.claimable_versions();
        for (number, attempt) in part.forgotten_attempts() {
            match part.node(number) {
                Some(node) => {
                    self.settled.settle(attempt.transaction);
                    self.newest_begin = self.newest_begin.max(node.began);
                }
                None => self.settled.keep_open(attempt.transaction, attempt.began),
            }
        }
        let settled = &self.settled;
        let is_repeated = part.kept_attempts().any(|(number, attempt)| {
            part.node(number).is_some() && settled.contains(attempt.transaction)
        });
        if is_repeated {
            self.doubt(Doubt::All);
        }
        let checked = part.checked_attempts();
        let Part { mut resolved, is_forgotten, .. } = part;
        for number in checked {
            resolved.log.attempts[number as usize].is_checked = true;
        }
        let first = first_revision(&resolved);
        self.base = resolved.base;
        unclaimed.iter().for_each(|version| self.base.mark_unclaimed(version));
        self.base.boundary = boundary;
        self.base.versions = current;
        self.base.changes = resolved.changes;
        self.base.first_revision = (first < i64::MAX).then_some(first);
        self.base.begins = self.settled.next_part();
        let mut log = resolved.log;
        log.retain(boundary, |number| !is_forgotten[number]);
        log
    }
}
