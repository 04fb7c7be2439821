//! What a history without an order of transactions shows about it.
//!
//! Each read of a list shows the order of its elements, and so of the transactions that appended
//! them:
//!
//! ```text
//! T1 appends 1 to x, T2 appends 2 to x, T3 appends 7 to y
//! T4 reads x: [1 2], y: []             T1 comes before T2; T3 comes after T4
//! order  T1: 1, T2: 2, T3: 3           T4 appends nothing
//! ```
//!
//! Positions of transactions that share no list are arbitrary: they follow the order of completions
//! where that is possible. A transaction has no position if it has appended to a key whose reads
//! contradict each other, if it and another transaction have elements of one key that no read
//! shows, or if it is on a cycle of the order or after one. So if every key is read after all
//! appends, no reads contradict each other, and the order has no cycle, all committed transactions
//! that append have a position.
//!
//! Source: Kingsbury and Alvaro, *Elle* (2020), section 4: version orders of lists.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;

use super::found::Found;
use super::lists::Lists;
use super::order::PrecedenceGraph;
use super::parsing::{Micro, Transaction};
use super::registers;
use crate::history::{ContradictionKind, Inference};

/// What was inferred.
pub(super) struct Inferred {
    /// The position of each transaction that could be ordered, from 1, by its place.
    pub(super) positions: BTreeMap<usize, i64>,
    pub(super) inference: Inference,
}

/// Infers the order of the transactions that append to lists, or what registers show.
pub(super) fn infer(transactions: &[Transaction], lists: Option<&Lists<'_>>) -> Inferred {
    let mut found = match lists {
        Some(lists) => lists.contradictions(),
        None => registers::contradictions(transactions),
    };
    for (place, transaction) in transactions.iter().enumerate() {
        let key = transaction.is_committed().then(|| internal_read(&transaction.micro)).flatten();
        found.extend(key.map(|key| Found {
            kind: ContradictionKind::InternalRead,
            transactions: vec![place],
            keys: vec![key],
        }));
    }
    let (mut positions, mut versions) = (BTreeMap::new(), 0);
    if let Some(lists) = lists {
        let (sorted, cycle) = order(lists).sort();
        found.extend(cycle.map(|cycle| Found::cycle(ContradictionKind::WriteCycle, cycle)));
        positions = sorted.into_iter().zip(1..).collect();
        let appends: BTreeSet<_> = lists.committed_appends().collect();
        let has_position = |(key, writer): &&(&Bytes, usize)| {
            positions.contains_key(writer) && lists.longest(key).is_some()
        };
        versions = appends.iter().filter(has_position).count();
    }
    let contradictions = found.into_iter().map(Found::report).collect();
    Inferred { positions, inference: Inference { versions, contradictions } }
}

/// The order that the lists show, of the transactions about which they show all.
fn order<'a>(lists: &Lists<'a>) -> PrecedenceGraph<'a> {
    let (unread, bad_keys) = (lists.unread(), lists.unordered());
    let mut unordered: BTreeSet<usize> =
        unread.values().filter(|writers| writers.len() > 1).flatten().copied().collect();
    let bad = lists.committed_appends().filter(|(key, _)| bad_keys.contains(key));
    unordered.extend(bad.map(|(_, writer)| writer));
    let mut order = PrecedenceGraph::default();
    for key in lists.keys().filter(|key| !bad_keys.contains(key)) {
        let mut chain = lists.chain(key);
        // What no read shows comes after the longest list.
        chain.extend(unread.get(key).into_iter().flatten());
        chain.retain(|writer| !unordered.contains(writer));
        chain.dedup();
        chain.iter().for_each(|&writer| order.insert(writer));
        chain.windows(2).for_each(|pair| order.add(pair[0], pair[1], key));
    }
    order
}

/// What a transaction must read of a key.
enum Expected {
    Value(Value),
    /// A list that ends with these elements.
    End(Vec<Value>),
}

/// The key of a read that differs from what the transaction has read or written before.
///
/// Source: `op-int-case` in `list_append.clj` of Elle; Cerone, Bernardi and Gotsman, *A Framework
/// for Transactional Consistency Models* (2015), the axiom INT.
fn internal_read(micro: &[Micro]) -> Option<&Bytes> {
    let empty = Value::Array(Vec::new());
    let is_same = |a: &Value, b: &Value| {
        a == b || [a, b].iter().all(|value| value.is_null() || **value == empty)
    };
    let mut state = BTreeMap::new();
    for (function, key, value) in micro {
        match function.as_str() {
            "w" => drop(state.insert(key, Expected::Value(value.clone()))),
            "append" => match state.entry(key).or_insert_with(|| Expected::End(Vec::new())) {
                Expected::Value(Value::Array(list)) | Expected::End(list) => {
                    list.push(value.clone());
                }
                Expected::Value(other) => *other = Value::Array(vec![value.clone()]),
            },
            _ => {
                let fits = match state.get(key) {
                    None => true,
                    Some(Expected::Value(known)) => is_same(known, value),
                    Some(Expected::End(end)) => {
                        value.as_array().is_some_and(|list| list.ends_with(end))
                    }
                };
                if !fits {
                    return Some(key);
                }
                state.insert(key, Expected::Value(value.clone()));
            }
        }
    }
    None
}
