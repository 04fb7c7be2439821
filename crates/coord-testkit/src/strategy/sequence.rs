//! Strategies of single operations and of sequences of operations.

use std::ops::RangeInclusive;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::pools::lease_id;
use super::requests::{compact, delete, grant, put, range, time_to_live, watch};
use super::txn::txn;
use super::{At, Clock, CompactDraft, Operation, Pace};

/// The options of [`operations`]: which operations are drawn, and how many.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether to draw requests that crash a real etcd server.
    pub hazards: Hazards,
    /// The clock of the store under test: [`Operation::Advance`] is drawn on a paused clock only.
    pub clock: Clock,
    /// The number of operations in a sequence. Shrinking stops at the minimum, so keep the
    /// minimum small.
    pub length: RangeInclusive<usize>,
}

impl Default for Options {
    /// Options for a store in memory: hazards included, on a paused clock. A sequence has 1 to 80
    /// operations.
    fn default() -> Self {
        Self { hazards: Hazards::Include, clock: Clock::Paused, length: 1..=80 }
    }
}

/// Whether to draw hazards: requests that crash a real etcd server or make it lose data.
///
/// Two hazards are known. Both need a transaction that deletes a key by an unbounded delete and
/// also puts the key. If the put keeps the value or the lease, the server panics. A compaction
/// exactly at the revision of such a transaction loses the key. Without hazards, no transaction
/// with a put has an unbounded delete.
///
/// A third kind of request damages only clusters of several members, up to etcd 3.6, and is drawn
/// with both settings: a failing historic read in a transaction that writes.
///
/// Source: `docs/etcd-contract.md` §4, "Requests that damage a real server".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a named bool")]
pub enum Hazards {
    /// Hazards are drawn.
    Include,
    /// No hazard is drawn.
    Exclude,
}

/// A sequence of operations.
///
/// A sequence can be longer than `options.length`, because some operations are drawn as a pair.
///
/// ```
/// use coord_testkit::strategy::{self, Options};
/// use proptest::strategy::{Strategy, ValueTree};
/// use proptest::test_runner::TestRunner;
///
/// let mut runner = TestRunner::deterministic();
/// let operations = strategy::operations(&Options::default());
/// let sample = operations.new_tree(&mut runner).unwrap().current();
/// for operation in &sample {
///     assert!(!operation.to_string().is_empty());
/// }
/// ```
///
/// # Panics
/// If the length in `options` is an empty range.
pub fn operations(options: &Options) -> BoxedStrategy<Vec<Operation>> {
    let single = operation(options).prop_map(|operation| vec![operation]);
    let pair_weight = u32::from(options.clock == Clock::Paused);
    let element = prop_oneof![30 => single, pair_weight => compaction_of_overdue_leases()];
    vec(element, options.length.clone()).prop_map(|elements| elements.concat()).boxed()
}

/// A clock jump past the end of leases, and then a compaction.
///
/// The compaction is the first call after the leases have become overdue. The store must expire the
/// leases before it compacts, and must keep the deletions of that expiry. Independent draws produce
/// this pair too rarely.
fn compaction_of_overdue_leases() -> BoxedStrategy<Vec<Operation>> {
    (4_u64..=12, 0_i64..=1)
        .prop_map(|(secs, back)| {
            let (by, pace) = (Duration::from_secs(secs), Pace::Jump);
            let (revision, physical) = (At::Back(back), false);
            let compact = Operation::Compact(CompactDraft { revision, physical });
            vec![Operation::Advance { by, pace }, compact]
        })
        .boxed()
}

/// One operation of any kind.
pub fn operation(options: &Options) -> BoxedStrategy<Operation> {
    let advance_weight = if options.clock == Clock::Paused { 6 } else { 0 };
    prop_oneof![
        16 => put().prop_map(Operation::Put),
        12 => range().prop_map(Operation::Range),
        7 => delete().prop_map(Operation::Delete),
        24 => txn(options.hazards).prop_map(Operation::Txn),
        14 => lease_operation(options.clock),
        5 => compact().prop_map(Operation::Compact),
        12 => watch_operation(),
        advance_weight => advance(),
    ]
    .boxed()
}

/// An operation on a lease.
fn lease_operation(clock: Clock) -> BoxedStrategy<Operation> {
    prop_oneof![
        8 => grant(clock).prop_map(Operation::LeaseGrant),
        1 => lease_id().prop_map(Operation::LeaseRevoke),
        2 => lease_id().prop_map(Operation::LeaseKeepAlive),
        2 => time_to_live().prop_map(Operation::LeaseTimeToLive),
        1 => Just(Operation::Leases),
    ]
    .boxed()
}

/// An operation on a watch.
fn watch_operation() -> BoxedStrategy<Operation> {
    prop_oneof![
        5 => watch().prop_map(Operation::Watch),
        1 => any::<u8>().prop_map(Operation::Unwatch),
        1 => any::<u8>().prop_map(Operation::Progress),
        3 => Just(Operation::ReadWatches),
    ]
    .boxed()
}

/// A move of the clock.
fn advance() -> BoxedStrategy<Operation> {
    let by = prop_oneof![4 => 1_u64..=4, 1 => 5_u64..=9];
    let by = (by, prop_oneof![4 => Just(0), 1 => Just(500)])
        .prop_map(|(secs, millis)| Duration::from_millis(secs * 1000 + millis));
    (by, prop_oneof![Just(Pace::Jump), Just(Pace::Sleep)])
        .prop_map(|(by, pace)| Operation::Advance { by, pace })
        .boxed()
}
