//! Sequences of random operations, and what is drawn for them.

use std::ops::RangeInclusive;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::pools::lease_id;
use super::requests::{compact, delete, grant, put, range, time_to_live, watch};
use super::txn::txn;
use super::{At, CompactDraft, Operation, Pace};

/// What kind of operations to draw.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether inputs that crash a real etcd server are among them.
    pub hazards: Hazards,
    /// Whose time it is.
    pub clock: Clock,
    /// How many operations make a sequence. Shrinking goes down to the shortest: let it be short.
    pub length: RangeInclusive<usize>,
}

impl Default for Options {
    /// All there is, for a store in memory: up to 80 operations, hazards included.
    fn default() -> Self {
        Self { hazards: Hazards::Include, clock: Clock::Virtual, length: 1..=80 }
    }
}

/// Whether to draw what is known to crash a real etcd server, or to make it lose data.
///
/// Two things do, and both need a transaction that deletes a key by a delete without end and puts
/// it too: a put that keeps the value or the lease of such a key panics, and compacting exactly at
/// such a revision loses the key. Without hazards no transaction with a put has a delete without
/// end. On clusters of several members up to etcd 3.6 a third thing goes wrong, which is drawn
/// all the same: a failing read of history in a transaction that writes.
///
/// Source: `docs/etcd-contract.md` §4, "Requests that damage a real server".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a yes or no with a name")]
pub enum Hazards {
    /// They are drawn.
    Include,
    /// They are not.
    Exclude,
}

/// Whether the test can move the store's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a yes or no with a name")]
pub enum Clock {
    /// It can: [`Operation::Advance`] is drawn.
    Virtual,
    /// It cannot: time is not an operation, and leases should outlive the test.
    Real,
}

/// A sequence of operations; it is a little longer than `options` say where two belong together.
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
    let alone = operation(options).prop_map(|operation| vec![operation]);
    let overdue = u32::from(options.clock == Clock::Virtual);
    let episode = prop_oneof![30 => alone, overdue => compacted_when_overdue()];
    vec(episode, options.length.clone()).prop_map(|episodes| episodes.concat()).boxed()
}

/// Leases run out with nobody looking, and the call that finds them overdue is a compaction, which
/// must end them first and then not swallow what that did. By chance that comes up too rarely.
fn compacted_when_overdue() -> BoxedStrategy<Vec<Operation>> {
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
    let advances = if options.clock == Clock::Virtual { 6 } else { 0 };
    prop_oneof![
        16 => put().prop_map(Operation::Put),
        12 => range().prop_map(Operation::Range),
        7 => delete().prop_map(Operation::Delete),
        24 => txn(options.hazards).prop_map(Operation::Txn),
        14 => leases(options.clock),
        5 => compact().prop_map(Operation::Compact),
        12 => watching(),
        advances => advance(),
    ]
    .boxed()
}

fn leases(clock: Clock) -> BoxedStrategy<Operation> {
    prop_oneof![
        8 => grant(clock).prop_map(Operation::LeaseGrant),
        1 => lease_id().prop_map(Operation::LeaseRevoke),
        2 => lease_id().prop_map(Operation::LeaseKeepAlive),
        2 => time_to_live().prop_map(Operation::LeaseTimeToLive),
        1 => Just(Operation::Leases),
    ]
    .boxed()
}

fn watching() -> BoxedStrategy<Operation> {
    prop_oneof![
        5 => watch().prop_map(Operation::Watch),
        1 => any::<u8>().prop_map(Operation::Unwatch),
        1 => any::<u8>().prop_map(Operation::Progress),
        3 => Just(Operation::ReadWatches),
    ]
    .boxed()
}

fn advance() -> BoxedStrategy<Operation> {
    let by = prop_oneof![4 => 1_u64..=4, 1 => 5_u64..=9];
    let by = (by, prop_oneof![4 => Just(0), 1 => Just(500)])
        .prop_map(|(secs, millis)| Duration::from_millis(secs * 1000 + millis));
    (by, prop_oneof![Just(Pace::Jump), Just(Pace::Sleep)])
        .prop_map(|(by, pace)| Operation::Advance { by, pace })
        .boxed()
}
