//! The dependency graph: which transaction comes before which, and why.
//!
//! ```text
//! T1 puts x@3        T1 → T2  wr   T2 read what T1 wrote
//! T2 reads x@3       T1 → T3  ww   T3 overwrote what T1 wrote
//! T3 puts x@5        T2 → T3  rw   T3 overwrote what T2 read
//! ```
//!
//! An absent key is a read in one of several gaps (see `versions.rs`), and it is not known in
//! which. What every gap implies is an edge: the transaction comes after the deletion that
//! starts the first gap, and before the put that ends the last one. The edges of one gap, that near
//! the place of the transaction, are *assumed*: a cycle through them shows nothing unless it
//! survives every gap.
//!
//! # Real time
//!
//! Transactions that ended before another one began are not linked to it one by one. A chain of
//! *time nodes*, one for each time at which a transaction began, makes the number of edges linear:
//!
//! ```text
//! T1 ──ended──┐      ┌── T2 ended ──┐
//!             ▼      │              ▼
//! time nodes  t1 ────│────────────▶ t2        T1 → t1 → T2; T1 → t1 → t2 → T3; T2 → t2 → T3
//!             │      │              │
//!             └──▶ T2 began         └──▶ T3 began
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use super::edge_kind::EdgeKind;
use super::graph::Graph;
use super::log::{KeyId, NONE, rows};
use super::resolved::{Node, Resolved};
use super::snapshots::{Places, near};
use super::versions::Gap;

/// The label of an edge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    pub(super) kind: EdgeKind,
    /// Whether the edge follows from one of several gaps.
    pub(super) is_assumed: bool,
    /// The version that was read (`wr`) or written by the second transaction (`ww`, `rw`).
    pub(super) version: u32,
}

/// Gaps that are chosen for absent reads, by node and key.
pub(super) type GapChoices = BTreeMap<(u32, KeyId), Gap>;

/// The dependency graph of some nodes. Its node `i` is `members[i]`; nodes above are time nodes.
#[derive(Debug)]
pub(super) struct Dependencies {
    pub(super) members: Vec<u32>,
    pub(super) graph: Graph<Label>,
    /// Whether an edge is assumed.
    pub(super) has_assumed: bool,
    /// Whether an edge is from a range.
    pub(super) has_predicate: bool,
}

/// Builds dependency graphs.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    resolved: &'a Resolved,
    places: &'a Places,
    choices: &'a GapChoices,
    /// Whether only edges are built that no other event can take back.
    is_certain: bool,
    /// The number of each node in the graph; `NONE` if it is not in it.
    local: Vec<u32>,
    edges: Vec<(u32, u32, Label)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(resolved: &'a Resolved, places: &'a Places, choices: &'a GapChoices) -> Self {
        Self {
            resolved,
            places,
            choices,
            is_certain: false,
            local: vec![NONE; resolved.nodes.len()],
            edges: Vec::new(),
        }
    }

    /// Leaves out what other events of the history could take back: that a key was absent, because
    /// the key may have been deleted later, and the reads and times of commits with unknown
    /// outcome.
    pub(super) const fn certain(mut self) -> Self {
        self.is_certain = true;
        self
    }

    /// The graph of all nodes.
    pub(super) fn whole(&mut self) -> Dependencies {
        let versions = 0..self.resolved.versions.all.len() as u32;
        self.build((0..self.resolved.nodes.len() as u32).collect(), versions)
    }

    /// The graph of some nodes, with the overwrites of some versions.
    pub(super) fn build(
        &mut self,
        members: Vec<u32>,
        versions: impl IntoIterator<Item = u32>,
    ) -> Dependencies {
        for (local, &member) in members.iter().enumerate() {
            self.local[member as usize] = local as u32;
        }
        for version in versions {
            self.add_overwrites(version);
        }
        for &member in &members {
            self.add_reads(member);
        }
        let mut nodes = members.len() as u32;
        let process = |node: &Node| (node.process != NONE).then_some(node.process);
        nodes = self.add_order(&members, nodes, EdgeKind::Session, process);
        nodes = self.add_order(&members, nodes, EdgeKind::RealTime, |_| Some(0));
        for &member in &members {
            self.local[member as usize] = NONE;
        }
        let graph = Graph::new(nodes as usize, &self.edges);
        let has_assumed = self.edges.iter().any(|(.., label)| label.is_assumed);
        let has_predicate = self.edges.iter().any(|(.., label)| label.kind.is_predicate());
        self.edges.clear();
        Dependencies { members, graph, has_assumed, has_predicate }
    }

    /// Adds an edge between two nodes, unless one is not in the graph.
    fn link(&mut self, from: Option<u32>, to: Option<u32>, label: Label) {
        let (Some(from), Some(to)) = (from, to) else { return };
        let (local_from, local_to) = (self.local[from as usize], self.local[to as usize]);
        if from != to && local_from != NONE && local_to != NONE {
            self.edges.push((local_from, local_to, label));
        }
    }

    /// Adds the edge from the writer of the version before.
    fn add_overwrites(&mut self, version: u32) {
        let versions = &self.resolved.versions;
        let is_first = versions.first(versions.get(version).key) == Some(version);
        if !is_first {
            let label = Label { kind: EdgeKind::WriteWrite, is_assumed: false, version };
            self.link(versions.writer(version - 1), versions.writer(version), label);
        }
    }

    fn add_reads(&mut self, member: u32) {
        let resolved = self.resolved;
        let (versions, node) = (&resolved.versions, &resolved.nodes[member as usize]);
        if self.is_certain && resolved.is_matched(node) {
            return;
        }
        for read in rows(&resolved.log.reads, &node.read_set.reads) {
            if read.version == NONE {
                continue;
            }
            let label =
                Label { kind: EdgeKind::WriteRead, is_assumed: false, version: read.version };
            self.link(versions.writer(read.version), Some(member), label);
            if let Some(version) = versions.next(read.version) {
                let label = Label { kind: EdgeKind::ReadWrite, is_assumed: false, version };
                self.link(Some(member), versions.writer(version), label);
            }
        }
        if self.is_certain {
            return;
        }
        let position = near(node, self.places.position[member as usize]);
        resolved.each_absent(&node.read_set, |key, is_predicate| {
            let mut gaps = versions.gaps_for(member, key);
            let Some(first) = gaps.next() else { return };
            match (gaps.last(), self.choices.get(&(member, key))) {
                (None, _) => self.add_gap(member, first, is_predicate, false),
                (_, Some(&chosen)) => self.add_gap(member, chosen, is_predicate, false),
                (Some(last), None) => {
                    let implied = Gap { start: first.start, end: last.end };
                    self.add_gap(member, implied, is_predicate, false);
                    if let Some(assumed) = versions.gap_near(member, key, position) {
                        self.add_gap(member, assumed, is_predicate, true);
                    }
                }
            }
        });
    }

    fn add_gap(&mut self, member: u32, gap: Gap, is_predicate: bool, is_assumed: bool) {
        let versions = &self.resolved.versions;
        let (after, before) = if is_predicate {
            (EdgeKind::PredicateWriteRead, EdgeKind::PredicateReadWrite)
        } else {
            (EdgeKind::WriteRead, EdgeKind::ReadWrite)
        };
        if let Some(version) = gap.start {
            let label = Label { kind: after, is_assumed, version };
            self.link(versions.writer(version), Some(member), label);
        }
        if let Some(version) = gap.end {
            let label = Label { kind: before, is_assumed, version };
            self.link(Some(member), versions.writer(version), label);
        }
    }

    /// Adds the order in time of the transactions of each group, with time nodes from `next` on.
    /// Returns the number of nodes.
    fn add_order(
        &mut self,
        members: &[u32],
        next: u32,
        kind: EdgeKind,
        group: impl Fn(&Node) -> Option<u32>,
    ) -> u32 {
        let nodes = &self.resolved.nodes;
        let label = Label { kind, is_assumed: false, version: NONE };
        let mut begins: Vec<(u32, u64, u32)> = Vec::new();
        for (local, &member) in members.iter().enumerate() {
            let node = &nodes[member as usize];
            let has_times =
                node.attempt != NONE && !(self.is_certain && self.resolved.is_matched(node));
            if let (true, Some(group)) = (has_times, group(node)) {
                begins.push((group, node.began, local as u32));
            }
        }
        begins.sort_unstable();
        let mut times: Vec<(u32, u64)> = Vec::new();
        for &(group, began, local) in &begins {
            if times.last() != Some(&(group, began)) {
                if times.last().is_some_and(|(previous, _)| *previous == group) {
                    let time = next + times.len() as u32;
                    self.edges.push((time - 1, time, label));
                }
                times.push((group, began));
            }
            self.edges.push((next + times.len() as u32 - 1, local, label));
        }
        for &(group, _, local) in &begins {
            let ended = nodes[members[local as usize] as usize].ended;
            let time = times.partition_point(|time| *time <= (group, ended));
            if times.get(time).is_some_and(|(other, _)| *other == group) {
                self.edges.push((local, next + time as u32, label));
            }
        }
        next + times.len() as u32
    }
}

impl Dependencies {
    /// The node of a node of the graph; `None` for a time node.
    pub(super) fn node<'a>(&self, resolved: &'a Resolved, local: u32) -> Option<&'a Node> {
        self.members.get(local as usize).map(|&member| &resolved.nodes[member as usize])
    }

    /// The edges of a node of the graph.
    pub(super) fn row(&self, local: u32) -> Range<u32> {
        self.graph.row(local)
    }
}
