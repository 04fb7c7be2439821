//! Reads Elle's histories.
//!
//! Elle's histories have no revisions, and coord's need them: a revision that is unknown is
//! [`Revision::ZERO`]. With a transaction order, the revision of a transaction is its position, and
//! that of a read is the position of the transaction that has put the value:
//!
//! ```text
//! order        {1: 7}
//! op 1         ["w", "x", 2]      committed at revision 7
//! op 3         ["r", "x", 2]      reads x@7
//! ```
//!
//! Micro-operations become the reads of an attempt and its writes:
//!
//! - only the first read of a key, and only if it precedes every write of the key;
//! - only the last write of a key;
//! - an appended element becomes the list after the transaction: what the transaction has read and
//!   appended, or the beginning of the longest list that was read, up to the element.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::Revision;
use coord_core::stm::Isolation;

use super::super::FormatError;
use super::inferred::{self, Inferred};
use super::lists::Lists;
use super::parsing::{Micro, Outcome, Transaction, list, transactions};
use super::scalar::{to_bytes, to_string};
use crate::history::{
    Attempt, AttemptEnd, Event, EventKind, History, Inference, KeyRead, KeyWrite,
};

/// Reads a history in JSON Lines, as a JSON array, or in EDN. Only operations whose `f` is `txn`,
/// or that have no `f`, are transactions; all other operations are left out, and so are operations
/// whose process is not a number.
///
/// Without an `order`, the history must have all writes of its keys, from their first values on.
/// The order of a list-append history is inferred from the lists that were read; elements of keys
/// that were not read are left out. Of registers only reads of each other's writes are known. If
/// anything was inferred, the last event, [`EventKind::Inferred`], has the number of versions that
/// could be ordered, and the reads that no order explains, which the isolation checker reports as
/// anomalies. Levels that nothing refutes are unknown if a transaction that writes has no position.
///
/// The isolation level of every transaction is the default one. If an operation of a transaction
/// has no `time`, the times are the positions of these operations, from 1.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use coord_testkit::history::formats::elle;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = "{:type :invoke, :f :txn, :value [[:w :x 2]], :process 0, :index 0}
///             {:type :ok, :f :txn, :value [[:w :x 2]], :process 0, :index 1}";
/// let history = elle::read(text, &BTreeMap::from([(1, 7)]))?;
/// assert_eq!(
///     history.0[0].kind.to_string(),
///     "tx attempt 1 of transaction 1; puts x; committed at revision 7"
/// );
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Syntax`. If the text is JSON or EDN but not a history, the line is the number of the operation,
/// from 1.
pub fn read(text: &str, order: &BTreeMap<u64, i64>) -> Result<History, FormatError> {
    Ok(history(&transactions(text)?, order))
}

/// The history of transactions, with a given order or an inferred one.
pub(in super::super) fn history(
    transactions: &[Transaction],
    order: &BTreeMap<u64, i64>,
) -> History {
    let is_append = |(function, ..): &Micro| function == "append";
    let has_lists = transactions.iter().any(|transaction| transaction.micro.iter().any(is_append));
    let lists = has_lists.then(|| Lists::new(transactions));
    let inferred = order.is_empty().then(|| inferred::infer(transactions, lists.as_ref()));
    let positions = match &inferred {
        Some(Inferred { positions, .. }) => positions.clone(),
        None => given_positions(transactions, order),
    };
    let last = transactions.iter().map(|transaction| transaction.ended).max().unwrap_or_default();
    let mut events = Vec::new();
    for (place, transaction) in transactions.iter().enumerate() {
        let position = positions.get(&place).copied();
        let shown = lists.as_ref().filter(|_| inferred.is_some());
        let is_shown = shown.is_some_and(|lists| lists.has_committed(place));
        let micro = without_unread(transaction, is_shown, shown);
        // A transaction that has committed without a position has an unknown revision.
        let position = position.or(is_shown.then_some(0));
        let mut event = event(transaction, &micro, position, lists.as_ref(), events.len());
        if transaction.outcome == Outcome::Unknown && position.is_some() {
            // Its elements were read: it has committed, and nothing shows when.
            event.at = Duration::from_nanos(last);
        }
        events.push(event);
    }
    resolve_reads(&mut events);
    let inference = inferred.map(|inferred| inferred.inference).unwrap_or_default();
    if inference != Inference::default() {
        let (at, kind) = (Duration::from_nanos(last), EventKind::Inferred(inference));
        events.push(Event { at, process: None, kind });
    }
    History(events)
}

/// The revision of each committed transaction, from a given order. Revisions are positive: if the
/// order has positions that are not, the revisions are the ranks of the positions.
fn given_positions(
    transactions: &[Transaction],
    order: &BTreeMap<u64, i64>,
) -> BTreeMap<usize, i64> {
    let sorted: BTreeSet<i64> = order.values().copied().collect();
    let is_positive = sorted.first().is_none_or(|first| *first > 0);
    let ranks: BTreeMap<i64, i64> = sorted.into_iter().zip(1..).collect();
    let revision = |position: &i64| match is_positive {
        true => Some(*position),
        false => ranks.get(position).copied(),
    };
    let committed = (0..).zip(transactions).filter(|(_, transaction)| transaction.is_committed());
    committed
        .filter_map(|(place, transaction)| {
            Some((place, order.get(&transaction.index).and_then(revision)?))
        })
        .collect()
}

/// The micro-operations of a transaction without the elements on which nothing depends, if the
/// order is inferred: no list of the key was read, or nothing shows whether they were applied.
fn without_unread(
    transaction: &Transaction,
    has_committed: bool,
    lists: Option<&Lists<'_>>,
) -> Vec<Micro> {
    let Some(lists) = lists else { return transaction.micro.clone() };
    let matters = |(function, key, value): &&Micro| {
        let is_read = |list: &[String]| to_string(value).is_some_and(|value| list.contains(&value));
        let list = lists.longest(key);
        function != "append" || list.is_some_and(|list| has_committed || is_read(list))
    };
    transaction.micro.iter().filter(matters).cloned().collect()
}

/// The event of a transaction.
fn event(
    transaction: &Transaction,
    micro: &[Micro],
    position: Option<i64>,
    lists: Option<&Lists<'_>>,
    earlier: usize,
) -> Event {
    let end = match (transaction.outcome, position) {
        (Outcome::Committed, _) | (Outcome::Unknown, Some(_)) => {
            AttemptEnd::Committed { revision: Revision(position.unwrap_or(0)) }
        }
        (Outcome::Aborted, _) => AttemptEnd::Aborted,
        (Outcome::Unknown, None) => AttemptEnd::Unknown,
    };
    let (reads, writes) = reads_and_writes(micro, transaction.is_committed(), lists);
    let attempt = Attempt {
        transaction: u64::try_from(earlier).unwrap_or(u64::MAX).saturating_add(1),
        number: 1,
        isolation: Isolation::default(),
        began: Duration::from_nanos(transaction.began),
        reads,
        ranges: Vec::new(),
        writes,
        end,
    };
    let process: Arc<str> = transaction.process.to_string().into();
    let kind = EventKind::Attempt(Box::new(attempt));
    Event { at: Duration::from_nanos(transaction.ended), process: Some(process), kind }
}

fn reads_and_writes(
    micro: &[Micro],
    has_read: bool,
    lists: Option<&Lists<'_>>,
) -> (Vec<KeyRead>, Vec<KeyWrite>) {
    let mut reads = BTreeMap::<&Bytes, Option<Bytes>>::new();
    let mut writes = BTreeMap::<&Bytes, Option<Bytes>>::new();
    for (function, key, value) in micro {
        match function.as_str() {
            "r" if has_read && !writes.contains_key(key) => {
                let joined = list(value).filter(|list| !list.is_empty()).map(|l| l.join(" "));
                let found = joined.map(Bytes::from).or_else(|| to_bytes(value));
                reads.entry(key).or_insert(found);
            }
            "w" => drop(writes.insert(key, to_bytes(value))),
            "append" => {
                let element = to_string(value).unwrap_or_default();
                let before = writes.get(key).or_else(|| reads.get(key)).cloned();
                let longest = lists.and_then(|lists| lists.longest(key)).unwrap_or_default();
                let is_read = longest.contains(&element);
                let list = match before.filter(|_| !is_read) {
                    Some(Some(before)) => [&before, &b" "[..], element.as_bytes()].concat(),
                    Some(None) => element.into_bytes(),
                    None => beginning(longest, element).into_bytes(),
                };
                writes.insert(key, Some(list.into()));
            }
            _ => {}
        }
    }
    let read = |(key, value): (&Bytes, Option<Bytes>)| KeyRead {
        key: key.clone(),
        found: value.map(|value| (Revision::ZERO, value)),
    };
    let write = |(key, value): (&Bytes, _)| KeyWrite { key: key.clone(), value };
    (reads.into_iter().map(read).collect(), writes.into_iter().map(write).collect())
}

/// The list up to an element; the element alone if the list lacks it.
fn beginning(longest: &[String], element: String) -> String {
    match longest.iter().position(|known| *known == element) {
        Some(position) => longest[..=position].join(" "),
        None => element,
    }
}

/// Gives each read the revision of the transaction that has put the value.
fn resolve_reads(events: &mut [Event]) {
    let mut revisions = BTreeMap::new();
    for event in events.iter() {
        let EventKind::Attempt(attempt) = &event.kind else { continue };
        let AttemptEnd::Committed { revision } = attempt.end else { continue };
        for write in &attempt.writes {
            revisions.insert((write.key.clone(), write.value.clone()), revision);
        }
    }
    for event in events {
        let EventKind::Attempt(attempt) = &mut event.kind else { continue };
        for KeyRead { key, found } in &mut attempt.reads {
            if let Some((revision, value)) = found {
                let version = (key.clone(), Some(value.clone()));
                *revision = revisions.get(&version).copied().unwrap_or_default();
            }
        }
    }
}
