//! A directed graph with labelled edges in compressed rows, and its strongly connected components.
//!
//! The edges of node 0 come first, then those of node 1; `offsets` has where each row starts:
//!
//! ```text
//! edges    0→1 ww, 0→2 rw, 2→0 wr
//! offsets  0     2  2     3
//! targets  1  2     0
//! labels   ww rw    wr
//! ```

use std::ops::Range;

use super::log::NONE;

/// A graph.
#[derive(Debug, Default)]
pub(super) struct Graph<L> {
    offsets: Vec<u32>,
    targets: Vec<u32>,
    labels: Vec<L>,
}

impl<L: Copy> Graph<L> {
    /// The graph of `nodes` nodes with these edges.
    pub(super) fn new(nodes: usize, edges: &[(u32, u32, L)]) -> Self {
        let mut offsets = vec![0_u32; nodes + 1];
        for (from, ..) in edges {
            offsets[*from as usize + 1] += 1;
        }
        for node in 0..nodes {
            offsets[node + 1] += offsets[node];
        }
        let mut next = offsets.clone();
        let mut targets = vec![0; edges.len()];
        let mut labels: Vec<L> = edges.iter().map(|(.., label)| *label).collect();
        for (from, to, label) in edges {
            let slot = &mut next[*from as usize];
            targets[*slot as usize] = *to;
            labels[*slot as usize] = *label;
            *slot += 1;
        }
        Self { offsets, targets, labels }
    }

    /// The number of nodes.
    pub(super) fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The number of edges.
    pub(super) fn edge_count(&self) -> usize {
        self.targets.len()
    }

    /// The edges of a node, as indices.
    pub(super) fn row(&self, node: u32) -> Range<u32> {
        self.offsets[node as usize]..self.offsets[node as usize + 1]
    }

    /// The target and the label of an edge.
    pub(super) fn edge(&self, edge: u32) -> (u32, L) {
        (self.targets[edge as usize], self.labels[edge as usize])
    }
}

/// The strongly connected components of a graph.
#[derive(Debug)]
pub(super) struct Components {
    /// The component of each node.
    pub(super) of: Vec<u32>,
    /// The number of nodes of each component.
    sizes: Vec<u32>,
}

impl Components {
    /// Finds the components of a graph with `nodes` nodes. `row` returns the edges of a node;
    /// `target` the target of an edge of a node, or `None` if the edge does not count.
    ///
    /// Source: Tarjan, *Depth-First Search and Linear Graph Algorithms* (1972), without recursion.
    pub(super) fn new(
        nodes: usize,
        row: impl Fn(u32) -> Range<u32>,
        target: impl Fn(u32, u32) -> Option<u32>,
    ) -> Self {
        let mut of = vec![NONE; nodes];
        let mut sizes = Vec::new();
        // When each node was first visited, and the earliest visited node that it reaches.
        let mut visit = vec![NONE; nodes];
        let mut low = vec![0_u32; nodes];
        let mut visited = 0;
        let mut open: Vec<u32> = Vec::new();
        let mut path: Vec<(u32, Range<u32>)> = Vec::new();
        for root in 0..nodes as u32 {
            if visit[root as usize] != NONE {
                continue;
            }
            let mut entered = Some(root);
            while let Some(node) = entered.take() {
                visit[node as usize] = visited;
                low[node as usize] = visited;
                visited += 1;
                open.push(node);
                path.push((node, row(node)));
                while let Some((node, edges)) = path.last_mut() {
                    let node = *node;
                    if let Some(edge) = edges.next() {
                        let Some(to) = target(node, edge) else { continue };
                        if visit[to as usize] == NONE {
                            entered = Some(to);
                            break;
                        }
                        if of[to as usize] == NONE {
                            low[node as usize] = low[node as usize].min(visit[to as usize]);
                        }
                        continue;
                    }
                    path.pop();
                    if let Some((parent, _)) = path.last() {
                        low[*parent as usize] = low[*parent as usize].min(low[node as usize]);
                    }
                    if low[node as usize] == visit[node as usize] {
                        let component = sizes.len() as u32;
                        let mut size = 0;
                        while let Some(member) = open.pop() {
                            of[member as usize] = component;
                            size += 1;
                            if member == node {
                                break;
                            }
                        }
                        sizes.push(size);
                    }
                }
            }
        }
        Self { of, sizes }
    }

    /// Whether a node is in a component of several nodes: on a cycle.
    pub(super) fn is_cyclic(&self, node: u32) -> bool {
        self.sizes[self.of[node as usize] as usize] > 1
    }

    /// Whether there is a cycle.
    pub(super) fn has_cycle(&self) -> bool {
        self.sizes.iter().any(|&size| size > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components(nodes: usize, edges: &[(u32, u32, ())]) -> Components {
        let graph = Graph::new(nodes, edges);
        Components::new(nodes, |node| graph.row(node), |_, edge| Some(graph.edge(edge).0))
    }

    #[test]
    fn chain_has_no_cycle() {
        let edges: Vec<_> = (0..99_999).map(|node| (node, node + 1, ())).collect();
        assert!(!components(100_000, &edges).has_cycle());
    }

    #[test]
    fn two_cycles_with_a_bridge_are_two_components() {
        let edges = [(0, 1, ()), (1, 0, ()), (1, 2, ()), (2, 3, ()), (3, 2, ()), (3, 4, ())];
        let components = components(5, &edges);
        let cyclic: Vec<_> = (0..5).map(|node| components.is_cyclic(node)).collect();
        assert_eq!(cyclic, [true, true, true, true, false]);
        assert_ne!(components.of[0], components.of[2]);
    }

    #[test]
    fn long_cycle_is_one_component() {
        let edges: Vec<_> = (0..100_000).map(|node| (node, (node + 1) % 100_000, ())).collect();
        assert!(components(100_000, &edges).is_cyclic(99_999));
    }
}
