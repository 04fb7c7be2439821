//! Scripts drawn at random: what is said on two watch streams, and what happens meanwhile.
//!
//! Few keys, few ids and revisions near the present, so that things meet. Revisions are told from
//! where the store is when the step comes, for stores are used more than once. What crashes a real
//! etcd is not drawn: a transaction deletes nothing without end.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// What is put for a barrier, and watched by nobody in particular.
pub(super) const SENTINEL: &str = "~";

/// The id of the watches that see it.
pub(super) const BARRIER: i64 = 4_000_000;

/// A value of so many bytes makes a message of thirteen too large, and of twelve with all that may
/// come with them small enough, by so much that a header may be a few bytes longer.
pub(super) const LARGE: usize = 48 * 1024;

/// The largest request: it takes two large values no more.
pub(super) const MAX_REQUEST_BYTES: usize = 72 * 1024;

/// How many large values are put at once.
pub(super) const MANY: usize = 14;

/// One step of a script. When it is done, everything that it brings is awaited.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Said on a stream, all in one go.
    Say(usize, Vec<Word>),
    /// Done to the store, all in one go.
    Change(Vec<Change>),
    /// A watch is created on a stream, and at once something is done to the store.
    Rush(usize, Create, Vec<Change>),
    /// A compaction so many revisions ago.
    Compact(i64),
}

/// What is said on a stream.
#[derive(Clone, Debug)]
pub(crate) enum Word {
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
    /// Nothing comes of it here, for nothing takes ten minutes.
    pub(super) progress_notify: bool,
    pub(super) fragment: bool,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// Zero.
    Now,
    /// So many revisions ago; 0 is the present one, and what is negative lies ahead.
    Back(i64),
    /// So many revisions before what is compacted.
    Compacted(i64),
    /// Below zero.
    Negative(i64),
}

/// The first key and the end, as the wire has them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys(pub(super) &'static str, pub(super) &'static str);

/// What is done to the store.
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

/// A step of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Put),
    Delete(Keys),
    /// A transaction that puts the key, and another one that deletes it: one key changes twice.
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

/// All scripts there are.
pub(super) fn scripts() -> BoxedStrategy<Vec<Step>> {
    let step = prop_oneof![
        8 => (0..2_usize, vec(word(), 1..=4)).prop_map(|(stream, words)| Step::Say(stream, words)),
        10 => vec(change(), 1..=4).prop_map(Step::Change),
        1 => Just(Step::Change(vec![Change::PutMany])),
        2 => (0..2_usize, create(), vec(change(), 1..=4))
            .prop_map(|(stream, create, changes)| Step::Rush(stream, create, changes)),
        2 => (-1..10_i64).prop_map(Step::Compact),
    ];
    vec(step, 1..=20).boxed()
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        6 => create().prop_map(Word::Create),
        2 => watch_id().prop_map(Word::Cancel),
        1 => Just(Word::Progress),
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

/// Small, as those are that the server chooses.
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

/// Never without end.
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
