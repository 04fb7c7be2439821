//! Does a backend keep the contract? One named promise at a time.
//!
//! The suite is a **table**: [`promises`] lists every promise with its name, the [`Area`] it
//! belongs to, what it [needs](Need) of a backend, and a check. The name *is* the promise, so a
//! failing test reads as the sentence that does not hold:
//! `put_after_delete_starts_version_at_one`. Whatever is printed about the contract is printed
//! from this table.
//!
//! A backend under test is a [`Suite`]: a name, the [`Clock`] to run by, a factory, and what it
//! claims. There are two ways to run it:
//!
//! - [`main`] is a whole test program with one test per promise, named
//!   `<backend>::<area>::<promise>`, for `cargo test` and `cargo nextest` alike;
//! - [`Suite::run`] gives a [`Report`], for whoever has a test harness of their own.
//!
//! ```
//! use coord_mem::MemBackend;
//! use coord_testkit::conformance::{Clock, Need, Suite};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let suite = Suite::new("mem", Clock::Paused, async || ((), MemBackend::new()));
//! let report = suite.claims(Need::ALL).run().await;
//! assert_eq!(report.broken().count(), 0, "{report}");
//! assert!(report.kept().count() >= 120);
//! # }
//! ```
//!
//! # What a factory owes
//!
//! Each promise gets a backend of its own from the factory, **without keys and without leases**,
//! and nobody else changes the store or compacts it while the promise runs. It may have a past:
//! its revision, and the revision it is compacted at, can be any. So one server can be used again
//! and again, if it is emptied between promises and used by one at a time; a lock in the factory's
//! guard does that (under nextest every test is a process of its own, so the lock must reach that
//! far). A backend with no past claims [`Need::FreshStore`].
//!
//! # What a check may do
//!
//! A check reaches the store only through [`KvBackend`]. Where it waits, it sleeps on tokio's
//! clock, which costs nothing when that is paused; on a real clock no check waits longer than a
//! few seconds. No check asserts an exact time, nor an order that the contract leaves open. That
//! *nothing* arrives is shown by a later change that arrives first.
//!
//! A check that needs [`Need::VirtualTime`] may also move the paused clock past the end of a lease
//! before any task runs. A store that ends leases only when its own timer runs answers the next
//! call as if the lease lived, and fails.
//!
//! # The contract, and what proves it
//!
//! [`CONTRACT`] lists the bullets of [`KvBackend`] with the promises that prove each; a test keeps
//! the two in step.

#[macro_use]
mod steps;

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

use coord_core::KvBackend;
use futures_util::future::BoxFuture;

pub use contract::{CONTRACT, Clause};
pub use run::{Clock, Report, Suite, Verdict, main};
pub use steps::Failure;

/// One promise of the contract.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Promise {
    /// The promise, as a sentence with underscores.
    pub name: &'static str,
    /// The part of the contract it belongs to.
    pub area: Area,
    /// What a backend must claim to be held to it.
    pub needs: &'static [Need],
    check: Check,
}

/// The code of a promise.
type Check = for<'a> fn(&'a dyn KvBackend) -> BoxFuture<'a, Result<(), Failure>>;

impl Promise {
    /// Holds a backend to the promise. It must have neither keys nor leases.
    ///
    /// ```
    /// use coord_mem::MemBackend;
    /// use coord_testkit::conformance::promises;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let promise = promises().find(|promise| promise.name == "put_is_read_back").unwrap();
    /// promise.check(&MemBackend::new()).await.expect("a put is read back");
    /// # }
    /// ```
    ///
    /// # Errors
    /// What was seen instead.
    ///
    /// # Cancel safety
    /// Dropping the future leaves in the store what the check has put there.
    pub async fn check(&self, kv: &Client) -> Result<(), Failure> {
        (self.check)(kv).await
    }
}

impl fmt::Debug for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise")
            .field("name", &self.name)
            .field("area", &self.area)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Promise {
    /// `put::put_is_read_back`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.area, self.name)
    }
}

/// A part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Area {
    /// What makes a revision, and which headers show it.
    Revisions,
    /// Which keys a range holds, now and in the past.
    Range,
    /// How a range is sorted, filtered and cut.
    Order,
    /// Setting a key.
    Put,
    /// Deleting keys.
    Delete,
    /// The conditions of a transaction.
    Compare,
    /// What a transaction does, and what it refuses.
    Txn,
    /// Which keys one transaction may touch twice.
    Duplicates,
    /// How much fits into one request.
    Limits,
    /// Forgetting history.
    Compact,
    /// Changes as they happen.
    Watch,
    /// Changes as they happened.
    History,
    /// Bookmarks.
    Progress,
    /// Leases while they live.
    Lease,
    /// Leases when they end.
    Expiry,
    /// What errors tell, and what dropped futures leave.
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

/// Something that not every backend can claim. A promise whose need is not claimed is reported as
/// ignored, with the need, and never counted as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Need {
    /// The store that the factory gives is at revision 1 and was never compacted.
    FreshStore,
    /// A request may have exactly `limits().max_request_bytes` as etcd counts them. Not so where
    /// something is added to requests on their way, such as a prefix.
    ExactRequestSize,
    /// A delete without end is what etcd makes of it: it conflicts with no put of its transaction.
    /// Not so under a prefix, which gives every range an end.
    UnboundedDeletes,
    /// A deletion at the very revision of a compaction can still be watched: etcd since 3.4.34 and
    /// 3.5.16.
    RetainedTombstone,
    /// Requests that would crash an etcd server, or make it lose data, are refused. No etcd does.
    RefusesHazards,
    /// Of a transaction's steps, all puts are checked before all ranges: etcd up to 3.5. Later ones
    /// check the steps in their order.
    PutsCheckedFirst,
    /// A put is a call of its own and not a transaction of one step, so that of two reasons to
    /// refuse it a missing lease comes before a missing key.
    OwnPutCall,
    /// Minutes pass in no time. Met by [`Clock::Paused`]; need not be claimed.
    VirtualTime,
}

impl Need {
    /// Everything: what a single etcd 3.5 member in memory claims.
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

impl fmt::Display for Need {
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

/// Builds the rows of an area: the name of each check, and after a colon what it needs.
macro_rules! table {
    ($area:ident; $($name:ident $(: $($need:ident)+)?,)+) => {
        /// The promises of this area, in reading order.
        pub(super) static PROMISES: &[$crate::conformance::Promise] = &[
            $($crate::conformance::Promise {
                name: stringify!($name),
                area: $crate::conformance::Area::$area,
                needs: &[$($($crate::conformance::Need::$need),+)?],
                check: |kv| Box::pin($name(kv)),
            },)+
        ];
    };
}
use table;

/// Every promise, in the order of the areas.
///
/// ```
/// for promise in coord_testkit::conformance::promises() {
///     println!("{promise} {:?}", promise.needs);
/// }
/// ```
pub fn promises() -> impl Iterator<Item = &'static Promise> {
    [
        revisions::PROMISES,
        range::PROMISES,
        order::PROMISES,
        put::PROMISES,
        delete::PROMISES,
        compare::PROMISES,
        txn::PROMISES,
        txn_errors::PROMISES,
        duplicates::PROMISES,
        limits::PROMISES,
        compact::PROMISES,
        watch::PROMISES,
        history::PROMISES,
        progress::PROMISES,
        lease::PROMISES,
        expiry::PROMISES,
        outcome::PROMISES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests;
