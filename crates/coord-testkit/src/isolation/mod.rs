//! Isolation checker: which isolation levels a history refutes, with a short counterexample.
//!
//! The store's revisions are the version order, so checking needs no search through possible
//! orders: its cost is linear in the history.
//!
//! 1. The attempts are joined to the version order. This finds reads of values that were never
//!    committed, and writes that were lost or applied twice.
//! 2. Each transaction is placed in the order of revisions, by the intervals in which everything
//!    that it has read was valid. If all have a place, there is no cycle.
//! 3. Otherwise the dependencies between transactions are searched for cycles, only around the
//!    transactions without a place. The kind of a cycle is the anomaly.
//!
//! ```text
//! revision    1               2              3
//! T1          reads x@1, y@1  puts x                     x@1 was read by T2, which is before T1
//! T2          reads x@1, y@1                 puts y      y@1 was read by T1, which is before T2
//! ```
//!
//! T2 has no place: x@1 was not valid at revision 2. The cycle T1 → T2 → T1 of two `rw` edges is
//! write skew.
//!
//! # Times
//!
//! A transaction comes after another one in real time if it began *later* than the other one ended,
//! on the clock of the history. At equal times they count as concurrent. A transaction begins with
//! its first attempt.
//!
//! # Without the changes of the store
//!
//! A history without [`EventKind::Changed`](crate::history::EventKind::Changed) is checked with the
//! versions that its attempts wrote and read. Reads that depend on writes of other clients are
//! unresolved then: they constrain less, because the other writes of those clients are not known,
//! and the [`Coverage`] counts them. That a key is absent is unresolved, and constrains nothing, if
//! another client is known to have put it; a key that only recorded transactions have put is
//! assumed to be deleted by them only, not by the end of a lease. A history that has
//! changes must have all changes of the keys that its attempts use, from its first changed revision
//! to its last.

mod anomaly;
mod claims;
mod classify;
mod cycles;
mod decide;
mod edges;
mod graph;
mod level;
mod log;
mod resolve;
mod snapshots;
mod unclaimed;
mod unknown;
mod verdict;
mod versions;

#[cfg(test)]
mod tests;

use crate::history::{Event, History};
pub use anomaly::{Anomaly, AnomalyKind, Order, Participant, Step};
use cycles::CycleEdge;
use decide::{Decider, Decision, EdgeSet};
pub use edges::EdgeKind;
use edges::{Builder, Choices, Dependencies};
pub use level::{Level, Status};
use log::Log;
use resolve::{Resolved, resolve};
use snapshots::{Places, Window};
pub use verdict::{Coverage, Verdict};

/// Checks a history.
///
/// ```
/// use std::time::Duration;
///
/// use coord_core::kv::Revision;
/// use coord_core::stm::Isolation;
/// use coord_testkit::history::{
///     Attempt, AttemptEnd, Event, EventKind, History, KeyRead, KeyWrite,
/// };
/// use coord_testkit::isolation::{self, Level, Status};
///
/// // Two transactions read x and y, both at revision 1, and each writes one of them.
/// let transaction = |number, key: &'static str, revision| {
///     let read = |key: &'static str| KeyRead {
///         key: key.into(),
///         found: Some((Revision(1), "on call".into())),
///     };
///     let attempt = Attempt {
///         transaction: number,
///         number: 1,
///         isolation: Isolation::ReadCommitted,
///         began: Duration::ZERO,
///         reads: vec![read("x"), read("y")],
///         ranges: vec![],
///         writes: vec![KeyWrite { key: key.into(), value: Some("off".into()) }],
///         end: AttemptEnd::Committed { revision: Revision(revision) },
///     };
///     Event {
///         at: Duration::from_secs(1),
///         process: None,
///         kind: EventKind::Attempt(Box::new(attempt)),
///     }
/// };
/// let history = History(vec![transaction(1, "x", 2), transaction(2, "y", 3)]);
///
/// let verdict = isolation::check(&history);
/// assert_eq!(verdict.anomalies()[0].name, Some("write skew"));
/// assert_eq!(verdict.status(Level::SnapshotIsolation), Status::Holds);
/// assert_eq!(verdict.status(Level::RepeatableRead), Status::Not);
/// assert_eq!(verdict.status(Level::Serializable), Status::AlsoNot);
/// // Each transaction kept what `ReadCommitted` promises.
/// assert_eq!(verdict.declared(), Status::Holds);
/// ```
#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut checker = Checker::new();
    history.0.iter().for_each(|event| checker.push(event));
    checker.finish()
}

/// Whether a value shows which attempt has written it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Values {
    /// Several attempts, and other clients, may put the same value.
    #[default]
    Any,
    /// No two writes of a key put the same value, except attempts of one transaction. This lets the
    /// checker find writes of aborted attempts, and commits that were applied twice.
    Unique,
}

/// How cycles are searched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// Only around transactions that have no place in the order of revisions.
    #[default]
    Intervals,
    /// In the dependency graph of all transactions. The verdict is the same, in more time.
    WholeGraph,
}

/// Checks events as they come.
///
/// It keeps what it needs of each attempt, some 200 bytes for three keys, and drops the rest.
#[derive(Debug, Default)]
#[must_use = "call `finish` for the verdict"]
pub struct Checker {
    log: Log,
    values: Values,
    engine: Engine,
}

impl Checker {
    /// A checker without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether values are unique. [`Values::Any`] by default.
    pub const fn values(mut self, values: Values) -> Self {
        self.values = values;
        self
    }

    /// Sets how cycles are searched for. [`Engine::Intervals`] by default.
    pub const fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Adds an event. Only attempts and changes of the store matter. Attempts are added in the
    /// order of their ends, changes in any order.
    pub fn push(&mut self, event: &Event) {
        self.log.push(event);
    }

    /// The verdict about all events.
    #[must_use]
    pub fn finish(self) -> Verdict {
        let resolved = resolve(self.log, self.values);
        let places = snapshots::place(&resolved);
        let choices = Choices::new();
        let mut builder = Builder::new(&resolved, &places, &choices);
        let graphs = match self.engine {
            Engine::Intervals => windows(&resolved, &places, &mut builder),
            Engine::WholeGraph => vec![builder.whole()],
        };
        verdict(&resolved, &places, &graphs)
    }
}

/// The dependency graphs of the windows.
fn windows(resolved: &Resolved, places: &Places, builder: &mut Builder<'_>) -> Vec<Dependencies> {
    if places.failing.is_empty() {
        return Vec::new();
    }
    let mut nodes: Vec<u32> = (0..log::length(&resolved.nodes)).collect();
    let position = |&node: &u32| places.position[node as usize];
    nodes.sort_by_key(position);
    let mut versions: Vec<u32> = (0..log::length(&resolved.versions.all)).collect();
    let revision = |&version: &u32| resolved.versions.get(version).revision;
    versions.sort_by_key(revision);
    let graph = |window: Window| {
        let within = |first: usize, last: usize| first..last.max(first);
        let nodes = &nodes[within(
            nodes.partition_point(|node| position(node) < window.first),
            nodes.partition_point(|node| position(node) <= window.last),
        )];
        let versions = &versions[within(
            versions.partition_point(|version| revision(version) < window.first),
            versions.partition_point(|version| revision(version) <= window.last),
        )];
        builder.build(nodes.to_vec(), versions.iter().copied())
    };
    snapshots::merge(&places.failing).into_iter().map(graph).collect()
}

/// Decides about all levels.
fn verdict(resolved: &Resolved, places: &Places, graphs: &[Dependencies]) -> Verdict {
    let decider = Decider { resolved, places, graphs };
    let decisions = decider.decide_all();
    let decision = |set: EdgeSet| decisions[&set];
    let mut cycles = cycles::short_cycles(resolved, graphs, &places.failing, decision);
    if cycles.is_empty() && decision(EdgeSet::All) == Decision::Cyclic {
        cycles = cycles_of_other_gaps(&decider, decision);
    }
    let anomalies =
        classify::anomalies(resolved, cycles, snapshots::inconsistent_attempts(resolved));
    let mut coverage = resolved.coverage;
    coverage.unplaced = places.failing.len();
    coverage.edges = graphs.iter().map(|dependencies| dependencies.graph.edge_count()).sum();
    let shows_nothing =
        coverage.transactions == 0 || (coverage.reads > 0 && coverage.resolved_reads == 0);
    let status = |is_refuted: bool, decision: Decision| match decision {
        _ if is_refuted => Status::Not,
        Decision::Cyclic => Status::Not,
        Decision::Undecided => Status::Unknown,
        Decision::Acyclic if shows_nothing => Status::Unknown,
        Decision::Acyclic => Status::Holds,
    };
    let mut levels: Vec<(Level, Status)> = Vec::new();
    for level in Level::ALL {
        let is_refuted = anomalies.iter().any(|anomaly| anomaly.kind.refutes().contains(&level));
        let weaker = levels.iter().filter(|(weaker, _)| level.implies(*weaker));
        let is_also_refuted = weaker.clone().any(|(_, status)| status.is_refuted());
        let status = match status(is_refuted, decision(edge_set(level))) {
            _ if is_also_refuted => Status::AlsoNot,
            status => status,
        };
        levels.push((level, status));
    }
    let declared = status(breaks_declared(resolved), decision(EdgeSet::Declared));
    Verdict { levels, declared, anomalies, coverage }
}

/// Cycles with an order in time, in other gaps than those near the places of the transactions. They
/// are needed if each gap of an absent read gives a cycle, and the cycle of the gap near the place
/// has no order in time.
fn cycles_of_other_gaps(
    decider: &Decider<'_>,
    decision: impl Fn(EdgeSet) -> Decision + Copy,
) -> Vec<Vec<CycleEdge>> {
    let (resolved, places) = (decider.resolved, decider.places);
    let mut dead_ends = Vec::new();
    decider.try_gaps(EdgeSet::All, |choices| dead_ends.push(choices));
    let mut cycles = dead_ends.into_iter().map(|choices| {
        let chosen = choices.keys().map(|&(node, _)| (node, Window { first: 0, last: 0 }));
        let starts: Vec<_> = chosen.chain(places.failing.iter().copied()).collect();
        let whole = Builder::new(resolved, places, &choices).whole();
        cycles::short_cycles(resolved, &[whole], &starts, decision)
    });
    cycles.find(|cycles| !cycles.is_empty()).unwrap_or_default()
}

/// The edges that must have no cycle at a level.
const fn edge_set(level: Level) -> EdgeSet {
    match level {
        Level::ReadUncommitted => EdgeSet::Writes,
        Level::ReadCommitted | Level::CoordReadCommitted => EdgeSet::Reads,
        Level::RepeatableRead => EdgeSet::Items,
        Level::SnapshotIsolation => EdgeSet::NonAdjacent,
        Level::Serializable => EdgeSet::Data,
        Level::StrictSerializable | Level::CoordSerializable | Level::CoordSerializableSnapshot => {
            EdgeSet::All
        }
        Level::CoordRepeatableReads => EdgeSet::CoordRepeatableReads,
    }
}

/// Whether a transaction was promised more than it got, apart from cycles.
fn breaks_declared(resolved: &Resolved) -> bool {
    use coord_core::stm::Isolation;
    let is_strong = |attempt: u32| {
        let isolation = resolved.log.attempts[attempt as usize].isolation;
        matches!(isolation, Isolation::SerializableSnapshot | Isolation::Serializable)
    };
    !resolved.findings.is_empty() || snapshots::inconsistent_attempts(resolved).any(is_strong)
}
