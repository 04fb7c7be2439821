//! The suite under test: the table is sound, the contract is covered, and a wrong backend fails.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    kv::{
        Compact, CompactResponse, Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId,
        LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
        LeasesResponse, Limits, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse, Watch,
        WatchBatch, WatchStream, Watcher,
    },
};
use coord_mem::MemBackend;
use futures_util::Stream;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::{CONTRACT, Clock, Failure, Need, Suite, Verdict, promises};

#[test]
fn there_are_at_least_120_promises_and_their_names_are_unique() {
    let names: Vec<_> = promises().map(|promise| promise.name).collect();
    assert!(names.len() >= 120, "there are {}", names.len());
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn every_need_is_needed_by_some_promise() {
    let needed: BTreeSet<_> = promises().flat_map(|promise| promise.needs).copied().collect();
    assert_eq!(needed, BTreeSet::from(Need::ALL));
}

#[test]
fn every_clause_names_promises_that_exist() {
    let names: BTreeSet<_> = promises().map(|promise| promise.name).collect();
    for clause in CONTRACT {
        for promise in clause.promises {
            assert!(names.contains(promise), "{promise} proves {:?}", clause.text);
        }
    }
    let unseen = CONTRACT.iter().filter(|clause| clause.promises.is_empty()).count();
    assert_eq!(unseen, 2, "only what needs a broken connection goes without a promise");
}

#[test]
fn clauses_are_the_bullets_of_the_trait() {
    let source = include_str!("../../../coord-core/src/backend.rs");
    let doc = source.split("/// # Contract").nth(1).expect("the trait tells its contract");
    let doc = doc.split("/// Source:").next().expect("a split has a first part");
    let mut bullets: Vec<String> = Vec::new();
    for line in doc.lines().map(|line| line.trim_start_matches("///").trim()) {
        match (line.strip_prefix("- "), bullets.last_mut()) {
            (Some(bullet), _) => bullets.push(bullet.to_owned()),
            (None, Some(bullet)) if !line.is_empty() && !line.starts_with('*') => {
                bullet.push_str(&format!(" {line}"));
            }
            _ => {}
        }
    }
    // A link to an item reads as the item's name.
    let plain = |bullet: &String| {
        let bullet = bullet.replace("[`watch`](Self::watch)", "`watch`");
        bullet.replace("[`Compacted`](crate::Error::Compacted)", "`Compacted`")
    };
    let bullets: Vec<_> = bullets.iter().map(plain).collect();
    assert_eq!(bullets, CONTRACT.iter().map(|clause| clause.text).collect::<Vec<_>>());
}

#[test]
fn failure_over_an_error_tells_the_line_that_met_it() {
    let check = || -> Result<(), Failure> { Err(Error::EmptyKey)? };
    let line = line!() - 1;
    let failure = check().expect_err("the check met an error");
    assert!(failure.to_string().contains(&format!("tests.rs:{line}")), "{failure}");
}

/// What a wrong backend does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    HidesPreviousKeys,
    SplitsTransactions,
    LosesEverySecondBatch,
    Panics,
    /// Of two reasons to refuse a watch, an empty range comes before a negative start.
    ChecksTheRangeFirst,
    /// A lease ends when the store's timer runs, and no call looks at the clock.
    EndsLeasesByTimerOnly,
}

/// A `MemBackend` with one fault.
struct Wrong(MemBackend, Fault);

#[async_trait]
impl Layer for Wrong {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        &self.0
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        assert!(self.1 != Fault::Panics, "the wrong backend panics");
        self.0.range(request).await
    }

    async fn txn(&self, mut request: Txn) -> Result<TxnResponse> {
        if self.1 == Fault::SplitsTransactions && request.success.len() > 1 {
            let last = request.success.pop().expect("there is more than one step");
            let mut first = self.0.txn(request).await?;
            let second = self.0.txn(Txn::new().and_then([last])).await?;
            first.responses.extend(second.responses);
            return Ok(first);
        }
        self.0.txn(request).await
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        if self.1 == Fault::ChecksTheRangeFirst && request.keys.is_empty() {
            return Err(Error::EmptyWatchRange { keys: request.keys });
        }
        let watch = self.0.watch(request).await?;
        if self.1 == Fault::LosesEverySecondBatch {
            return Ok(Watcher::new(watch.header(), Lossy { inner: watch, batches: 0 }));
        }
        Ok(watch)
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        let granted = self.0.lease_grant(request).await?;
        if self.1 == Fault::EndsLeasesByTimerOnly {
            let store = self.0.clone();
            Handle::current().spawn(async move {
                sleep(granted.ttl).await;
                store.lease_revoke(granted.id).await
            });
        }
        Ok(granted)
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        let mut response = self.0.put(request).await?;
        if self.1 == Fault::HidesPreviousKeys {
            response.prev_kv = None;
        }
        Ok(response)
    }
}

/// A watch that loses every second batch.
struct Lossy {
    inner: Watcher,
    batches: usize,
}

impl Stream for Lossy {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let item = ready!(Pin::new(&mut self.inner).poll_next(cx));
            self.batches += 1;
            if self.batches % 2 == 1 {
                return Poll::Ready(item);
            }
        }
    }
}

impl WatchStream for Lossy {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.inner.request_progress();
    }
}

/// The names of the promises that a backend with this fault breaks.
async fn broken_by(fault: Fault) -> Vec<&'static str> {
    let factory = move || async move {
        // A clock that stands still ends no lease.
        let rate = if fault == Fault::EndsLeasesByTimerOnly { 0.0 } else { 1.0 };
        ((), Wrong(MemBackend::builder().lease_clock_rate(rate).build(), fault))
    };
    let report = Suite::new("wrong", Clock::Paused, factory).claims(Need::ALL).run().await;
    report.broken().map(|(promise, _)| promise.name).collect()
}

#[tokio::test(start_paused = true)]
async fn backend_that_hides_previous_keys_breaks_exactly_that_promise() {
    let broken = broken_by(Fault::HidesPreviousKeys).await;
    assert_eq!(broken, ["previous_key_is_the_whole_key_as_it_was"]);
}

#[tokio::test(start_paused = true)]
async fn backend_that_splits_transactions_is_caught() {
    let broken = broken_by(Fault::SplitsTransactions).await;
    for promise in [
        "txn_of_several_changes_makes_exactly_one_revision",
        "nested_compare_does_not_see_earlier_writes_of_the_same_txn",
        "txn_with_a_missing_key_changed_nothing",
        "changes_of_a_txn_arrive_in_one_batch",
    ] {
        assert!(broken.contains(&promise), "{promise} held; broken were {broken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn backend_that_loses_events_is_caught() {
    let broken = broken_by(Fault::LosesEverySecondBatch).await;
    for promise in [
        "watch_delivers_every_change_after_its_registration",
        "every_revision_is_a_batch_of_its_own",
        "unread_watch_misses_nothing",
        "watch_from_the_past_replays_every_revision_in_order",
    ] {
        assert!(broken.contains(&promise), "{promise} held; broken were {broken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn backend_that_checks_the_watch_range_first_breaks_one_promise() {
    let broken = broken_by(Fault::ChecksTheRangeFirst).await;
    assert_eq!(broken, ["watch_of_no_key_from_a_negative_start_fails_for_its_start"]);
}

#[tokio::test(start_paused = true)]
async fn backend_that_ends_leases_by_timer_only_is_caught() {
    let broken = broken_by(Fault::EndsLeasesByTimerOnly).await;
    let overdue = promises().map(|promise| promise.name).filter(|name| name.contains("overdue"));
    for promise in overdue {
        assert!(broken.contains(&promise), "{promise} held; broken were {broken:?}");
    }
    // With time for its timer to run the store keeps what it keeps otherwise.
    for promise in ["expired_lease_is_missing", "lease_ends_soon_after_its_time"] {
        assert!(!broken.contains(&promise), "{promise} did not hold");
    }
}

#[tokio::test(start_paused = true)]
async fn backend_that_panics_breaks_its_promises_and_ends_no_run() {
    let factory = async || ((), Wrong(MemBackend::new(), Fault::Panics));
    let report = Suite::new("wrong", Clock::Paused, factory).claims(Need::ALL).run().await;
    assert_eq!(report.rows.len(), promises().count());
    let (_, failure) = report.broken().next().expect("a range panicked");
    assert!(failure.to_string().contains("the wrong backend panics"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_claimed_is_reported_and_not_kept() {
    let report = Suite::new("mem", Clock::Paused, async || ((), MemBackend::new())).run().await;
    assert_eq!(report.broken().count(), 0, "{report}");
    for (promise, verdict) in &report.rows {
        let claimed = promise.needs.iter().all(|&need| need == Need::VirtualTime);
        assert_eq!(matches!(verdict, Verdict::Kept), claimed, "{promise}");
    }
    assert!(report.to_string().contains("unclaimed put::"), "{report}");
}
