//! Short cycles as examples of anomalies.
//!
//! Every cycle runs through a transaction without a place (see `snapshots.rs`), so a breadth-first
//! search from some of these finds short cycles. It counts transactions, not time nodes. Each
//! *rule* is a kind of cycle, which the search keeps to with a few bits beside the node:
//!
//! ```text
//! rule          bit                       a step is refused          accepted at the start
//! one rw        a rw edge was used        second rw edge             bit set
//! rw apart      the last edge was rw      rw edge after rw edge      as at the start
//! with order    an edge of time was used                             bit set
//! ```

use std::collections::VecDeque;

use super::decide::{Decision, EdgeSet, components};
use super::edge_kind::EdgeKind;
use super::edges::{Dependencies, Label};
use super::graph::Components;
use super::log::NONE;
use super::resolved::Resolved;
use super::snapshots::Window;

/// From how many transactions of a graph a rule is searched.
const STARTS_MAX: usize = 8;

/// After how many visited edges of a graph a rule is searched from no further transaction, unless
/// it has found nothing yet.
const VISITS_MAX: usize = 200_000;

/// Which `rw` edges a rule permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AntiDependencies {
    One,
    Apart,
    Any,
}

/// A kind of cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CycleRule {
    /// The edges of data.
    data: EdgeSet,
    anti: AntiDependencies,
    /// An order in time, of which the cycle must have an edge.
    order: Option<EdgeKind>,
}

/// All rules, the worst first.
fn rules() -> impl Iterator<Item = CycleRule> {
    use AntiDependencies::{Any, Apart, One};
    let data = [
        (EdgeSet::Writes, Any),
        (EdgeSet::Reads, Any),
        (EdgeSet::Items, One),
        (EdgeSet::Data, One),
        (EdgeSet::Items, Apart),
        (EdgeSet::Data, Apart),
        (EdgeSet::Items, Any),
        (EdgeSet::Data, Any),
    ];
    let orders = [None, Some(EdgeKind::Session), Some(EdgeKind::RealTime)];
    orders.into_iter().flat_map(move |order| {
        data.into_iter().map(move |(data, anti)| CycleRule { data, anti, order })
    })
}

/// The bit for `rw` edges.
const ANTI: u32 = 1;
/// The bit for the order in time.
const ORDER: u32 = 2;

impl CycleRule {
    /// The set of edges of which all cycles of the rule consist.
    const fn set(self) -> EdgeSet {
        match self.order {
            None => self.data,
            Some(EdgeKind::Session) => EdgeSet::Session,
            Some(_) => EdgeSet::All,
        }
    }

    /// Whether a cycle of this rule is an example for another rule too: one that permits edges of
    /// ranges, or needs an order in time.
    fn implies(self, other: Self) -> bool {
        let has_data =
            self.data == other.data || (self.data, other.data) == (EdgeSet::Items, EdgeSet::Data);
        let has_order = self.order.is_none() || other.order == Some(EdgeKind::RealTime);
        self.anti == other.anti && has_data && has_order
    }

    /// The rule without edges of ranges.
    const fn without_ranges(self) -> Self {
        match self.data {
            EdgeSet::Data => Self { data: EdgeSet::Items, ..self },
            _ => self,
        }
    }

    fn contains(self, kind: EdgeKind) -> bool {
        if kind.is_order() {
            self.order == Some(kind)
        } else {
            self.data.contains(kind, None, None)
        }
    }

    /// The bits after an edge, or `None` if it is refused.
    fn step(self, bits: u32, kind: EdgeKind) -> Option<u32> {
        if !self.contains(kind) {
            return None;
        }
        let bits = if kind.is_order() { bits | ORDER } else { bits };
        match (self.anti, kind.is_anti_dependency()) {
            (AntiDependencies::Any, _) | (AntiDependencies::One, false) => Some(bits),
            (AntiDependencies::Apart, false) => Some(bits & !ANTI),
            (_, true) => (bits & ANTI == 0).then_some(bits | ANTI),
        }
    }

    /// The pairs of bits at the start and at the end.
    fn ends(self) -> &'static [(u32, u32)] {
        match (self.anti, self.order) {
            (AntiDependencies::Any, None) => &[(0, 0)],
            (AntiDependencies::Any, Some(_)) => &[(0, ORDER)],
            (AntiDependencies::One, None) => &[(0, ANTI)],
            (AntiDependencies::One, Some(_)) => &[(0, ANTI | ORDER)],
            (AntiDependencies::Apart, None) => &[(0, 0), (ANTI, ANTI)],
            (AntiDependencies::Apart, Some(_)) => &[(0, ORDER), (ANTI, ANTI | ORDER)],
        }
    }
}

/// An edge of a cycle, between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CycleEdge {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) kind: EdgeKind,
    pub(super) version: u32,
}

/// Finds short cycles of the rules whose edge sets are cyclic. A rule is skipped if the cycle of an
/// earlier rule is an example for it too.
pub(super) fn short_cycles(
    resolved: &Resolved,
    graphs: &[Dependencies],
    failing: &[(u32, Window)],
    decision: impl Fn(EdgeSet) -> Decision,
) -> Vec<Vec<CycleEdge>> {
    let mut length = vec![None; resolved.nodes.len()];
    for (node, window) in failing {
        length[*node as usize] = Some(window.length());
    }
    let mut searches: Vec<CycleSearch<'_>> =
        graphs.iter().map(|graph| CycleSearch::new(graph, &length)).collect();
    let mut cycles = Vec::new();
    let (mut found, mut searched): (Vec<CycleRule>, Vec<CycleRule>) = (Vec::new(), Vec::new());
    let has_predicate = graphs.iter().any(|graph| graph.has_predicate);
    for rule in rules().filter(|rule| decision(rule.set()) == Decision::Cyclic) {
        // Without edges of ranges, a rule that permits them finds nothing new.
        let is_repeated = !has_predicate && searched.contains(&rule.without_ranges());
        if is_repeated || found.iter().any(|found| found.implies(rule)) {
            continue;
        }
        searched.push(rule);
        // A cycle without assumed edges is better. If there is none, no choice of gaps helped.
        let shortest = |searches: &mut Vec<CycleSearch<'_>>, with_assumed| {
            let found = searches.iter_mut().filter_map(|search| search.run(rule, with_assumed));
            found.min_by_key(Vec::len)
        };
        let cycle = shortest(&mut searches, false).or_else(|| shortest(&mut searches, true));
        if let Some(cycle) = cycle {
            cycles.push(cycle);
            found.push(rule);
        }
    }
    cycles
}

/// The search in one graph.
#[derive(Debug)]
struct CycleSearch<'a> {
    dependencies: &'a Dependencies,
    /// The nodes of the graph to start from, those with the shortest windows first.
    starts: Vec<u32>,
    /// The state and the edge before each state that was reached; a state is a node and its bits.
    previous: Vec<(u32, u32)>,
    reached: Vec<u32>,
    /// The components of the last rule: the next one often has the same edges.
    components: Option<(Edges, Components)>,
}

/// The edges that a search keeps: those of data, those of an order, whether two `rw` may be
/// adjacent, and whether assumed edges count.
type Edges = (EdgeSet, Option<EdgeKind>, bool, bool);

impl<'a> CycleSearch<'a> {
    fn new(dependencies: &'a Dependencies, length: &[Option<i64>]) -> Self {
        let members = dependencies.members.iter().enumerate();
        let mut starts: Vec<(i64, u32)> = members
            .filter_map(|(local, &member)| Some((length[member as usize]?, local as u32)))
            .collect();
        starts.sort_unstable();
        let starts = starts.into_iter().map(|(_, local)| local).collect();
        Self { dependencies, starts, previous: Vec::new(), reached: Vec::new(), components: None }
    }

    /// A short cycle of the rule.
    fn run(&mut self, rule: CycleRule, with_assumed: bool) -> Option<Vec<CycleEdge>> {
        if with_assumed && !self.dependencies.has_assumed {
            return None;
        }
        let keep = |label: Label| rule.contains(label.kind) && (with_assumed || !label.is_assumed);
        let adjacent = rule.anti == AntiDependencies::Any;
        let dependencies = self.dependencies;
        let edges = (rule.data, rule.order, adjacent, with_assumed);
        let known = self.components.take().filter(|(known, _)| *known == edges);
        let components = known.map_or_else(
            || components(dependencies, adjacent, |_, _, label| keep(label)),
            |(_, components)| components,
        );
        let shortest = self.shortest(rule, &components, keep);
        self.components = Some((edges, components));
        shortest
    }

    /// A short cycle of the rule inside the components.
    fn shortest(
        &mut self,
        rule: CycleRule,
        components: &Components,
        keep: impl Fn(Label) -> bool,
    ) -> Option<Vec<CycleEdge>> {
        if !components.has_cycle() {
            return None;
        }
        let (adjacent, dependencies) = (rule.anti == AntiDependencies::Any, self.dependencies);
        let is_cyclic = |local: u32| match adjacent {
            true => components.is_cyclic(local),
            false => components.is_cyclic(2 * local) || components.is_cyclic(2 * local + 1),
        };
        let starts: Vec<u32> = self
            .starts
            .iter()
            .copied()
            .filter(|&start| is_cyclic(start))
            .take(STARTS_MAX)
            .collect();
        self.previous.resize(4 * dependencies.graph.len(), (NONE, NONE));
        let mut shortest: Option<Vec<CycleEdge>> = None;
        let mut visits = 0;
        for (start, &(from, to)) in
            starts.iter().flat_map(|start| rule.ends().iter().map(move |ends| (*start, ends)))
        {
            if visits > VISITS_MAX && shortest.is_some() {
                break;
            }
            let found = self.search(rule, (4 * start + from, 4 * start + to), |label, to| {
                visits += 1;
                keep(label) && is_cyclic(to)
            });
            if let Some(found) = found.filter(|found| {
                shortest.as_ref().is_none_or(|shortest| found.len() < shortest.len())
            }) {
                shortest = Some(found);
            }
        }
        shortest
    }

    /// The shortest way from one state to another, by the number of transactions.
    fn search(
        &mut self,
        rule: CycleRule,
        (first, last): (u32, u32),
        mut keep: impl FnMut(Label, u32) -> bool,
    ) -> Option<Vec<CycleEdge>> {
        let mut queue = VecDeque::from([(first, NONE, NONE)]);
        let mut has_left = false;
        let mut end = None;
        while let Some((state, before, edge)) = queue.pop_front() {
            if has_left && state == last {
                end = Some((before, edge));
                break;
            }
            if has_left && (state == first || self.previous[state as usize].0 != NONE) {
                continue;
            }
            if has_left {
                self.previous[state as usize] = (before, edge);
                self.reached.push(state);
            }
            has_left = true;
            for edge in self.dependencies.row(state / 4) {
                let (to, label) = self.dependencies.graph.edge(edge);
                let Some(bits) = rule.step(state % 4, label.kind) else { continue };
                if keep(label, to) {
                    let next = (4 * to + bits, state, edge);
                    let is_time = to as usize >= self.dependencies.members.len();
                    if is_time { queue.push_front(next) } else { queue.push_back(next) }
                }
            }
        }
        let cycle = end.map(|end| self.cycle(first, end));
        for state in self.reached.drain(..) {
            self.previous[state as usize] = (NONE, NONE);
        }
        cycle
    }

    /// The cycle that ends with an edge from a state, without time nodes.
    fn cycle(&self, first: u32, (mut state, mut edge): (u32, u32)) -> Vec<CycleEdge> {
        let members = &self.dependencies.members;
        let mut edges = Vec::new();
        let mut to = None;
        loop {
            let (target, label) = self.dependencies.graph.edge(edge);
            let target = to.take().or_else(|| members.get(target as usize).copied());
            match (members.get(state as usize / 4), target) {
                (Some(&from), Some(to)) => {
                    edges.push(CycleEdge { from, to, kind: label.kind, version: label.version });
                }
                // From a time node: the edge continues to the left.
                (_, target) => to = target,
            }
            if state == first {
                break;
            }
            (state, edge) = self.previous[state as usize];
        }
        edges.reverse();
        edges
    }
}
