//! Conformance suite: checks any [`KvBackend`] against the contract of the trait, case by case.
//!
//! The suite is a **table**: [`cases`] lists every case with its name, its [`Area`], the
//! [capabilities](Capability) that it requires, and its code. The name states the rule that the
//! case checks, so that a failed test reads as the violated rule:
//! `put_after_delete_starts_version_at_one`.
//!
//! A [`Suite`] describes a backend under test: a name, the [`Clock`] that the backend runs on, a
//! factory, and the capabilities that the backend claims. There are two ways to run a suite:
//!
//! - [`main`] is a complete test program with one test per case, named `<backend>::<area>::<case>`,
//!   for `cargo test` and `cargo nextest`;
//! - [`Suite::run`] returns a [`SuiteReport`], for use in another test harness.
//!
//! ```
//! use coord_mem::MemBackend;
//! use coord_testkit::conformance::{Capability, Clock, Suite};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let suite = Suite::new("mem", Clock::Paused, async || ((), MemBackend::new()));
//! let report = suite.claims(Capability::ALL).run().await;
//! assert_eq!(report.failed().count(), 0, "{report}");
//! assert!(report.passed().count() >= 120);
//! # }
//! ```
//!
//! # Requirements on the factory
//!
//! The suite calls the factory for every case. The factory returns a backend **without keys and
//! without leases**. No other client may change or compact the store while the case runs. The store
//! may have history: its revision and its compact revision can have any value.
//!
//! One server can therefore serve many cases if it is emptied between them and used by one case at
//! a time. A lock in the guard that the factory returns ensures this. Under nextest every test is a
//! process of its own, so the lock must work across processes. A backend whose store has no history
//! claims [`Capability::FreshStore`].
//!
//! # Rules for the code of a case
//!
//! A case reaches the store only through [`KvBackend`]. A case waits by sleeping on tokio's clock.
//! This takes no real time if the clock is paused; on a real clock no case waits longer than a few
//! seconds. No case asserts an exact time, or an order that the contract does not define. To check
//! that *nothing* is delivered, a case makes a later change or requests progress, and checks that
//! its event or the progress notification is delivered first.
//!
//! A case that requires [`Capability::VirtualTime`] may also move the paused clock past the end of
//! a lease before any task runs. A store that expires leases only when its own timer runs treats
//! the lease as alive in the next call, and fails the case.
//!
//! # The contract and its cases
//!
//! [`CONTRACT`] lists each clause of [`KvBackend`]'s contract with the cases that check it. A test
//! compares the list with the documentation of the trait.
//!
//! [`KvBackend`]: coord_core::KvBackend

#[macro_use]
mod helpers;

mod contract;
mod run;

mod compact;
mod compare;
mod delete;
mod duplicates;
mod expiry;
mod history;
mod lease;
mod limits;
mod order;
mod outcome;
mod progress;
mod put;
mod range;
mod revisions;
mod txn;
mod txn_errors;
mod watch;

use std::fmt;

use coord_core::Client;
use futures_util::future::BoxFuture;

pub use crate::clock::Clock;
pub use contract::{CONTRACT, Clause};
pub use helpers::CaseFailure;
pub use run::{CaseResult, Suite, SuiteReport, main};

/// One conformance case: a rule of the contract, and the code that checks it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct ConformanceCase {
    /// The rule, as a phrase with underscores. Unique in the suite.
    pub name: &'static str,
    /// The part of the contract that the rule belongs to.
    pub area: Area,
    /// The capabilities that a backend must claim for the case to run.
    pub requires: &'static [Capability],
    check: Check,
}

/// The code of a case.
type Check = for<'a> fn(&'a Client) -> BoxFuture<'a, Result<(), CaseFailure>>;

impl ConformanceCase {
    /// Runs the case on a backend, which must have no keys and no leases.
    ///
    /// ```
    /// use coord_core::Client;
    /// use coord_mem::MemBackend;
    /// use coord_testkit::conformance::cases;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let case = cases().find(|case| case.name == "put_is_read_back").unwrap();
    /// case.check(&Client::new(MemBackend::new())).await.expect("a put is read back");
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first failed assertion or unexpected error, with its source line.
    ///
    /// # Cancel safety
    /// Dropping the future leaves in the store what the case has written so far.
    pub async fn check(&self, kv: &Client) -> Result<(), CaseFailure> {
        (self.check)(kv).await
    }
}

impl fmt::Debug for ConformanceCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConformanceCase")
            .field("name", &self.name)
            .field("area", &self.area)
            .field("requires", &self.requires)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ConformanceCase {
    /// `put::put_is_read_back`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.area, self.name)
    }
}

/// A part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Area {
    /// Which requests create a revision, and which headers contain it.
    Revisions,
    /// The keys of a range, at the current and at historic revisions.
    Range,
    /// Sort order, filters and limit of a range.
    Order,
    /// Puts.
    Put,
    /// Deletes.
    Delete,
    /// The compares of a transaction.
    Compare,
    /// The operations of a transaction, and the errors of a refused transaction.
    Txn,
    /// Duplicate keys: keys that one transaction changes twice.
    Duplicates,
    /// Limits on the size of a request.
    Limits,
    /// Compaction of history.
    Compact,
    /// Watches from the current revision on.
    Watch,
    /// Watches from a past or future revision.
    History,
    /// Progress notifications of watches.
    Progress,
    /// Leases: grant, keep-alive, listing and revocation.
    Lease,
    /// Expiry of leases.
    Expiry,
    /// Outcomes of requests: the details of errors, and the effects of dropped futures.
    Outcome,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revisions => "revisions",
            Self::Range => "range",
            Self::Order => "order",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Compare => "compare",
            Self::Txn => "txn",
            Self::Duplicates => "duplicates",
            Self::Limits => "limits",
            Self::Compact => "compact",
            Self::Watch => "watch",
            Self::History => "history",
            Self::Progress => "progress",
            Self::Lease => "lease",
            Self::Expiry => "expiry",
            Self::Outcome => "outcome",
        })
    }
}

/// A property that not every backend has. A case that requires a capability which the backend does
/// not claim is reported as skipped, with the capability, and not counted as passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// The store that the factory returns is at revision 1 and was never compacted.
    FreshStore,
    /// A request may have exactly `limits().max_request_bytes` bytes, as etcd counts them. A layer
    /// that enlarges requests, such as a prefix layer, lacks this capability.
    ExactRequestSize,
    /// An unbounded delete, one without an end, behaves as in etcd: it conflicts with no put of its
    /// transaction. A prefix layer lacks this capability, because the layer bounds every range.
    UnboundedDeletes,
    /// A watch from the compact revision delivers deletions at that revision: etcd since 3.4.34 and
    /// 3.5.16.
    RetainedTombstone,
    /// Requests that would crash an etcd server, or make it lose data, are refused. No etcd server
    /// has this capability.
    RefusesHazards,
    /// All puts of a transaction are checked before all ranges: etcd up to 3.5. Later versions
    /// check the operations in order.
    PutsCheckedFirst,
    /// A put is a call of its own and not a transaction of one operation. If both the lease and the
    /// key are missing, the error reports the lease.
    OwnPutCall,
    /// The test can move the clock. [`Clock::Paused`] implies this capability; a suite need not
    /// claim it.
    VirtualTime,
}

impl Capability {
    /// Every capability: what an in-memory simulation of one etcd 3.5 member claims.
    pub const ALL: [Self; 8] = [
        Self::FreshStore,
        Self::ExactRequestSize,
        Self::UnboundedDeletes,
        Self::RetainedTombstone,
        Self::RefusesHazards,
        Self::PutsCheckedFirst,
        Self::OwnPutCall,
        Self::VirtualTime,
    ];
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FreshStore => "a fresh store",
            Self::ExactRequestSize => "exact request sizes",
            Self::UnboundedDeletes => "unbounded deletes",
            Self::RetainedTombstone => "a retained tombstone",
            Self::RefusesHazards => "refusal of hazards",
            Self::PutsCheckedFirst => "puts checked first",
            Self::OwnPutCall => "a put call of its own",
            Self::VirtualTime => "virtual time",
        })
    }
}

/// Builds the cases of an area. Each row has the name of a case and, after a colon, the
/// capabilities that the case requires.
macro_rules! table {
    ($area:ident; $($name:ident $(: $($capability:ident)+)?,)+) => {
        /// The cases of this file, in reading order.
        pub(super) static CASES: &[$crate::conformance::ConformanceCase] = &[
            $($crate::conformance::ConformanceCase {
                name: stringify!($name),
                area: $crate::conformance::Area::$area,
                requires: &[$($($crate::conformance::Capability::$capability),+)?],
                check: |kv| Box::pin($name(kv)),
            },)+
        ];
    };
}
use table;

/// All cases, in the order of the areas.
///
/// ```
/// for case in coord_testkit::conformance::cases() {
///     println!("{case} {:?}", case.requires);
/// }
/// ```
pub fn cases() -> impl Iterator<Item = &'static ConformanceCase> {
    [
        revisions::CASES,
        range::CASES,
        order::CASES,
        put::CASES,
        delete::CASES,
        compare::CASES,
        txn::CASES,
        txn_errors::CASES,
        duplicates::CASES,
        limits::CASES,
        compact::CASES,
        watch::CASES,
        history::CASES,
        progress::CASES,
        lease::CASES,
        expiry::CASES,
        outcome::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests;
