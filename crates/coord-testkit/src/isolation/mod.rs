//! Isolation checker: which isolation levels a history refutes, with a short counterexample.
//!
//! The store's revisions are the version order, so checking needs no search through possible
//! orders: its cost is linear in the history, apart from sorting. Only a cycle through an absent
//! key may need a search, which is bounded.
//!
//! 1. The attempts are joined to the version order. This finds reads of values that were never
//!    committed, and writes that were lost or applied twice.
//! 2. Each transaction is placed in the order of revisions, by the intervals in which everything
//!    that it has read was valid. If all have a place, there is no cycle.
//! 3. Otherwise the dependencies between transactions are searched for cycles, only around the
//!    transactions without a place. The kind of a cycle is the anomaly.
//!
//! ```text
//! revision    1               2              3
//! T1          reads x@1, y@1  puts x                     x@1 was read by T2, which is before T1
//! T2          reads x@1, y@1                 puts y      y@1 was read by T1, which is before T2
//! ```
//!
//! T2 has no place: x@1 was not valid at revision 2. The cycle T1 → T2 → T1 of two `rw` edges is
//! write skew.
//!
//! # Times
//!
//! A transaction comes after another one in real time if it began *later* than the other one ended,
//! on the clock of the history. At equal times they count as concurrent. A transaction begins with
//! its first attempt.
//!
//! # Without the changes of the store
//!
//! A history without [`EventKind::Changed`](crate::history::EventKind::Changed) is checked with the
//! versions that its attempts wrote and read. Reads that depend on writes of other clients are
//! unresolved then: they constrain less, because the other writes of those clients are not known,
//! and the [`Coverage`] counts them. That a key is absent is unresolved, and constrains nothing, if
//! another client is known to have put it; a key that only recorded transactions have put is
//! assumed to be deleted by them only, not by the end of a lease. A history that has
//! changes must have all changes of the keys that its attempts use, from its first changed revision
//! to its last.

mod anomaly;
mod base;
mod checker;
mod claims;
mod classify;
mod conclude;
mod coverage;
mod cycles;
mod decide;
mod edge_kind;
mod edges;
mod graph;
mod inferred;
mod level;
mod log;
mod options;
mod parts;
mod resolve;
mod resolved;
mod snapshots;
mod unclaimed;
mod unknown;
mod verdict;
mod versions;

#[cfg(test)]
mod tests;

use crate::history::History;
pub use anomaly::{Anomaly, AnomalyKind, Order, Participant, Step};
pub use checker::Checker;
pub use coverage::Coverage;
pub(crate) use coverage::counted;
pub use edge_kind::EdgeKind;
pub use level::{Level, Status};
pub use options::{Engine, Values};
pub use verdict::Verdict;

/// Checks a history.
///
/// ```
/// use std::time::Duration;
///
/// use coord_core::kv::Revision;
/// use coord_core::stm::Isolation;
/// use coord_testkit::history::{
///     Attempt, AttemptEnd, Event, EventKind, History, KeyRead, KeyWrite,
/// };
/// use coord_testkit::isolation::{self, Level, Status};
///
/// // Two transactions read x and y, both at revision 1, and each writes one of them.
/// let transaction = |number, key: &'static str, revision| {
///     let read = |key: &'static str| KeyRead {
///         key: key.into(),
///         found: Some((Revision(1), "on call".into())),
///     };
///     let attempt = Attempt {
///         transaction: number,
///         number: 1,
///         isolation: Isolation::ReadCommitted,
///         began: Duration::ZERO,
///         reads: vec![read("x"), read("y")],
///         ranges: vec![],
///         writes: vec![KeyWrite { key: key.into(), value: Some("off".into()) }],
///         end: AttemptEnd::Committed { revision: Revision(revision) },
///     };
///     Event {
///         at: Duration::from_secs(1),
///         process: None,
///         kind: EventKind::Attempt(Box::new(attempt)),
///     }
/// };
/// let history = History(vec![transaction(1, "x", 2), transaction(2, "y", 3)]);
///
/// let verdict = isolation::check(&history);
/// assert_eq!(verdict.anomalies()[0].name, Some("write skew"));
/// assert_eq!(verdict.status(Level::SnapshotIsolation), Status::Holds);
/// assert_eq!(verdict.status(Level::RepeatableRead), Status::Not);
/// assert_eq!(verdict.status(Level::Serializable), Status::AlsoNot);
/// // Each transaction kept what `ReadCommitted` promises.
/// assert_eq!(verdict.declared(), Status::Holds);
/// ```
#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut checker = Checker::new();
    history.0.iter().for_each(|event| checker.push(event));
    checker.finish()
}
