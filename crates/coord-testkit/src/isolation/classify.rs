//! Names cycles and findings, and turns them into anomalies.
//!
//! The name follows from the `rw` edges of a cycle. The three cycles below have two of them:
//!
//! ```text
//! T1 ─rw→ T2 ─rw→ T1                         adjacent: G2-item, here write skew
//! T1 ─rw→ T2 ─wr→ T3 ─rw→ T4 ─wr→ T1         not adjacent: G-nonadjacent-item, here a long fork
//! T1 ─rw range→ T2 ─rw→ T1                   G2, a phantom
//! ```

use std::collections::BTreeMap;

use coord_core::kv::Revision;

use super::anomaly::{Anomaly, AnomalyKind, Order, Participant, Step};
use super::cycles::CycleEdge;
use super::edge_kind::EdgeKind;
use super::log::NONE;
use super::resolved::{Finding, Resolved};

/// The anomalies of a history: one for each kind and order, the worst first.
pub(super) fn anomalies(
    resolved: &Resolved,
    cycles: Vec<Vec<CycleEdge>>,
    findings: impl IntoIterator<Item = Finding>,
    inconsistent: impl IntoIterator<Item = u32>,
) -> Vec<Anomaly> {
    let mut anomalies: BTreeMap<(AnomalyKind, Order), Anomaly> = BTreeMap::new();
    let attempts = inconsistent.into_iter().map(|attempt| {
        let kind = AnomalyKind::InconsistentAttempt;
        Finding { kind, attempt, key: NONE, revision: 0, writer: NONE }
    });
    for finding in findings.into_iter().chain(attempts) {
        let entry = anomalies.entry((finding.kind, Order::None));
        entry.or_insert_with(|| from_finding(resolved, finding)).count += 1;
    }
    for cycle in cycles {
        let anomaly = from_cycle(resolved, &simple(cycle));
        let key = (anomaly.kind, anomaly.order);
        let is_longer = |known: &Anomaly| known.steps.len() <= anomaly.steps.len();
        if !anomalies.get(&key).is_some_and(is_longer) {
            anomalies.insert(key, anomaly);
        }
    }
    anomalies.into_values().collect()
}

fn participant(resolved: &Resolved, attempt: u32) -> Option<Participant> {
    let attempt = resolved.log.attempts.get(attempt as usize)?;
    Some(Participant::Transaction(attempt.transaction))
}

fn from_finding(resolved: &Resolved, finding: Finding) -> Anomaly {
    let participants = [finding.attempt, finding.writer];
    Anomaly {
        kind: finding.kind,
        order: Order::None,
        name: match finding.kind {
            AnomalyKind::G1a => Some("aborted read"),
            AnomalyKind::G1b => Some("intermediate read"),
            _ => None,
        },
        participants: participants
            .into_iter()
            .filter_map(|attempt| participant(resolved, attempt))
            .collect(),
        steps: Vec::new(),
        key: resolved.log.keys.get(finding.key as usize).cloned(),
        revision: (finding.revision > 0).then_some(Revision(finding.revision)),
        count: 0,
    }
}

/// A cycle that visits no transaction twice, cut out of one that may.
fn simple(mut cycle: Vec<CycleEdge>) -> Vec<CycleEdge> {
    while let Some((first, again)) = repeated(&cycle) {
        let inner: Vec<_> = cycle.drain(first..again).collect();
        // The rest is a cycle too. Two `rw` edges must not become adjacent by the cut.
        if !has_adjacent(&inner) || has_adjacent(&cycle) {
            cycle = inner;
        }
    }
    cycle
}

/// The first two places at which a cycle is at the same node.
fn repeated(cycle: &[CycleEdge]) -> Option<(usize, usize)> {
    (0..cycle.len()).find_map(|again| {
        let first = (0..again).find(|&first| cycle[first].from == cycle[again].from)?;
        Some((first, again))
    })
}

/// Whether two `rw` edges of a cycle are adjacent.
fn has_adjacent(cycle: &[CycleEdge]) -> bool {
    let next = cycle.iter().cycle().skip(1);
    cycle.len() > 1
        && cycle
            .iter()
            .zip(next)
            .any(|(edge, next)| edge.kind.is_anti_dependency() && next.kind.is_anti_dependency())
}

fn from_cycle(resolved: &Resolved, cycle: &[CycleEdge]) -> Anomaly {
    let has = |kind: EdgeKind| cycle.iter().any(|edge| edge.kind == kind);
    let order = if has(EdgeKind::RealTime) {
        Order::RealTime
    } else if has(EdgeKind::Session) {
        Order::Process
    } else {
        Order::None
    };
    let is_range = cycle.iter().any(|edge| edge.kind.is_predicate());
    let item = |item, range| if is_range { range } else { item };
    let kind = match cycle.iter().filter(|edge| edge.kind.is_anti_dependency()).count() {
        0 if !has(EdgeKind::WriteRead) && !is_range => AnomalyKind::G0,
        0 => AnomalyKind::G1c,
        1 => item(AnomalyKind::GSingleItem, AnomalyKind::GSingle),
        _ if !has_adjacent(cycle) => item(AnomalyKind::GNonadjacentItem, AnomalyKind::GNonadjacent),
        _ => item(AnomalyKind::G2Item, AnomalyKind::G2),
    };
    Anomaly {
        kind,
        order,
        name: name(resolved, cycle, order),
        participants: cycle.iter().map(|edge| node(resolved, edge.from)).collect(),
        steps: cycle.iter().map(|edge| step(resolved, edge)).collect(),
        key: None,
        revision: None,
        count: 1,
    }
}

/// The name of a cycle in the literature.
fn name(resolved: &Resolved, cycle: &[CycleEdge], order: Order) -> Option<&'static str> {
    use EdgeKind::{ReadWrite, WriteRead, WriteWrite};
    let key = |edge: &CycleEdge| Some(resolved.versions.all.get(edge.version as usize)?.key);
    let start = cycle.iter().position(|edge| edge.kind.is_anti_dependency())?;
    let rotated: Vec<&CycleEdge> = cycle.iter().cycle().skip(start).take(cycle.len()).collect();
    if order != Order::None {
        let readers = rotated.iter().filter(|edge| edge.kind.is_anti_dependency());
        let writes = |edge: &&CycleEdge| resolved.nodes[edge.from as usize].writes();
        return match readers.clone().count() {
            1 if readers.clone().any(writes) => Some("stale read"),
            1 => Some("stale read-only transaction"),
            _ => None,
        };
    }
    if cycle.iter().any(|edge| edge.kind.is_predicate()) {
        return Some("phantom");
    }
    let kinds: Vec<EdgeKind> = rotated.iter().map(|edge| edge.kind).collect();
    match kinds[..] {
        [ReadWrite, WriteWrite] if key(rotated[0]) == key(rotated[1]) => Some("lost update"),
        [ReadWrite, WriteRead] => Some("read skew"),
        [ReadWrite, ReadWrite] => Some("write skew"),
        [ReadWrite, WriteRead, ReadWrite, WriteRead] => Some("long fork"),
        _ => None,
    }
}

fn node(resolved: &Resolved, node: u32) -> Participant {
    let node = &resolved.nodes[node as usize];
    participant(resolved, node.attempt).unwrap_or(Participant::Change(Revision(node.commit)))
}

fn step(resolved: &Resolved, edge: &CycleEdge) -> Step {
    let versions = &resolved.versions;
    let version = (edge.version != NONE).then(|| versions.get(edge.version));
    let revision = |version: u32| Some(Revision(versions.get(version).revision));
    let reads = matches!(edge.kind, EdgeKind::WriteRead | EdgeKind::PredicateWriteRead);
    let previous = version
        .filter(|version| versions.first(version.key) != Some(edge.version))
        .map(|_| edge.version - 1)
        .filter(|&previous| edge.kind == EdgeKind::WriteWrite || versions.get(previous).is_put);
    let (before, after) = match version {
        None => (None, None),
        Some(_) if reads => (revision(edge.version), None),
        Some(_) => (previous.and_then(revision), revision(edge.version)),
    };
    Step {
        from: node(resolved, edge.from),
        to: node(resolved, edge.to),
        kind: edge.kind,
        key: version.map(|version| resolved.log.keys[version.key as usize].clone()),
        before,
        after,
    }
}
