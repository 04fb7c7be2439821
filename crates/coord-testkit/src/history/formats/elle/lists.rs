//! The lists of a list-append history, and which reads contradict the appends or each other.
//!
//! ```text
//! T1 appends 1 and 2 to x, T2 appends 3 to x, T3 appends 4 to x and fails
//! T4 reads x: [1]            intermediate read: T1 has appended more
//! T5 reads x: [1 2 9]        garbage read: no transaction appended 9
//! T6 reads x: [1 2 4]        aborted read, and an incompatible order: neither T5's list nor
//!                            T6's is the beginning of the other
//! ```
//!
//! A key to which one element was appended twice shows nothing: such histories are not those of
//! the workload.
//!
//! Source: `g1a-cases`, `g1b-cases`, `duplicates`, `incompatible-orders` and `lost-update-cases` in
//! `list_append.clj` of Elle. Garbage reads are ours: Elle accepts elements of no transaction.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::found::Found;
use super::parsing::{Outcome, Transaction, list};
use super::scalar::to_string;
use crate::history::ContradictionKind;

/// A list that a committed transaction has read.
pub(super) struct ListRead<'a> {
    pub(super) reader: usize,
    /// The place among the micro-operations.
    place: usize,
    pub(super) key: &'a Bytes,
    list: Vec<String>,
}

/// The append of an element: the transaction, and the place among its micro-operations.
#[derive(Clone, Copy)]
struct Append {
    writer: usize,
    place: usize,
}

/// The reads and appends of a history.
pub(super) struct Lists<'a> {
    pub(super) transactions: &'a [Transaction],
    pub(super) reads: Vec<ListRead<'a>>,
    appends: BTreeMap<(&'a Bytes, String), Append>,
    /// The longest list that was read of each key, as a position in `reads`.
    longest: BTreeMap<&'a Bytes, usize>,
    /// The keys to which an element was appended twice.
    ambiguous: BTreeSet<&'a Bytes>,
    /// The transactions that are known to have committed: by their outcome, or because an element
    /// was read.
    committed: BTreeSet<usize>,
}

impl<'a> Lists<'a> {
    pub(super) fn new(transactions: &'a [Transaction]) -> Self {
        let (mut reads, mut appends) = (Vec::new(), BTreeMap::new());
        let mut ambiguous = BTreeSet::new();
        for (number, transaction) in transactions.iter().enumerate() {
            for (place, (function, key, value)) in transaction.micro.iter().enumerate() {
                match function.as_str() {
                    "append" => {
                        let Some(element) = to_string(value) else { continue };
                        let append = Append { writer: number, place };
                        if appends.insert((key, element), append).is_some() {
                            ambiguous.insert(key);
                        }
                    }
                    "r" if transaction.is_committed() => {
                        // An absent list is an empty one.
                        let list = if value.is_null() { Some(Vec::new()) } else { list(value) };
                        let read = |list| ListRead { reader: number, place, key, list };
                        reads.extend(list.map(read));
                    }
                    _ => {}
                }
            }
        }
        let mut longest = BTreeMap::new();
        for (i, read) in reads.iter().enumerate() {
            let known = longest.entry(read.key).or_insert(i);
            if read.list.len() > reads[*known].list.len() {
                *known = i;
            }
        }
        let shown = reads.iter().flat_map(|read: &ListRead<'_>| {
            read.list.iter().filter_map(|element| appends.get(&(read.key, element.clone())))
        });
        let is_committed = |number: &usize| transactions[*number].is_committed();
        let committed = (0..transactions.len()).filter(is_committed);
        let committed = committed
            .chain(shown.map(|append: &Append| append.writer))
            .filter(|&number| transactions[number].outcome != Outcome::Aborted)
            .collect();
        Self { transactions, reads, appends, longest, ambiguous, committed }
    }

    /// The longest list that was read of a key.
    pub(super) fn longest(&self, key: &Bytes) -> Option<&[String]> {
        self.longest.get(key).map(|&read| &self.reads[read].list[..])
    }

    /// Whether a transaction is known to have committed: by its outcome, or because an element was
    /// read.
    pub(super) fn has_committed(&self, transaction: usize) -> bool {
        self.committed.contains(&transaction)
    }

    /// The keys that were read.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a Bytes> {
        self.longest.keys().copied()
    }

    /// The transactions that appended the elements of the longest list of a key, in order, without
    /// aborted ones.
    pub(super) fn chain(&self, key: &'a Bytes) -> Vec<usize> {
        let mut chain = Vec::new();
        for element in self.longest(key).unwrap_or_default() {
            let Some(append) = self.appends.get(&(key, element.clone())) else { continue };
            let is_aborted = self.transactions[append.writer].outcome == Outcome::Aborted;
            if !is_aborted && chain.last() != Some(&append.writer) {
                chain.push(append.writer);
            }
        }
        chain
    }

    /// For each key that was read, the committed transactions with an element that its longest list
    /// lacks.
    pub(super) fn unread(&self) -> BTreeMap<&'a Bytes, BTreeSet<usize>> {
        let shown: BTreeSet<(&Bytes, &String)> = self
            .longest
            .values()
            .flat_map(|&read| self.reads[read].list.iter().map(move |e| (self.reads[read].key, e)))
            .collect();
        let mut unread = BTreeMap::<_, BTreeSet<_>>::new();
        for ((key, element), append) in &self.appends {
            let is_unread = self.longest.contains_key(key) && !shown.contains(&(*key, element));
            if is_unread && self.has_committed(append.writer) {
                unread.entry(*key).or_default().insert(append.writer);
            }
        }
        unread
    }

    /// The keys whose order of appends is not known, although they were read.
    pub(super) fn unordered(&self) -> BTreeSet<&'a Bytes> {
        let mut unordered = self.ambiguous.clone();
        unordered.extend(self.reads.iter().filter(|read| !self.fits(read)).map(|read| read.key));
        unordered
    }

    /// Whether a list is the beginning of the longest one, and has no element twice.
    fn fits(&self, read: &ListRead<'_>) -> bool {
        let longest = self.longest(read.key).unwrap_or_default();
        longest.starts_with(&read.list) && !has_duplicates(&read.list)
    }

    /// The appends of all transactions that have not aborted: each key, with the transaction.
    pub(super) fn committed_appends(&self) -> impl Iterator<Item = (&'a Bytes, usize)> + '_ {
        let appends = self.appends.iter().map(|((key, _), append)| (*key, append.writer));
        appends.filter(|(_, writer)| self.transactions[*writer].outcome != Outcome::Aborted)
    }

    /// What contradicts the appends, or another read.
    pub(super) fn contradictions(&self) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        for read in self.reads.iter().filter(|read| !self.ambiguous.contains(read.key)) {
            let mut add = |kind, other: Option<usize>| {
                let transactions = [read.reader].into_iter().chain(other).collect();
                found.push(Found { kind, transactions, keys: vec![read.key] });
            };
            self.check_elements(read, &mut add);
            if has_duplicates(&read.list) {
                add(ContradictionKind::DuplicateElement, None);
            }
            if let Some(&longest) = self.longest.get(read.key)
                && !self.reads[longest].list.starts_with(&read.list)
            {
                add(ContradictionKind::IncompatibleOrder, Some(self.reads[longest].reader));
            }
        }
        found.extend(self.lost_updates());
        found
    }

    /// Reports the origins of the elements of a list, each kind once.
    fn check_elements(
        &self,
        read: &ListRead<'_>,
        add: &mut impl FnMut(ContradictionKind, Option<usize>),
    ) {
        let append = |element: &String| self.appends.get(&(read.key, element.clone())).copied();
        let (mut garbage, mut aborted, mut future) = (false, None, false);
        for element in &read.list {
            match append(element) {
                None => garbage = true,
                Some(Append { writer, place }) => {
                    if self.transactions[writer].outcome == Outcome::Aborted {
                        aborted = Some(writer);
                    }
                    future |= writer == read.reader && place > read.place;
                }
            }
        }
        if garbage {
            add(ContradictionKind::GarbageRead, None);
        }
        if aborted.is_some() {
            add(ContradictionKind::AbortedRead, aborted);
        }
        if future {
            add(ContradictionKind::FutureRead, None);
        }
        if let Some(Append { writer, place }) = read.list.last().and_then(append) {
            let later = &self.transactions[writer].micro[place + 1..];
            let is_last = !later.iter().any(|(f, key, _)| f == "append" && key == read.key);
            let is_aborted = self.transactions[writer].outcome == Outcome::Aborted;
            if !is_last && !is_aborted && writer != read.reader {
                add(ContradictionKind::IntermediateRead, Some(writer));
            }
        }
    }

    /// Pairs of transactions that read the same list and appended to it, if no read shows the order
    /// of their appends: in either order one of the two has read an old list.
    fn lost_updates(&self) -> Vec<Found<'a>> {
        let unread = self.unread();
        let mut first = BTreeMap::new();
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for read in &self.reads {
            let is_unread = unread.get(read.key).is_some_and(|all| all.contains(&read.reader));
            let before = &self.transactions[read.reader].micro[..read.place];
            let is_first = seen.insert((read.key, read.reader))
                && !before.iter().any(|(f, key, _)| f == "append" && key == read.key);
            if !is_unread || !is_first || self.ambiguous.contains(read.key) {
                continue;
            }
            if let Some(other) = first.insert((read.key, &read.list), read.reader) {
                let (kind, transactions) =
                    (ContradictionKind::LostUpdate, vec![other, read.reader]);
                found.push(Found { kind, transactions, keys: vec![read.key] });
            }
        }
        found
    }
}

fn has_duplicates(list: &[String]) -> bool {
    list.iter().collect::<BTreeSet<_>>().len() < list.len()
}
