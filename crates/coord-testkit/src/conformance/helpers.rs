//! Assertions and request helpers that the conformance cases share.
//!
//! A failed assertion returns a [`CaseFailure`] with a message, such as the actual and the expected
//! value, and with the source line. Cases index into responses without a bounds check, because the
//! runner reports a panic as a failure too.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Client, Error,
    error::{ErrorKind, Outcome},
    kv::{
        Compact, EventKind, KeyRange, KeyValue, LeaseGrant, LeaseId, LeaseTimeToLive, Op,
        OpResponse, Put, Range, RangeResponse, Revision, Txn, TxnResponse, Watch, WatchBatch,
        Watcher,
    },
};
use futures_util::FutureExt as _;
use tokio::time::{advance, timeout};

/// Why a case failed: a message, and the source line of the failed assertion.
#[derive(Clone, Debug)]
pub struct CaseFailure {
    message: String,
    location: &'static Location<'static>,
}

/// The result of a case, or of a helper.
pub(super) type CheckResult<T = ()> = Result<T, CaseFailure>;

impl CaseFailure {
    #[track_caller]
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), location: Location::caller() }
    }
}

impl fmt::Display for CaseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.message, self.location.file(), self.location.line())
    }
}

impl std::error::Error for CaseFailure {}

impl From<Error> for CaseFailure {
    #[track_caller]
    fn from(error: Error) -> Self {
        Self::new(format!("unexpected error: {error}"))
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::conformance::CaseFailure::new(format!($($why)+)));
        }
    };
}

/// Fails the case unless both values are equal. An optional format string describes the value.
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

/// The store's current revision.
pub(super) async fn current_revision(kv: &Client) -> CheckResult<Revision> {
    Ok(kv.range(Range::new("any")).await?.header.revision)
}

/// Puts the key-value pairs, one after the other, and returns the revision of each put.
pub(super) async fn puts<const N: usize>(
    kv: &Client,
    pairs: [(&str, &str); N],
) -> CheckResult<[Revision; N]> {
    let mut revisions = [Revision::ZERO; N];
    for (revision, (key, value)) in revisions.iter_mut().zip(pairs) {
        *revision = kv.put(key, value).await?.header.revision;
    }
    Ok(revisions)
}

/// The key-value of `key`, which must exist.
pub(super) async fn get(kv: &Client, key: &str) -> CheckResult<KeyValue> {
    kv.get(key).await?.ok_or_else(|| CaseFailure::new(format!("key {key:?} is missing")))
}

/// The key-value of `key` at `revision`, where it must exist.
pub(super) async fn get_at(kv: &Client, key: &str, revision: Revision) -> CheckResult<KeyValue> {
    let mut response = kv.range(Range::new(key).at(revision)).await?;
    let kv = response.kvs.pop();
    kv.ok_or_else(|| CaseFailure::new(format!("key {key:?} is missing at revision {revision}")))
}

/// All keys, in the order in which the store returns them.
pub(super) async fn all_keys(kv: &Client) -> CheckResult<Vec<Bytes>> {
    Ok(key_names(&kv.range(Range::new(KeyRange::all())).await?.kvs))
}

/// The keys that a range request returns, in the order of the response.
pub(super) async fn keys_of(kv: &Client, range: Range) -> CheckResult<Vec<Bytes>> {
    Ok(key_names(&kv.range(range).await?.kvs))
}

/// The keys of key-values.
pub(super) fn key_names(kvs: &[KeyValue]) -> Vec<Bytes> {
    kvs.iter().map(|kv| kv.key.clone()).collect()
}

/// Runs the operations in a transaction without compares.
pub(super) async fn run_ops<const N: usize>(kv: &Client, ops: [Op; N]) -> CheckResult<TxnResponse> {
    Ok(kv.txn(Txn::new().and_then(ops)).await?)
}

/// The response of the operation at `index`, which must be a range.
pub(super) fn range_response(response: &TxnResponse, index: usize) -> CheckResult<&RangeResponse> {
    let range = response.responses.get(index).and_then(OpResponse::as_range);
    range.ok_or_else(|| CaseFailure::new(format!("operation {index} is not a range: {response:?}")))
}

/// The response of the operation at `index`, which must be a nested transaction.
pub(super) fn txn_response(response: &TxnResponse, index: usize) -> CheckResult<&TxnResponse> {
    let txn = response.responses.get(index).and_then(OpResponse::as_txn);
    txn.ok_or_else(|| CaseFailure::new(format!("operation {index} is not a txn: {response:?}")))
}

/// The revision in the header of an operation's response.
pub(super) const fn op_revision(response: &OpResponse) -> Revision {
    match response {
        OpResponse::Range(range) => range.header.revision,
        OpResponse::Put(put) => put.header.revision,
        OpResponse::Delete(delete) => delete.header.revision,
        OpResponse::Txn(txn) => txn.header.revision,
    }
}

/// Passes if the request failed with `kind` and the outcome "not applied". Returns the error.
#[track_caller]
pub(super) fn expect_refused<T: fmt::Debug>(
    result: coord_core::Result<T>,
    kind: ErrorKind,
) -> CheckResult<Error> {
    match result {
        Ok(response) => {
            Err(CaseFailure::new(format!("expected {kind:?}, got success: {response:?}")))
        }
        Err(error) if error.kind() != kind => {
            Err(CaseFailure::new(format!("expected {kind:?}, got {error:?}")))
        }
        Err(error) if error.outcome() != Outcome::NotApplied => {
            Err(CaseFailure::new(format!("expected the outcome NotApplied, got {error:?}")))
        }
        Err(error) => Ok(error),
    }
}

/// Compacts at `revision`.
pub(super) async fn compact(kv: &Client, revision: Revision) -> CheckResult {
    kv.compact(Compact::new(revision)).await?;
    Ok(())
}

/// The TTL of the lease that [`grant_lease`] grants: longer than a case runs.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(60);

/// Grants a lease for [`LEASE_TTL`].
pub(super) async fn grant_lease(kv: &Client) -> CheckResult<LeaseId> {
    Ok(kv.lease_grant(LeaseGrant::new(LEASE_TTL)).await?.id)
}

/// A lease id that no lease has: the store chose the id for a lease that was then revoked.
pub(super) async fn unused_lease_id(kv: &Client) -> CheckResult<LeaseId> {
    let id = grant_lease(kv).await?;
    kv.lease_revoke(id).await?;
    Ok(id)
}

/// Moves the paused clock ahead by `by`. No timer and no other task runs before the next call.
pub(super) fn jump_clock(by: Duration) {
    // `advance` moves the clock at its first poll; only later polls let other tasks run.
    let _ = advance(by).now_or_never();
}

/// The keys attached to a lease, sorted.
pub(super) async fn lease_keys(kv: &Client, id: LeaseId) -> CheckResult<Vec<Bytes>> {
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id).with_keys()).await?.lease;
    let mut keys = lease.ok_or_else(|| CaseFailure::new(format!("lease {id} is missing")))?.keys;
    keys.sort();
    Ok(keys)
}

/// Puts `key`, attached to `lease`, and returns the revision of the put.
pub(super) async fn put_on(kv: &Client, lease: LeaseId, key: &str) -> CheckResult<Revision> {
    Ok(kv.put_with(Put::new(key, "leased").lease(lease)).await?.header.revision)
}

/// Watches every key from now on.
pub(super) async fn watch_all(kv: &Client) -> CheckResult<Watcher> {
    Ok(kv.watch(Watch::new(KeyRange::all())).await?)
}

/// Watches every key from `revision` on.
pub(super) async fn watch_from(kv: &Client, revision: Revision) -> CheckResult<Watcher> {
    Ok(kv.watch(Watch::new(KeyRange::all()).start_at(revision)).await?)
}

/// How long a case waits for the next item of a watch.
const NEXT_ITEM_TIMEOUT: Duration = Duration::from_secs(5);

/// The next item of the watch: a batch, an error, or the end.
pub(super) async fn next_item(
    watch: &mut Watcher,
) -> CheckResult<Option<coord_core::Result<WatchBatch>>> {
    let next = timeout(NEXT_ITEM_TIMEOUT, watch.next()).await;
    next.map_err(|_| {
        CaseFailure::new(format!("the watch yielded nothing for {NEXT_ITEM_TIMEOUT:?}"))
    })
}

/// The next batch, which may be a progress notification.
pub(super) async fn next_batch_or_progress(watch: &mut Watcher) -> CheckResult<WatchBatch> {
    let item = next_item(watch).await?;
    Ok(item.ok_or_else(|| CaseFailure::new("the watch ended"))??)
}

/// The next batch with events. At most nine progress notifications may come before it.
pub(super) async fn next_batch(watch: &mut Watcher) -> CheckResult<WatchBatch> {
    for _ in 0..10 {
        let batch = next_batch_or_progress(watch).await?;
        if !batch.events.is_empty() {
            return Ok(batch);
        }
    }
    Err(CaseFailure::new("the watch yielded ten progress notifications in a row and no event"))
}

/// The events of a batch as text: `put a=1`, `delete b`.
pub(super) fn event_texts(batch: &WatchBatch) -> Vec<String> {
    let text = |bytes: &Bytes| bytes.escape_ascii().to_string();
    let events = batch.events.iter().map(|event| match event.kind {
        EventKind::Put => format!("put {}={}", text(&event.kv.key), text(&event.kv.value)),
        EventKind::Delete => format!("delete {}", text(&event.kv.key)),
    });
    events.collect()
}

/// Passes if the next batch with events has this revision and exactly these events.
pub(super) async fn expect_batch<const N: usize>(
    watch: &mut Watcher,
    revision: Revision,
    events: [&str; N],
) -> CheckResult {
    let batch = next_batch(watch).await?;
    ensure_eq!(event_texts(&batch), events, "the events of revision {}", batch.revision);
    ensure_eq!(batch.revision, revision, "the revision of {events:?}");
    Ok(())
}
