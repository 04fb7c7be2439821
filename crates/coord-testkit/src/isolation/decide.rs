//! Decides for each level whether the dependencies have a cycle that the level forbids.
//!
//! A level is a set of edges that must have no cycle. Its status follows from the edges of absent
//! reads, of which some are only assumed:
//!
//! ```text
//! a cycle without assumed edges                   refuted: it survives every choice of gaps
//! no cycle with the assumed edges                 holds: the assumed gaps have no cycle
//! a cycle, but only with assumed edges            try the gaps of the reads in the cycle
//! ```
//!
//! For example, `r3(x) = absent`, and x is put at 2, deleted at 3 and put at 4. If T3 is in a cycle
//! because it comes before the put at 2, it is tried between 3 and 4. The search is complete, and
//! is given up when it has cost too much: then the level is undecided.

use std::collections::BTreeMap;

use coord_core::stm::Isolation;

use super::edge_kind::EdgeKind;
use super::edges::{Builder, Dependencies, GapChoices, Label};
use super::graph::Components;
use super::log::KeyId;
use super::resolved::{Node, Resolved};
use super::snapshots::Places;

/// How many edges the search through the gaps builds before it is given up.
const EDGES_MAX: usize = 20_000_000;

/// How many choices of gaps the search tries before it is given up.
const CHOICES_MAX: usize = 20_000;

/// A set of edges that must have no cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EdgeSet {
    /// `ww`.
    Writes,
    /// `ww` and `wr`.
    Reads,
    /// `ww`, `wr` and `rw` of single keys.
    Items,
    /// All edges of data; cycles with two adjacent `rw` are permitted.
    NonAdjacent,
    /// All edges of data.
    Data,
    /// All edges of data, and the order of each process.
    Session,
    /// All edges.
    All,
    /// `ww`, `wr`, `rw` of single keys, and the order in time before transactions that write.
    CoordRepeatableReads,
    /// What each transaction was promised by the level that it was run with.
    Declared,
}

/// All edge sets, each with the smallest superset before it.
pub(super) const SETS: [(EdgeSet, Option<EdgeSet>); 9] = [
    (EdgeSet::All, None),
    (EdgeSet::Session, Some(EdgeSet::All)),
    (EdgeSet::Declared, Some(EdgeSet::All)),
    (EdgeSet::CoordRepeatableReads, Some(EdgeSet::All)),
    (EdgeSet::Data, Some(EdgeSet::Session)),
    (EdgeSet::NonAdjacent, Some(EdgeSet::Data)),
    (EdgeSet::Items, Some(EdgeSet::CoordRepeatableReads)),
    (EdgeSet::Reads, Some(EdgeSet::Items)),
    (EdgeSet::Writes, Some(EdgeSet::Reads)),
];

impl EdgeSet {
    /// Whether an edge is in the set. `from` and `to` are `None` for time nodes.
    pub(super) fn contains(self, kind: EdgeKind, from: Option<&Node>, to: Option<&Node>) -> bool {
        let is_item = !kind.is_predicate() && !kind.is_order();
        match self {
            Self::Writes => kind == EdgeKind::WriteWrite,
            Self::Reads => matches!(kind, EdgeKind::WriteWrite | EdgeKind::WriteRead),
            Self::Items => is_item,
            Self::NonAdjacent | Self::Data => !kind.is_order(),
            Self::Session => kind != EdgeKind::RealTime,
            Self::All => true,
            Self::CoordRepeatableReads => {
                is_item || (kind == EdgeKind::RealTime && to.is_none_or(Node::writes))
            }
            Self::Declared => is_declared(kind, from, to),
        }
    }
}

/// Whether the transaction that an edge concerns was promised that the edge counts: the reader of a
/// read, and the second transaction of an order in time.
///
/// Source: Adya, *Weak Consistency* (1999): the mixed serialization graph.
fn is_declared(kind: EdgeKind, from: Option<&Node>, to: Option<&Node>) -> bool {
    let level = |node: Option<&Node>| node.and_then(|node| node.isolation);
    let is_strong = |node| {
        matches!(level(node), Some(Isolation::SerializableSnapshot | Isolation::Serializable))
    };
    let repeats = |node| is_strong(node) || level(node) == Some(Isolation::RepeatableReads);
    match kind {
        EdgeKind::WriteWrite | EdgeKind::WriteRead => true,
        EdgeKind::ReadWrite => repeats(from),
        EdgeKind::PredicateReadWrite => is_strong(from),
        EdgeKind::PredicateWriteRead => is_strong(to),
        EdgeKind::Session | EdgeKind::RealTime => match to {
            None => true,
            Some(node) => is_strong(to) || (repeats(to) && node.writes()),
        },
    }
}

/// Whether a set of edges has a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It has none.
    Acyclic,
    /// It has one, whatever the gaps.
    Cyclic,
    /// Not all gaps could be tried, or another part of the history could decide.
    Undecided,
}

/// The strongly connected components of the edges that `keep` accepts, called with the two nodes of
/// the graph and the label. Unless `adjacent`, a cycle with two adjacent `rw` edges does not count:
/// each node is there twice, entered by a `rw` edge (odd) or by another one (even).
pub(super) fn components(
    dependencies: &Dependencies,
    adjacent: bool,
    keep: impl Fn(u32, u32, Label) -> bool,
) -> Components {
    let nodes = dependencies.graph.len();
    if adjacent {
        return Components::new(
            nodes,
            |node| dependencies.row(node),
            |node, edge| {
                let (to, label) = dependencies.graph.edge(edge);
                keep(node, to, label).then_some(to)
            },
        );
    }
    Components::new(
        2 * nodes,
        |state| dependencies.row(state / 2),
        |state, edge| {
            let (to, label) = dependencies.graph.edge(edge);
            let is_anti = label.kind.is_anti_dependency();
            let is_allowed = !(is_anti && state % 2 == 1) && keep(state / 2, to, label);
            is_allowed.then_some(2 * to + u32::from(is_anti))
        },
    )
}

/// The strongly connected components of an edge set.
fn components_of(
    resolved: &Resolved,
    dependencies: &Dependencies,
    set: EdgeSet,
    with_assumed: bool,
) -> Components {
    let needs_nodes = matches!(set, EdgeSet::CoordRepeatableReads | EdgeSet::Declared);
    components(dependencies, set != EdgeSet::NonAdjacent, |from, to, label| {
        let node = |local| match needs_nodes {
            true => dependencies.node(resolved, local),
            false => None,
        };
        (with_assumed || !label.is_assumed) && set.contains(label.kind, node(from), node(to))
    })
}

/// Decides about edge sets of one history.
#[derive(Debug)]
pub(super) struct Decider<'a> {
    pub(super) resolved: &'a Resolved,
    pub(super) places: &'a Places,
    /// The graphs in which all cycles are.
    pub(super) graphs: &'a [Dependencies],
}

impl Decider<'_> {
    /// Decides about all edge sets. A set without a cycle decides about its subsets.
    pub(super) fn decide_all(&self) -> BTreeMap<EdgeSet, Decision> {
        let mut decisions = BTreeMap::new();
        for (set, superset) in SETS {
            let decision = match superset.and_then(|superset| decisions.get(&superset)) {
                Some(Decision::Acyclic) => Decision::Acyclic,
                _ => self.decide(set),
            };
            decisions.insert(set, decision);
        }
        decisions
    }

    /// Decides about all edge sets of a part of a history. `certain` has the edges that nothing
    /// outside of the part can take back.
    pub(super) fn decide_part(&self, certain: &[Dependencies]) -> BTreeMap<EdgeSet, Decision> {
        let has_cycle = |graphs: &[Dependencies], set| {
            graphs.iter().any(|graph| components_of(self.resolved, graph, set, true).has_cycle())
        };
        let decide = |(set, _)| {
            let decision = match set {
                _ if !has_cycle(self.graphs, set) => Decision::Acyclic,
                _ if has_cycle(certain, set) => Decision::Cyclic,
                _ => Decision::Undecided,
            };
            (set, decision)
        };
        SETS.into_iter().map(decide).collect()
    }

    /// Decides about an edge set.
    fn decide(&self, set: EdgeSet) -> Decision {
        let mut has_assumed_cycle = false;
        for dependencies in self.graphs {
            let has_cycle = |with_assumed| {
                components_of(self.resolved, dependencies, set, with_assumed).has_cycle()
            };
            if has_cycle(true) {
                if !dependencies.has_assumed || has_cycle(false) {
                    return Decision::Cyclic;
                }
                has_assumed_cycle = true;
            }
        }
        if has_assumed_cycle { self.try_gaps(set, |_| {}) } else { Decision::Acyclic }
    }

    /// Searches for gaps with which an edge set has no cycle, depth first. Calls `dead_end` with
    /// each choice that has a cycle whatever the other gaps.
    pub(super) fn try_gaps(&self, set: EdgeSet, mut dead_end: impl FnMut(GapChoices)) -> Decision {
        let mut stack = vec![GapChoices::new()];
        let (mut edges, mut tried) = (0, 0);
        while let Some(choices) = stack.pop() {
            let whole = Builder::new(self.resolved, self.places, &choices).whole();
            edges += whole.graph.edge_count();
            tried += 1;
            if edges > EDGES_MAX || tried > CHOICES_MAX {
                return Decision::Undecided;
            }
            if components_of(self.resolved, &whole, set, false).has_cycle() {
                dead_end(choices);
                continue;
            }
            let assumed = components_of(self.resolved, &whole, set, true);
            let Some((node, key)) = self.assumed_read(&whole, set, &assumed) else {
                return Decision::Acyclic;
            };
            stack.extend(self.resolved.versions.gaps_for(node, key).map(|gap| {
                let mut choices = choices.clone();
                choices.insert((node, key), gap);
                choices
            }));
        }
        Decision::Cyclic
    }

    /// An absent read with an assumed edge inside a component.
    fn assumed_read(
        &self,
        whole: &Dependencies,
        set: EdgeSet,
        components: &Components,
    ) -> Option<(u32, KeyId)> {
        let component = |local: u32| {
            let states = if set == EdgeSet::NonAdjacent {
                2 * local..2 * local + 2
            } else {
                local..local + 1
            };
            states
                .filter(|&state| components.is_cyclic(state))
                .map(|state| components.of[state as usize])
        };
        for from in 0..whole.members.len() as u32 {
            for edge in whole.row(from) {
                let (to, label) = whole.graph.edge(edge);
                let node = |local| whole.node(self.resolved, local);
                let is_in = label.is_assumed && set.contains(label.kind, node(from), node(to));
                if is_in && component(from).any(|a| component(to).any(|b| a == b)) {
                    let reader = if label.kind.is_anti_dependency() { from } else { to };
                    let key = self.resolved.versions.get(label.version).key;
                    return Some((whole.members[reader as usize], key));
                }
            }
        }
        None
    }
}
