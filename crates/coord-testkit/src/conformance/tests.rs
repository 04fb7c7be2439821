//! Tests of the suite itself: the table is sound, the contract is covered, and faulty backends
//! fail.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    kv::{
        LeaseGrant, LeaseGrantResponse, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse,
        Watch, WatchBatch, WatchStream, Watcher,
    },
    layer::Layer,
};
use coord_mem::MemBackend;
use futures_util::Stream;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::{CONTRACT, Capability, CaseFailure, CaseResult, Clock, Suite, cases};

#[test]
fn table_has_at_least_120_cases_with_unique_names() {
    let names: Vec<_> = cases().map(|case| case.name).collect();
    assert!(names.len() >= 120, "there are {}", names.len());
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn every_capability_is_required_by_some_case() {
    let required: BTreeSet<_> = cases().flat_map(|case| case.requires).copied().collect();
    assert_eq!(required, BTreeSet::from(Capability::ALL));
}

#[test]
fn every_clause_names_existing_cases() {
    let names: BTreeSet<_> = cases().map(|case| case.name).collect();
    for clause in CONTRACT {
        for case in clause.cases {
            assert!(names.contains(case), "{case} is named by {:?}", clause.text);
        }
    }
    let without_case = CONTRACT.iter().filter(|clause| clause.cases.is_empty()).count();
    assert_eq!(without_case, 2, "only clauses on broken connections have no case");
}

#[test]
fn clauses_equal_the_documentation_of_the_trait() {
    let source = include_str!("../../../coord-core/src/backend.rs");
    let doc = source.split("/// # Contract").nth(1).expect("the trait documents its contract");
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
    // `CONTRACT` contains the name of an item where the documentation contains a link to the item.
    let plain = |bullet: &String| {
        let bullet = bullet.replace("[`watch`](Self::watch)", "`watch`");
        bullet.replace("[`Compacted`](crate::Error::Compacted)", "`Compacted`")
    };
    let bullets: Vec<_> = bullets.iter().map(plain).collect();
    assert_eq!(bullets, CONTRACT.iter().map(|clause| clause.text).collect::<Vec<_>>());
}

#[test]
fn failure_from_an_error_reports_the_line() {
    let check = || -> Result<(), CaseFailure> { Err(Error::EmptyKey)? };
    let line = line!() - 1;
    let failure = check().expect_err("the error is converted to a failure");
    assert!(failure.to_string().contains(&format!("tests.rs:{line}")), "{failure}");
}

/// A violation of the contract.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Violation {
    HidesPreviousKeys,
    SplitsTransactions,
    DropsEverySecondBatch,
    Panics,
    /// The error for a watch of an empty range from a negative revision names the range, not the
    /// start.
    ChecksTheRangeFirst,
    /// A lease expires only when the store's timer runs; no call checks the clock.
    ExpiresLeasesByTimerOnly,
}

/// A `MemBackend` with one violation.
#[derive(Debug)]
struct FaultyBackend(MemBackend, Violation);

#[async_trait]
impl Layer for FaultyBackend {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        &self.0
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        assert!(self.1 != Violation::Panics, "the faulty backend panics");
        self.0.range(request).await
    }

    async fn txn(&self, mut request: Txn) -> Result<TxnResponse> {
        if self.1 == Violation::SplitsTransactions && request.success.len() > 1 {
            let last = request.success.pop().expect("there is more than one operation");
            let mut first = self.0.txn(request).await?;
            let second = self.0.txn(Txn::new().and_then([last])).await?;
            first.responses.extend(second.responses);
            return Ok(first);
        }
        self.0.txn(request).await
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        if self.1 == Violation::ChecksTheRangeFirst && request.keys.is_empty() {
            return Err(Error::EmptyWatchRange { keys: request.keys });
        }
        let watch = self.0.watch(request).await?;
        if self.1 == Violation::DropsEverySecondBatch {
            return Ok(Watcher::new(watch.header(), LossyWatch { inner: watch, batches: 0 }));
        }
        Ok(watch)
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        let granted = self.0.lease_grant(request).await?;
        if self.1 == Violation::ExpiresLeasesByTimerOnly {
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
        if self.1 == Violation::HidesPreviousKeys {
            response.prev_kv = None;
        }
        Ok(response)
    }
}

/// A watch that drops every second batch.
struct LossyWatch {
    inner: Watcher,
    batches: usize,
}

impl Stream for LossyWatch {
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

impl WatchStream for LossyWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.inner.request_progress();
    }
}

/// The names of the cases that a backend with this violation fails.
async fn cases_failed_by(violation: Violation) -> Vec<&'static str> {
    let factory = move || async move {
        // On a lease clock that stands still, no lease of the inner store expires.
        let rate = if violation == Violation::ExpiresLeasesByTimerOnly { 0.0 } else { 1.0 };
        ((), FaultyBackend(MemBackend::builder().lease_clock_rate(rate).build(), violation))
    };
    let report = Suite::new("faulty", Clock::Paused, factory).claims(Capability::ALL).run().await;
    report.failed().map(|(case, _)| case.name).collect()
}

#[tokio::test(start_paused = true)]
async fn backend_that_hides_previous_keys_fails_one_case() {
    let failed = cases_failed_by(Violation::HidesPreviousKeys).await;
    assert_eq!(failed, ["previous_key_has_every_field"]);
}

#[tokio::test(start_paused = true)]
async fn backend_that_splits_transactions_is_caught() {
    let failed = cases_failed_by(Violation::SplitsTransactions).await;
    for case in [
        "txn_of_several_changes_makes_exactly_one_revision",
        "nested_compare_does_not_see_earlier_writes_of_the_same_txn",
        "txn_with_a_missing_key_changes_nothing",
        "changes_of_a_txn_arrive_in_one_batch",
    ] {
        assert!(failed.contains(&case), "{case} passed; failed: {failed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn backend_that_loses_events_is_caught() {
    let failed = cases_failed_by(Violation::DropsEverySecondBatch).await;
    for case in [
        "watch_delivers_every_change_after_its_registration",
        "every_revision_is_a_batch_of_its_own",
        "unread_watch_misses_nothing",
        "watch_from_a_past_revision_replays_in_order",
    ] {
        assert!(failed.contains(&case), "{case} passed; failed: {failed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn backend_that_checks_the_watch_range_first_fails_one_case() {
    let failed = cases_failed_by(Violation::ChecksTheRangeFirst).await;
    assert_eq!(failed, ["empty_watch_from_a_negative_start_fails_for_its_start"]);
}

#[tokio::test(start_paused = true)]
async fn backend_that_expires_leases_by_timer_only_is_caught() {
    let failed = cases_failed_by(Violation::ExpiresLeasesByTimerOnly).await;
    let overdue = cases().map(|case| case.name).filter(|name| name.contains("overdue"));
    for case in overdue {
        assert!(failed.contains(&case), "{case} passed; failed: {failed:?}");
    }
    // The store passes the other cases of expiry, because its timer can run in them.
    for case in ["expired_lease_is_not_found", "lease_expires_soon_after_its_ttl"] {
        assert!(!failed.contains(&case), "{case} failed");
    }
}

#[tokio::test(start_paused = true)]
async fn run_continues_after_a_case_panics() {
    let factory = async || ((), FaultyBackend(MemBackend::new(), Violation::Panics));
    let report = Suite::new("faulty", Clock::Paused, factory).claims(Capability::ALL).run().await;
    assert_eq!(report.rows.len(), cases().count());
    let (_, failure) = report.failed().next().expect("a range panicked");
    assert!(failure.to_string().contains("the faulty backend panics"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn case_without_claimed_capability_is_skipped() {
    let report = Suite::new("mem", Clock::Paused, async || ((), MemBackend::new())).run().await;
    assert_eq!(report.failed().count(), 0, "{report}");
    for (case, result) in &report.rows {
        let claimed = case.requires.iter().all(|&required| required == Capability::VirtualTime);
        assert_eq!(matches!(result, CaseResult::Passed), claimed, "{case}");
    }
    assert!(report.to_string().contains("skipped put::"), "{report}");
}
