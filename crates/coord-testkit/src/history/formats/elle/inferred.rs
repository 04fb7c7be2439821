//! The order of transactions of a list-append history, inferred from the lists that were read.
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
//! where that is possible. Two transactions whose elements no read of a key shows have no position.
//! None has one if the lists contradict each other, or show elements
//! of transactions that failed, of none, or of two, or a part of what a transaction has appended.
//!
//! Source: Kingsbury and Alvaro, *Elle* (2020), section 4: version orders of lists.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::reading::{Operation, list, longest_lists};
use super::scalar::to_string;

/// The position of each transaction that has one, by the place of its completion in `operations`;
/// `None` if the order cannot be inferred.
pub(super) fn positions(operations: &[Operation]) -> Option<BTreeMap<usize, i64>> {
    let writers = writers(operations)?;
    let mut after: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut before_count: BTreeMap<usize, usize> = BTreeMap::new();
    let longest = longest_lists(operations);
    let unread = unread(&writers, &longest, operations);
    let unordered: BTreeSet<usize> =
        unread.values().filter(|writers| writers.len() > 1).flatten().copied().collect();
    for (key, elements) in &longest {
        let mut chain = chain(key, elements, &writers, operations)?;
        // What no read shows comes after the longest list.
        let after_all = unread.get(key).into_iter().flatten().copied();
        chain.extend(after_all.filter(|writer| !chain.contains(writer)).collect::<Vec<_>>());
        chain.retain(|writer| !unordered.contains(writer));
        for &writer in &chain {
            before_count.entry(writer).or_default();
        }
        for pair in chain.windows(2) {
            if after.entry(pair[0]).or_default().insert(pair[1]) {
                *before_count.entry(pair[1]).or_default() += 1;
            }
        }
    }
    let mut places = (0..).zip(operations);
    if !places.all(|(place, operation)| fits(place, operation, &longest, &writers)) {
        return None;
    }
    // The ready transaction that completed first comes next.
    let is_ready = |(_, count): &(&usize, &usize)| **count == 0;
    let mut ready: BTreeSet<usize> =
        before_count.iter().filter(is_ready).map(|(writer, _)| *writer).collect();
    let mut positions = BTreeMap::new();
    while let Some(writer) = ready.pop_first() {
        positions.insert(writer, i64::try_from(positions.len()).ok()? + 1);
        for &next in after.get(&writer).into_iter().flatten() {
            let count = before_count.get_mut(&next)?;
            *count -= 1;
            if *count == 0 {
                ready.insert(next);
            }
        }
    }
    (positions.len() == before_count.len()).then_some(positions)
}

/// The completion that has appended each element, if there is only one for each.
fn writers(operations: &[Operation]) -> Option<BTreeMap<(&Bytes, String), usize>> {
    let mut writers = BTreeMap::new();
    for (place, operation) in operations.iter().enumerate() {
        if operation.kind == "invoke" {
            continue;
        }
        for (function, key, value) in &operation.micro {
            if function == "append" {
                let earlier = writers.insert((key, to_string(value)?), place);
                if earlier.is_some() {
                    return None;
                }
            }
        }
    }
    Some(writers)
}

/// The committed transactions with an element that no read of its key shows. Of two such
/// transactions of one key the order is not known.
fn unread<'a>(
    writers: &BTreeMap<(&'a Bytes, String), usize>,
    longest: &BTreeMap<Bytes, Vec<String>>,
    operations: &[Operation],
) -> BTreeMap<&'a Bytes, BTreeSet<usize>> {
    let mut unread = BTreeMap::<_, BTreeSet<_>>::new();
    for ((key, element), &writer) in writers {
        let is_unread = longest.get(*key).is_some_and(|list| !list.contains(element));
        if is_unread && operations[writer].kind == "ok" {
            unread.entry(*key).or_default().insert(writer);
        }
    }
    unread
}

/// The transactions that have appended to a list, in order.
fn chain(
    key: &Bytes,
    elements: &[String],
    writers: &BTreeMap<(&Bytes, String), usize>,
    operations: &[Operation],
) -> Option<Vec<usize>> {
    let mut chain = Vec::new();
    for element in elements {
        let writer = *writers.get(&(key, element.clone()))?;
        if operations[writer].kind == "fail" {
            return None;
        }
        if chain.last() != Some(&writer) {
            chain.push(writer);
        }
    }
    // A transaction in two places has appended in between.
    let distinct: BTreeSet<&usize> = chain.iter().collect();
    (distinct.len() == chain.len()).then_some(chain)
}

/// Whether each list that an operation has read is the beginning of the longest one, and ends with
/// all that a transaction has appended.
fn fits(
    place: usize,
    operation: &Operation,
    longest: &BTreeMap<Bytes, Vec<String>>,
    writers: &BTreeMap<(&Bytes, String), usize>,
) -> bool {
    if operation.kind != "ok" {
        return true;
    }
    let mut written = BTreeSet::new();
    operation.micro.iter().all(|(function, key, value)| {
        if function != "r" {
            written.insert(key);
            return true;
        }
        let (Some(read), Some(all)) = (list(value), longest.get(key)) else { return true };
        let writer = |element: Option<&String>| writers.get(&(key, element?.clone()));
        let ends = written.contains(key)
            || read.is_empty()
            || writer(read.last()) != writer(all.get(read.len()));
        // A list has nothing that the transaction appends only later.
        let is_own = |element: &String| writers.get(&(key, element.clone())) == Some(&place);
        let is_past = written.contains(key) || !read.iter().any(is_own);
        all.starts_with(&read) && ends && is_past
    })
}
