//! Random scenarios: the requests on two watch streams, and the changes of the store meanwhile.
//!
//! Scenarios use few keys, few ids and recent revisions, so that these coincide. Revisions are
//! relative to the store when the step runs, because a store is used for several scenarios.
//! Requests that crash a real etcd are left out: a transaction deletes no range without an end.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// The key that a barrier puts and watches.
pub(super) const SENTINEL: &str = "~";

/// The id of the barrier's watches.
pub(super) const BARRIER: i64 = 4_000_000;

/// The size of a large value in bytes. A message with thirteen of them exceeds the limit of etcd;
/// one with twelve and everything else that it may contain is below it, with a margin for the
/// header.
pub(super) const LARGE: usize = 48 * 1024;

/// The largest request in bytes: too small for two large values.
pub(super) const MAX_REQUEST_BYTES: usize = 72 * 1024;

/// How many large values [`Change::PutMany`] puts.
pub(super) const MANY: usize = 14;

/// One step of a scenario. After it, the test waits for all messages that it causes.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Requests on a stream, without waiting between them.
    Send(usize, Vec<StreamRequest>),
    /// Changes of the store, one after the other.
    Change(Vec<Change>),
    /// Creates a watch on a stream, and changes the store at once.
    Rush(usize, Create, Vec<Change>),
    /// A compaction at a revision relative to the newest.
    Compact(i64),
}

/// A request on a stream.
#[derive(Clone, Debug)]
pub(crate) enum StreamRequest {
    Create(Create),
    Cancel(i64),
    Progress,
}

/// The request for a watch.
#[derive(Clone)]
pub(crate) struct Create {
    pub(super) id: i64,
    pub(super) keys: Keys,
    pub(super) start: Start,
    pub(super) filters: Vec<i32>,
    pub(super) prev_kv: bool,
    /// Without effect, because etcd sends such a notification after ten minutes.
    pub(super) progress_notify: bool,
    pub(super) fragment: bool,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// Zero.
    Now,
    /// A number of revisions before the newest; a negative number lies in the future.
    Back(i64),
    /// A number of revisions before the compacted one.
    Compacted(i64),
    /// Below zero.
    Negative(i64),
}

/// The first key and the end of a range, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys(pub(super) &'static str, pub(super) &'static str);

/// A change of the store.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Put),
    Delete(Keys),
    Txn(Vec<Op>),
    Grant(i64),
    Revoke(i64),
    /// Many large values.
    PutMany,
}

#[derive(Clone)]
pub(crate) struct Put {
    pub(super) key: &'static str,
    pub(super) value: u8,
    pub(super) large: bool,
    pub(super) lease: i64,
}

/// An operation of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Put),
    Delete(Keys),
    /// A nested transaction that puts the key and another that deletes it: one key changes twice.
    Flash(&'static str),
}

impl fmt::Debug for Create {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, keys, filters, prev_kv, progress_notify, fragment, .. } = self;
        write!(f, "create {id} on {keys:?}")?;
        if !filters.is_empty() {
            write!(f, ", filters {filters:?}")?;
        }
        let flags =
            [(prev_kv, "prev_kv"), (progress_notify, "progress_notify"), (fragment, "fragment")];
        for (_, name) in flags.into_iter().filter(|(is_set, _)| **is_set) {
            write!(f, ", {name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, large, lease } = self;
        let much = if *large { "…" } else { "" };
        write!(f, "{key:?}={}{much}", char::from(*value))?;
        if *lease != 0 {
            write!(f, " on lease {lease}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..{:?}", self.0, self.1)
    }
}

/// The strategy for scenarios.
pub(super) fn scenarios() -> BoxedStrategy<Vec<Step>> {
    let step = prop_oneof![
        8 => (0..2_usize, vec(request(), 1..=4))
            .prop_map(|(stream, requests)| Step::Send(stream, requests)),
        10 => vec(change(), 1..=4).prop_map(Step::Change),
        1 => Just(Step::Change(vec![Change::PutMany])),
        2 => (0..2_usize, create(), vec(change(), 1..=4))
            .prop_map(|(stream, create, changes)| Step::Rush(stream, create, changes)),
        2 => (-1..10_i64).prop_map(Step::Compact),
    ];
    vec(step, 1..=20).boxed()
}

fn request() -> impl Strategy<Value = StreamRequest> {
    prop_oneof![
        6 => create().prop_map(StreamRequest::Create),
        2 => watch_id().prop_map(StreamRequest::Cancel),
        1 => Just(StreamRequest::Progress),
    ]
}

fn create() -> impl Strategy<Value = Create> {
    let id = prop_oneof![3 => Just(0), 2 => watch_id()];
    let flags = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (id, watched(), start(), filters(), flags).prop_map(|(id, keys, start, filters, flags)| {
        let (prev_kv, progress_notify, fragment) = flags;
        Create { id, keys, start, filters, prev_kv, progress_notify, fragment }
    })
}

/// Mostly small, like the ids that the server chooses.
fn watch_id() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..6_i64, 1 => Just(-1), 1 => Just(-7), 1 => Just(i64::MIN)]
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        4 => Just(Start::Now),
        4 => (0..25_i64).prop_map(Start::Back),
        1 => (-6..0_i64).prop_map(Start::Back),
        2 => (0..3_i64).prop_map(Start::Compacted),
        1 => select(vec![-1, -2, i64::MIN]).prop_map(Start::Negative),
    ]
}

fn filters() -> impl Strategy<Value = Vec<i32>> {
    prop_oneof![6 => Just(vec![]), 1 => Just(vec![0]), 1 => Just(vec![1]), 1 => vec(0..4, 1..=3)]
}

fn watched() -> impl Strategy<Value = Keys> {
    select(vec![
        Keys("a", ""),
        Keys("b", ""),
        Keys("ab", ""),
        Keys("quiet", ""),
        Keys("", ""),
        Keys("\0", ""),
        Keys("a", "b"),
        Keys("a", "c"),
        Keys("a", "a\0"),
        Keys("", "b"),
        Keys("a", "\0"),
        Keys("b", "\0"),
        Keys("\0", "\0"),
        Keys("", "\0"),
        Keys("b", "a"),
        Keys("b", "b"),
        Keys("a", "\0\0"),
    ])
}

fn key() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c", "ab", "\0"])
}

fn put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![5 => Just(0), 1 => 1..3_i64];
    (key(), b'0'..b'4', prop::bool::weighted(0.05), lease)
        .prop_map(|(key, value, large, lease)| Put { key, value, large, lease })
}

/// Ranges to delete, none of them without an end.
fn deleted() -> impl Strategy<Value = Keys> {
    select(vec![
        Keys("a", ""),
        Keys("b", ""),
        Keys("c", ""),
        Keys("\0", ""),
        Keys("a", "b"),
        Keys("a", "c"),
        Keys("\0", "z"),
        Keys("b", "a"),
    ])
}

fn change() -> impl Strategy<Value = Change> {
    let lease = 1..3_i64;
    prop_oneof![
        8 => put().prop_map(Change::Put),
        4 => deleted().prop_map(Change::Delete),
        4 => vec(op(), 1..=4).prop_map(Change::Txn),
        1 => lease.clone().prop_map(Change::Grant),
        1 => lease.prop_map(Change::Revoke),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => put().prop_map(Op::Put),
        2 => deleted().prop_map(Op::Delete),
        1 => key().prop_map(Op::Flash),
    ]
}
