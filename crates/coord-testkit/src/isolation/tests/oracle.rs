//! The definition of each level, by brute force: is there an order of the transactions that a store
//! with this level could have executed them in?
//!
//! ```text
//! strict serializable   each transaction reads the versions that are current at its position in
//!                       the order, and everything that ended before it began is before it
//! serializable          the same without times
//! repeatable read       the same without the keys of a range that were not found
//! read committed        each version that is read was written before
//! snapshot isolation    each transaction reads the versions at an earlier point of the order, and
//!                       none of the keys that it writes was written since
//! ```
//!
//! Versions are written in the order of their revisions. The state of the store depends only on the
//! set of transactions that were executed, so each set is visited once. For snapshot isolation all
//! orders are tried, because which snapshots a transaction may have depends on the order.

use std::collections::BTreeSet;

use coord_core::stm::Isolation;

use super::super::Level;
use super::generator::{Executed, Execution};

/// How a read is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadRule {
    /// Not at all.
    Ignored,
    /// The version was written before.
    Written,
    /// The version is the current one.
    Current,
}

/// Whether an execution is possible at a level; at what each transaction declares, if it is `None`.
pub(super) fn permits(execution: &Execution, level: Option<Level>) -> bool {
    let oracle = SearchOfOrders { execution, level };
    if level == Some(Level::SnapshotIsolation) {
        return oracle.has_snapshots(&mut Vec::new());
    }
    oracle.has_order(0, &mut BTreeSet::new())
}

#[derive(Debug)]
struct SearchOfOrders<'a> {
    execution: &'a Execution,
    level: Option<Level>,
}

impl SearchOfOrders<'_> {
    fn len(&self) -> usize {
        self.execution.transactions.len()
    }

    /// Whether the transactions that are not in the set `done` can be ordered.
    fn has_order(&self, done: u32, seen: &mut BTreeSet<u32>) -> bool {
        if done.count_ones() as usize == self.len() {
            return true;
        }
        if !seen.insert(done) {
            return false;
        }
        (0..self.len()).any(|next| {
            done & (1 << next) == 0
                && self.can_follow(done, next)
                && self.has_order(done | 1 << next, seen)
        })
    }

    fn can_follow(&self, done: u32, next: usize) -> bool {
        let transactions = &self.execution.transactions;
        let transaction = &transactions[next];
        let is_done = |other: usize| done & (1 << other) != 0;
        let in_time = !self.follows_real_time(transaction)
            || (0..self.len()).all(|other| {
                is_done(other) || other == next || !ended_before(&transactions[other], transaction)
            });
        let installed = self.installed(is_done);
        in_time
            && self.writes_in_order(&installed, transaction)
            && transaction.reads.iter().all(|&(key, revision, is_predicate)| {
                match self.rule(transaction, is_predicate) {
                    ReadRule::Ignored => true,
                    ReadRule::Current => self.current(key, installed[key]) == revision,
                    ReadRule::Written => self.was_written(key, installed[key], revision),
                }
            })
    }

    /// How many versions of each key are installed.
    fn installed(&self, is_done: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut installed = vec![0; self.execution.versions.len()];
        for (_, done) in self.execution.transactions.iter().enumerate().filter(|(i, _)| is_done(*i))
        {
            for (key, _) in &done.writes {
                installed[*key] += 1;
            }
        }
        installed
    }

    /// Whether the versions that a transaction writes are the next ones.
    fn writes_in_order(&self, installed: &[usize], transaction: &Executed) -> bool {
        transaction.writes.iter().all(|(key, _)| {
            self.execution.versions[*key][installed[*key]].0 == transaction.revision
        })
    }

    fn current(&self, key: usize, installed: usize) -> Option<i64> {
        let (revision, exists) = *self.execution.versions[key][..installed].last()?;
        exists.then_some(revision)
    }

    fn was_written(&self, key: usize, installed: usize, revision: Option<i64>) -> bool {
        let installed = &self.execution.versions[key][..installed];
        match revision {
            Some(_) => installed.iter().any(|version| Some(version.0) == revision),
            None => {
                let starts_absent = self.execution.versions[key][0].1;
                starts_absent || installed.iter().any(|version| !version.1)
            }
        }
    }

    /// How a transaction's reads are checked at the level.
    fn rule(&self, transaction: &Executed, is_predicate: bool) -> ReadRule {
        use Isolation::{ReadCommitted, RepeatableReads};
        let item = if is_predicate { ReadRule::Ignored } else { ReadRule::Current };
        match (self.level, transaction.isolation) {
            (Some(Level::ReadUncommitted), _) => ReadRule::Ignored,
            (Some(Level::ReadCommitted | Level::CoordReadCommitted), _)
            | (None, Some(ReadCommitted)) => {
                if is_predicate {
                    ReadRule::Ignored
                } else {
                    ReadRule::Written
                }
            }
            (Some(Level::RepeatableRead | Level::CoordRepeatableReads), _)
            | (None, Some(RepeatableReads)) => item,
            _ => ReadRule::Current,
        }
    }

    /// Whether a transaction must come after those that ended before it began.
    fn follows_real_time(&self, transaction: &Executed) -> bool {
        let writes = !transaction.writes.is_empty();
        match (self.level, transaction.isolation) {
            (
                Some(
                    Level::StrictSerializable
                    | Level::CoordSerializable
                    | Level::CoordSerializableSnapshot,
                ),
                _,
            )
            | (None, Some(Isolation::Serializable | Isolation::SerializableSnapshot)) => true,
            (Some(Level::CoordRepeatableReads), _) | (None, Some(Isolation::RepeatableReads)) => {
                writes
            }
            _ => false,
        }
    }

    /// Whether the transactions that are not in `order` can follow, each with a snapshot.
    fn has_snapshots(&self, order: &mut Vec<usize>) -> bool {
        if order.len() == self.len() {
            return true;
        }
        (0..self.len()).any(|next| {
            if order.contains(&next) || !self.has_snapshot(order, next) {
                return false;
            }
            order.push(next);
            let found = self.has_snapshots(order);
            order.pop();
            found
        })
    }

    fn has_snapshot(&self, order: &[usize], next: usize) -> bool {
        let transactions = &self.execution.transactions;
        let transaction = &transactions[next];
        if !self.writes_in_order(&self.installed(|i| order.contains(&i)), transaction) {
            return false;
        }
        (0..=order.len()).any(|start| {
            let installed = self.installed(|i| order[..start].contains(&i));
            let conflicts = order[start..].iter().any(|&other| {
                let theirs = &transactions[other].writes;
                theirs.iter().any(|(key, _)| transaction.writes.iter().any(|(own, _)| own == key))
            });
            !conflicts
                && transaction
                    .reads
                    .iter()
                    .all(|&(key, revision, _)| self.current(key, installed[key]) == revision)
        })
    }
}

fn ended_before(first: &Executed, second: &Executed) -> bool {
    match (first.span, second.span) {
        (Some((_, ended)), Some((began, _))) => ended < began,
        _ => false,
    }
}
