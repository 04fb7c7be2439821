//! Reads of registers that contradict the writes, in a history without the order of versions.
//!
//! A value that one transaction has written to a key shows its writer:
//!
//! ```text
//! T1 writes x = 1, reads y = 2
//! T2 writes y = 2, reads x = 1       each has read what the other wrote: a read cycle
//! ```
//!
//! Which of two values of a register came first is not known, so no other cycles are found.
//!
//! Source: `g1a-cases`, `g1b-cases` and `wr-graph` in `rw_register.clj` of Elle.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::found::Found;
use super::order::PrecedenceGraph;
use super::parsing::{Outcome, Transaction};
use super::scalar::to_string;
use crate::history::ContradictionKind;

/// The write of a value: the transaction, and whether it has written another value later.
struct ValueWrite {
    writer: usize,
    is_replaced: bool,
}

/// What contradicts the writes.
pub(super) fn contradictions(transactions: &[Transaction]) -> Vec<Found<'_>> {
    let writes = writes(transactions);
    let mut found = Vec::new();
    let mut order = PrecedenceGraph::default();
    for (reader, transaction) in transactions.iter().enumerate() {
        if !transaction.is_committed() {
            continue;
        }
        let mut known = BTreeSet::new();
        for (function, key, value) in &transaction.micro {
            // Only the first read shows what other transactions wrote.
            if !known.insert(key) || function != "r" {
                continue;
            }
            let Some(value) = to_string(value) else { continue };
            let (kind, writer) = match writes.get(&(key, value)).map(Vec::as_slice) {
                None => (ContradictionKind::GarbageRead, None),
                Some([write]) => {
                    let writer = write.writer;
                    let kind = match transactions[writer].outcome {
                        _ if writer == reader => ContradictionKind::FutureRead,
                        Outcome::Aborted => ContradictionKind::AbortedRead,
                        _ if write.is_replaced => ContradictionKind::IntermediateRead,
                        _ => {
                            order.add(writer, reader, key);
                            continue;
                        }
                    };
                    (kind, Some(writer).filter(|&writer| writer != reader))
                }
                Some(_) => continue,
            };
            let transactions = [reader].into_iter().chain(writer).collect();
            found.push(Found { kind, transactions, keys: vec![key] });
        }
    }
    let cycle = order.sort().1;
    found.extend(cycle.map(|cycle| Found::cycle(ContradictionKind::ReadCycle, cycle)));
    found
}

/// The writes of each value of each key.
fn writes(transactions: &[Transaction]) -> BTreeMap<(&Bytes, String), Vec<ValueWrite>> {
    let mut writes = BTreeMap::<_, Vec<_>>::new();
    for (writer, transaction) in transactions.iter().enumerate() {
        let mut replaced = BTreeSet::new();
        for (function, key, value) in transaction.micro.iter().rev() {
            if let ("w", Some(value)) = (function.as_str(), to_string(value)) {
                let is_replaced = !replaced.insert(key);
                writes.entry((key, value)).or_default().push(ValueWrite { writer, is_replaced });
            }
        }
    }
    writes
}
