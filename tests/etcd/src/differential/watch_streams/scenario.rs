//! Random scenarios: requests on two watch streams, and changes of the store.
//!
//! Scenarios use few keys, few ids and recent revisions, so that these coincide. Revisions are
//! relative to the store's revision when the step runs, because several scenarios share a store.
//! Requests that crash a real etcd are not generated: no transaction has an unbounded delete.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// The key that a barrier (`server.rs`) puts and watches.
pub(super) const SENTINEL_KEY: &str = "~";

/// The id of a barrier's watches.
pub(super) const BARRIER_WATCH_ID: i64 = 4_000_000;

/// The size of a large value in bytes. A message with 13 of these values exceeds etcd's limit; a
/// message with 12 of them and everything else that it may contain does not, header included.
pub(super) const LARGE_VALUE_BYTES: usize = 48 * 1024;

/// The size limit of a request in bytes: less than two large values.
pub(super) const MAX_REQUEST_BYTES: usize = 72 * 1024;

/// The number of large values that [`Change::PutMany`] puts.
pub(super) const PUT_MANY_COUNT: usize = 14;

/// One step of a scenario. After the step, the test waits for all messages that it causes.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends requests on a stream, without waiting between them.
    Send(usize, Vec<StreamRequest>),
    /// Changes the store, one change after the other.
    Change(Vec<Change>),
    /// Creates a watch on a stream, and changes the store without waiting for the watch's history.
    CreateAndChange(usize, Create, Vec<Change>),
    /// Compacts, this many revisions before the newest.
    Compact(i64),
}

/// A request on a stream.
#[derive(Clone, Debug)]
pub(crate) enum StreamRequest {
    Create(Create),
    Cancel(i64),
    Progress,
}

/// A request to create a watch.
#[derive(Clone)]
pub(crate) struct Create {
    pub(super) id: i64,
    pub(super) keys: Keys,
    pub(super) start: Start,
    pub(super) filters: Vec<i32>,
    pub(super) prev_kv: bool,
    /// Has no effect, because etcd sends such a notification after ten minutes.
    pub(super) progress_notify: bool,
    pub(super) fragment: bool,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// Revision 0: the watch receives new events only.
    Now,
    /// A number of revisions before the newest; a negative number is in the future.
    Back(i64),
    /// A number of revisions before the compact revision.
    Compacted(i64),
    /// A negative revision.
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
    /// Puts many large values.
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
    /// Two nested transactions, which put and delete the key: one key changes twice.
    PutAndDelete(&'static str),
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
        let ellipsis = if *large { "…" } else { "" };
        write!(f, "{key:?}={}{ellipsis}", char::from(*value))?;
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
            .prop_map(|(stream, create, changes)| Step::CreateAndChange(stream, create, changes)),
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
    (id, watched_keys(), start(), filters(), flags).prop_map(|(id, keys, start, filters, flags)| {
        let (prev_kv, progress_notify, fragment) = flags;
        Create { id, keys, start, filters, prev_kv, progress_notify, fragment }
    })
}

/// Watch ids, mostly small ones, like the ids that the server chooses.
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

/// Ranges to watch. The key `quiet` never changes.
fn watched_keys() -> impl Strategy<Value = Keys> {
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

/// Ranges to delete. None is unbounded.
fn deleted_keys() -> impl Strategy<Value = Keys> {
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
        4 => deleted_keys().prop_map(Change::Delete),
        4 => vec(op(), 1..=4).prop_map(Change::Txn),
        1 => lease.clone().prop_map(Change::Grant),
        1 => lease.prop_map(Change::Revoke),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => put().prop_map(Op::Put),
        2 => deleted_keys().prop_map(Op::Delete),
        1 => key().prop_map(Op::PutAndDelete),
    ]
}
