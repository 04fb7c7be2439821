//! An order of transactions that keeps to given edges, or a cycle of these.
//!
//! ```text
//! edges 0 → 2, 2 → 1        order 0 2 1
//! edges 0 → 1, 1 → 0        no order: cycle 0 1
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

/// Edges between transactions, each with the key that it follows from.
#[derive(Default)]
pub(super) struct PrecedenceGraph<'a> {
    after: BTreeMap<usize, BTreeMap<usize, &'a Bytes>>,
    /// The number of edges to each transaction.
    before: BTreeMap<usize, usize>,
}

/// A cycle: each transaction, with the key of the edge to the next one.
pub(super) type Cycle<'a> = Vec<(usize, &'a Bytes)>;

impl<'a> PrecedenceGraph<'a> {
    /// Adds a transaction.
    pub(super) fn insert(&mut self, transaction: usize) {
        self.before.entry(transaction).or_default();
    }

    /// Adds an edge.
    pub(super) fn add(&mut self, from: usize, to: usize, key: &'a Bytes) {
        self.insert(from);
        self.insert(to);
        if self.after.entry(from).or_default().insert(to, key).is_none() {
            *self.before.entry(to).or_default() += 1;
        }
    }

    /// The transactions in order, those with a lower number first where the edges permit it. With a
    /// cycle, the order ends before it, and the cycle is returned too.
    pub(super) fn sort(mut self) -> (Vec<usize>, Option<Cycle<'a>>) {
        let ready = self.before.iter().filter(|(_, count)| **count == 0);
        let mut ready: BTreeSet<usize> = ready.map(|(transaction, _)| *transaction).collect();
        let mut sorted = Vec::new();
        while let Some(transaction) = ready.pop_first() {
            sorted.push(transaction);
            self.before.remove(&transaction);
            for next in self.after.get(&transaction).into_iter().flat_map(BTreeMap::keys) {
                let Some(count) = self.before.get_mut(next) else { continue };
                *count -= 1;
                if *count == 0 {
                    ready.insert(*next);
                }
            }
        }
        let cycle = self.cycle();
        (sorted, cycle)
    }

    /// A short cycle of the transactions that are left. Each of them comes after another one that
    /// is left, so a walk against the edges ends in a cycle.
    fn cycle(&self) -> Option<Cycle<'a>> {
        let mut previous = BTreeMap::new();
        for &from in self.before.keys() {
            for &to in self.after.get(&from).into_iter().flat_map(BTreeMap::keys) {
                previous.insert(to, from);
            }
        }
        let mut at = *self.before.keys().next()?;
        let mut seen = BTreeSet::new();
        while seen.insert(at) {
            at = *previous.get(&at)?;
        }
        // The shortest cycle through the transaction, breadth first.
        let mut reached_from = BTreeMap::new();
        let mut queue = VecDeque::from([at]);
        while let Some(from) = queue.pop_front() {
            for (&to, &key) in self.after.get(&from).into_iter().flatten() {
                if reached_from.contains_key(&to) || !self.before.contains_key(&to) {
                    continue;
                }
                reached_from.insert(to, (from, key));
                if to == at {
                    return Some(Self::walk(at, &reached_from));
                }
                queue.push_back(to);
            }
        }
        None
    }

    fn walk(end: usize, reached_from: &BTreeMap<usize, (usize, &'a Bytes)>) -> Cycle<'a> {
        let mut cycle = Vec::new();
        let mut at = end;
        while let Some(&(from, key)) = reached_from.get(&at) {
            cycle.push((from, key));
            at = from;
            if at == end {
                break;
            }
        }
        cycle.reverse();
        cycle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(edges: &[(usize, usize)]) -> (Vec<usize>, Option<Vec<usize>>) {
        let key = Bytes::new();
        let mut order = PrecedenceGraph::default();
        edges.iter().for_each(|(from, to)| order.add(*from, *to, &key));
        let (sorted, cycle) = order.sort();
        let numbers = |cycle: Cycle<'_>| cycle.into_iter().map(|(number, _)| number).collect();
        (sorted, cycle.map(numbers))
    }

    #[test]
    fn edges_without_a_cycle_are_sorted() {
        assert_eq!(sorted(&[(0, 3), (3, 1), (0, 2), (0, 3)]), (vec![0, 2, 3, 1], None));
    }

    /// Regression: a transaction without an edge to another one ended the search.
    #[test]
    fn cycle_before_a_last_transaction_is_found() {
        for edges in [&[(1, 2), (2, 1), (1, 0)][..], &[(0, 1), (1, 2), (2, 0), (0, 9)]] {
            let (order, cycle) = sorted(edges);
            assert_eq!(order, Vec::<usize>::new(), "{edges:?}");
            assert!(cycle.is_some(), "{edges:?}");
        }
    }

    #[test]
    fn shortest_cycle_through_a_transaction_is_found() {
        // 0 comes before the cycle, 9 after it.
        let edges = [(0, 1), (1, 2), (2, 3), (3, 1), (3, 9), (2, 4), (4, 5), (5, 1)];
        let (sorted, cycle) = sorted(&edges);
        assert_eq!(sorted, [0]);
        let mut cycle = cycle.expect("there is a cycle");
        cycle.sort_unstable();
        assert!(cycle == [1, 2, 3] || cycle == [1, 2, 4, 5], "{cycle:?}");
    }
}
