//! What checks are made of: assertions that return, and the few steps that most of them share.
//!
//! A check returns a [`Failure`] rather than panic: it says what was seen, what was expected and
//! where, so that a suite can go on and report all that is broken. What every sane answer has is
//! simply indexed: the runner reports a panic over an insane one as a failure too.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Client, Error, KvBackend,
    error::{ErrorKind, Outcome},
    kv::{
        Compact, EventKind, KeyRange, KeyValue, LeaseGrant, LeaseId, LeaseTimeToLive, Op,
        OpResponse, Put, Range, RangeResponse, Revision, Txn, TxnResponse, Watch, WatchBatch,
        Watcher,
    },
};
use futures_util::FutureExt as _;
use tokio::time::{advance, timeout};

/// A promise that was not kept: what was seen, and which line saw it.
#[derive(Clone, Debug)]
pub struct Failure {
    message: String,
    location: &'static Location<'static>,
}

/// What a check, or a step of one, comes to.
pub(super) type Checked<T = ()> = Result<T, Failure>;

impl Failure {
    #[track_caller]
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), location: Location::caller() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.message, self.location.file(), self.location.line())
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    #[track_caller]
    fn from(error: Error) -> Self {
        Self::new(format!("an error was not expected here: {error}"))
    }
}

/// Fails the check unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure::new(format!($($why)+)));
        }
    };
}

/// Fails the check unless the two are equal; a text after them says what they are about.
macro_rules! ensure_eq {
    ($got:expr, $expected:expr $(,)?) => {
        ensure_eq!($got, $expected, "{}", stringify!($got))
    };
    ($got:expr, $expected:expr, $($what:tt)+) => {
        match (&$got, &$expected) {
            (got, expected) => ensure!(
                *got == *expected,
                "{}: got {got:?}, expected {expected:?}", format_args!($($what)+)
            ),
        }
    };
}

/// The store's revision now.
pub(super) async fn now(kv: &Client) -> Checked<Revision> {
    Ok(kv.range(Range::new("now")).await?.header.revision)
}

/// Puts each key to its value, one after the other, and returns their revisions.
pub(super) async fn puts<const N: usize>(
    kv: &Client,
    pairs: [(&str, &str); N],
) -> Checked<[Revision; N]> {
    let mut revisions = [Revision::ZERO; N];
    for (revision, (key, value)) in revisions.iter_mut().zip(pairs) {
        *revision = kv.put(key, value).await?.header.revision;
    }
    Ok(revisions)
}

/// The key, which must exist.
pub(super) async fn get(kv: &Client, key: &str) -> Checked<KeyValue> {
    kv.get(key).await?.ok_or_else(|| Failure::new(format!("key {key:?} is missing")))
}

/// The key, which must exist, as it was at `revision`.
pub(super) async fn get_at(kv: &Client, key: &str, revision: Revision) -> Checked<KeyValue> {
    let mut response = kv.range(Range::new(key).at(revision)).await?;
    let kv = response.kvs.pop();
    kv.ok_or_else(|| Failure::new(format!("key {key:?} is missing at revision {revision}")))
}

/// The names of all keys, in the order in which the store gives them.
pub(super) async fn all_keys(kv: &Client) -> Checked<Vec<Bytes>> {
    Ok(names(&kv.range(Range::new(KeyRange::all())).await?.kvs))
}

/// The names of the keys that a range gives.
pub(super) async fn keys_of(kv: &Client, range: Range) -> Checked<Vec<Bytes>> {
    Ok(names(&kv.range(range).await?.kvs))
}

/// The names of keys.
pub(super) fn names(kvs: &[KeyValue]) -> Vec<Bytes> {
    kvs.iter().map(|kv| kv.key.clone()).collect()
}

/// Takes steps on no condition.
pub(super) async fn steps<const N: usize>(kv: &Client, ops: [Op; N]) -> Checked<TxnResponse> {
    Ok(kv.txn(Txn::new().and_then(ops)).await?)
}

/// The answer of step `step`, which must be that of a range.
pub(super) fn range_answer(response: &TxnResponse, step: usize) -> Checked<&RangeResponse> {
    let answer = response.responses.get(step).and_then(OpResponse::as_range);
    answer.ok_or_else(|| Failure::new(format!("step {step} is no range: {response:?}")))
}

/// The answer of step `step`, which must be that of a nested transaction.
pub(super) fn txn_answer(response: &TxnResponse, step: usize) -> Checked<&TxnResponse> {
    let answer = response.responses.get(step).and_then(OpResponse::as_txn);
    answer.ok_or_else(|| Failure::new(format!("step {step} is no transaction: {response:?}")))
}

/// The revision that a step's answer carries.
pub(super) const fn step_revision(response: &OpResponse) -> Revision {
    match response {
        OpResponse::Range(range) => range.header.revision,
        OpResponse::Put(put) => put.header.revision,
        OpResponse::Delete(delete) => delete.header.revision,
        OpResponse::Txn(txn) => txn.header.revision,
    }
}

/// Passes if the request was refused for this reason, and surely not applied.
#[track_caller]
pub(super) fn refused<T: fmt::Debug>(
    result: coord_core::Result<T>,
    kind: ErrorKind,
) -> Checked<Error> {
    match result {
        Ok(answer) => Err(Failure::new(format!("{kind:?} was expected, not success: {answer:?}"))),
        Err(error) if error.kind() != kind => {
            Err(Failure::new(format!("{kind:?} was expected, not {error:?}")))
        }
        Err(error) if error.outcome() != Outcome::NotApplied => {
            Err(Failure::new(format!("{error:?} was surely not applied, and does not say so")))
        }
        Err(error) => Ok(error),
    }
}

/// Compacts at `revision`, which must succeed.
pub(super) async fn compact(kv: &Client, revision: Revision) -> Checked {
    kv.compact(Compact::new(revision)).await?;
    Ok(())
}

/// Grants a lease of a minute: nothing ends it while a check runs.
pub(super) async fn lease(kv: &Client) -> Checked<LeaseId> {
    Ok(kv.lease_grant(LeaseGrant::new(Duration::from_secs(60))).await?.id)
}

/// A lease id that nobody uses: the store chose it, and it was given back.
pub(super) async fn free_lease(kv: &Client) -> Checked<LeaseId> {
    let id = lease(kv).await?;
    kv.lease_revoke(id).await?;
    Ok(id)
}

/// Moves the paused clock by `by` at once: no timer and no other task runs before the next call.
pub(super) fn jump(by: Duration) {
    // The clock moves at the first poll; only further polls would let other tasks run.
    let _ = advance(by).now_or_never();
}

/// The keys that hang on a lease, sorted.
pub(super) async fn lease_keys(kv: &Client, id: LeaseId) -> Checked<Vec<Bytes>> {
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id).with_keys()).await?.lease;
    let mut keys = lease.ok_or_else(|| Failure::new(format!("lease {id} is missing")))?.keys;
    keys.sort();
    Ok(keys)
}

/// A put of `key` on `lease`.
pub(super) async fn put_on(kv: &Client, lease: LeaseId, key: &str) -> Checked<Revision> {
    Ok(kv.put_with(Put::new(key, "leased").lease(lease)).await?.header.revision)
}

/// Watches every key from now on.
pub(super) async fn watch_all(kv: &Client) -> Checked<Watcher> {
    Ok(kv.watch(Watch::new(KeyRange::all())).await?)
}

/// Watches every key from `revision` on.
pub(super) async fn watch_from(kv: &Client, revision: Revision) -> Checked<Watcher> {
    Ok(kv.watch(Watch::new(KeyRange::all()).start_at(revision)).await?)
}

/// How long a check waits for what must come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the watch yields next, whatever it is.
pub(super) async fn next_item(
    watch: &mut Watcher,
) -> Checked<Option<coord_core::Result<WatchBatch>>> {
    let next = timeout(PATIENCE, watch.next()).await;
    next.map_err(|_| Failure::new(format!("the watch yielded nothing for {PATIENCE:?}")))
}

/// The next batch, a bookmark or not.
pub(super) async fn next_any(watch: &mut Watcher) -> Checked<WatchBatch> {
    let item = next_item(watch).await?;
    Ok(item.ok_or_else(|| Failure::new("the watch has ended"))??)
}

/// The next batch with events. A few bookmarks before it do no harm.
pub(super) async fn next_batch(watch: &mut Watcher) -> Checked<WatchBatch> {
    for _ in 0..10 {
        let batch = next_any(watch).await?;
        if !batch.events.is_empty() {
            return Ok(batch);
        }
    }
    Err(Failure::new("the watch yielded ten bookmarks in a row, and no event"))
}

/// The events of a batch in words: `put a=1`, `delete b`.
pub(super) fn told(batch: &WatchBatch) -> Vec<String> {
    let text = |bytes: &Bytes| bytes.escape_ascii().to_string();
    let events = batch.events.iter().map(|event| match event.kind {
        EventKind::Put => format!("put {}={}", text(&event.kv.key), text(&event.kv.value)),
        EventKind::Delete => format!("delete {}", text(&event.kv.key)),
    });
    events.collect()
}

/// Passes if the next batch is the one of `revision` with exactly these events.
pub(super) async fn expect_batch<const N: usize>(
    watch: &mut Watcher,
    revision: Revision,
    events: [&str; N],
) -> Checked {
    let batch = next_batch(watch).await?;
    ensure_eq!(told(&batch), events, "the events of revision {}", batch.revision);
    ensure_eq!(batch.revision, revision, "the revision of {events:?}");
    Ok(())
}
