//! From the decisions about edges and from the findings to the verdict about each level.
//!
//! ```text
//! decisions   All: cyclic, Data: acyclic      strict serializable: not; serializable: holds
//! findings    garbage read                    read committed: not; all stronger levels: also not
//! ```

use std::collections::BTreeMap;

use super::anomaly::Anomaly;
use super::coverage::Coverage;
use super::cycles::{self, CycleEdge};
use super::decide::{Decider, Decision, EdgeSet};
use super::edges::{Builder, Dependencies, GapChoices};
use super::level::{Level, Status};
use super::options::Engine;
use super::resolved::Resolved;
use super::snapshots::{self, Places, Window};
use super::verdict::Verdict;
use super::{classify, log};

/// What a check has found.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) decisions: BTreeMap<EdgeSet, Decision>,
    pub(super) anomalies: Vec<Anomaly>,
    /// Whether a transaction was promised more than it got, apart from cycles.
    pub(super) breaks_declared: bool,
    pub(super) coverage: Coverage,
}

/// Checks a whole history.
pub(super) fn summarize(resolved: &Resolved, engine: Engine) -> Summary {
    let places = snapshots::place(resolved);
    let choices = GapChoices::new();
    let mut builder = Builder::new(resolved, &places, &choices);
    let graphs = match engine {
        Engine::Intervals => {
            let windows = snapshots::merge(&places.failing);
            graphs(resolved, &places, &windows, &mut builder)
        }
        Engine::WholeGraph => vec![builder.whole()],
    };
    let decider = Decider { resolved, places: &places, graphs: &graphs };
    let decisions = decider.decide_all();
    let decision = |set: EdgeSet| decisions[&set];
    let mut cycles = cycles::short_cycles(resolved, &graphs, &places.failing, decision);
    if cycles.is_empty() && decision(EdgeSet::All) == Decision::Cyclic {
        cycles = cycles_of_other_gaps(&decider, decision);
    }
    let findings = resolved.findings.iter().copied();
    let inconsistent: Vec<u32> = snapshots::inconsistent_attempts(resolved).collect();
    let anomalies = classify::anomalies(resolved, cycles, findings, inconsistent.iter().copied());
    let mut coverage = resolved.coverage;
    coverage.unplaced = places.failing.len();
    coverage.edges = graphs.iter().map(|dependencies| dependencies.graph.edge_count()).sum();
    let breaks_declared = !resolved.findings.is_empty()
        || inconsistent.iter().any(|&attempt| is_strong(resolved, attempt));
    Summary { decisions, anomalies, breaks_declared, coverage }
}

/// Whether an attempt was promised a single snapshot.
pub(super) fn is_strong(resolved: &Resolved, attempt: u32) -> bool {
    use coord_core::stm::Isolation;
    let isolation = resolved.log.attempts[attempt as usize].isolation;
    matches!(isolation, Isolation::SerializableSnapshot | Isolation::Serializable)
}

/// The dependency graphs of windows.
pub(super) fn graphs(
    resolved: &Resolved,
    places: &Places,
    windows: &[Window],
    builder: &mut Builder<'_>,
) -> Vec<Dependencies> {
    if windows.is_empty() {
        return Vec::new();
    }
    let mut nodes: Vec<u32> = (0..log::length(&resolved.nodes)).collect();
    let position = |&node: &u32| places.position[node as usize];
    nodes.sort_by_key(position);
    let mut versions: Vec<u32> = (0..log::length(&resolved.versions.all)).collect();
    let revision = |&version: &u32| resolved.versions.get(version).revision;
    versions.sort_by_key(revision);
    let graph = |window: &Window| {
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
    windows.iter().map(graph).collect()
}

/// The verdict about all levels.
pub(super) fn verdict(summary: Summary) -> Verdict {
    let Summary { decisions, anomalies, breaks_declared, coverage } = summary;
    let decision = |set: EdgeSet| decisions.get(&set).copied().unwrap_or(Decision::Acyclic);
    let has_order = coverage.without_revision == 0;
    let shows_nothing =
        coverage.transactions == 0 || (coverage.reads > 0 && coverage.resolved_reads == 0);
    let status = |is_refuted: bool, decision: Decision| match decision {
        _ if is_refuted => Status::Not,
        Decision::Cyclic => Status::Not,
        Decision::Undecided => Status::Unknown,
        Decision::Acyclic if shows_nothing || !has_order => Status::Unknown,
        Decision::Acyclic => Status::Holds,
    };
    let mut levels: Vec<(Level, Status)> = Vec::new();
    for level in Level::ALL {
        let is_refuted = anomalies.iter().any(|anomaly| anomaly.refutes().contains(&level));
        let weaker = levels.iter().filter(|(weaker, _)| level.implies(*weaker));
        let is_also_refuted = weaker.clone().any(|(_, status)| status.is_refuted());
        let status = match status(is_refuted, decision(edge_set(level))) {
            _ if is_also_refuted => Status::AlsoNot,
            status => status,
        };
        levels.push((level, status));
    }
    let declared = status(breaks_declared, decision(EdgeSet::Declared));
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
