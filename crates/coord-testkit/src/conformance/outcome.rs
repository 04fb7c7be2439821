//! Outcome cases: the details of errors, and the effects of dropped futures.
//!
//! Every case of the suite that expects a refused request calls `expect_refused`, which also checks
//! that the [outcome](coord_core::Error) of the error is "not applied".

use std::task::Poll;
use std::time::Duration;

use coord_core::{
    Client, Error,
    error::ErrorKind,
    kv::{Compact, KeyRange, LeaseGrant, LeaseTimeToLive, Op, Put, Range, Revision, Txn, Watch},
};
use futures_util::future::poll_fn;

use super::helpers::{
    CheckResult, all_keys, compact, current_revision, expect_batch, expect_refused, grant_lease,
    key_names, puts, unused_lease_id, watch_all,
};
use super::table;

table! { Outcome;
    missing_key_error_names_the_callers_key,
    duplicate_key_error_names_the_callers_key,
    provided_value_and_lease_errors_name_the_key,
    missing_lease_error_names_the_lease,
    lease_exists_error_names_the_lease,
    invalid_ttl_error_reports_the_ttl,
    compacted_error_reports_true_revisions,
    future_revision_error_reports_true_revisions,
    empty_watch_range_error_names_the_range,
    refusals_leave_the_backend_usable,
    dropped_txn_is_applied_whole_or_not_at_all,
    dropped_put_leaves_the_backend_usable,
    dropped_grant_of_a_chosen_id_is_resolved_by_a_retry,
    dropped_watch_request_leaves_other_watches_alone,
}

/// Whether a detail is absent or correct: a backend may omit a detail, but must not report a wrong
/// one.
fn absent_or_equal<T: PartialEq>(detail: Option<T>, expected: T) -> bool {
    detail.is_none_or(|detail| detail == expected)
}

async fn missing_key_error_names_the_callers_key(kv: &Client) -> CheckResult {
    let keep = || Put::new("absent", "").ignore_value();
    for result in
        [kv.put_with(keep()).await.map(drop), kv.txn(Txn::new().and_then([keep()])).await.map(drop)]
    {
        let error = expect_refused(result, ErrorKind::KeyNotFound)?;
        let correct = match &error {
            Error::KeyNotFound { key } => absent_or_equal(key.as_deref(), b"absent"),
            _ => false,
        };
        ensure!(correct, "{error:?} names another key");
    }
    Ok(())
}

async fn duplicate_key_error_names_the_callers_key(kv: &Client) -> CheckResult {
    let txn = Txn::new().and_then(["a", "b", "b"].map(|key| Put::new(key, "1")));
    let error = expect_refused(kv.txn(txn).await, ErrorKind::DuplicateKey)?;
    ensure!(matches!(&error, Error::DuplicateKey { key } if key == "b"), "{error:?}");
    Ok(())
}

async fn provided_value_and_lease_errors_name_the_key(kv: &Client) -> CheckResult {
    let put = Put::new("a", "1").ignore_value();
    let error = expect_refused(kv.put_with(put).await, ErrorKind::ValueProvided)?;
    ensure!(matches!(&error, Error::ValueProvided { key } if key == "a"), "{error:?}");
    let put = Put::new("b", "1").ignore_lease().lease(grant_lease(kv).await?);
    let error = expect_refused(kv.put_with(put).await, ErrorKind::LeaseProvided)?;
    ensure!(matches!(&error, Error::LeaseProvided { key } if key == "b"), "{error:?}");
    Ok(())
}

async fn missing_lease_error_names_the_lease(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    for result in [
        kv.put_with(Put::new("a", "1").lease(missing)).await.map(drop),
        kv.lease_keep_alive(missing).await.map(drop),
        kv.lease_revoke(missing).await.map(drop),
    ] {
        let error = expect_refused(result, ErrorKind::LeaseNotFound)?;
        let correct =
            matches!(error, Error::LeaseNotFound { lease } if absent_or_equal(lease, missing));
        ensure!(correct, "{error:?} names another lease than {missing}");
    }
    Ok(())
}

async fn lease_exists_error_names_the_lease(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    let again = kv.lease_grant(LeaseGrant::new(Duration::from_secs(60)).id(id)).await;
    let error = expect_refused(again, ErrorKind::LeaseExists)?;
    ensure!(matches!(error, Error::LeaseExists { lease } if lease == id), "{error:?}");
    Ok(())
}

async fn invalid_ttl_error_reports_the_ttl(kv: &Client) -> CheckResult {
    let requested = Duration::from_millis(1500);
    let error =
        expect_refused(kv.lease_grant(LeaseGrant::new(requested)).await, ErrorKind::InvalidTtl)?;
    ensure!(matches!(error, Error::InvalidTtl { ttl } if ttl == requested), "{error:?}");
    Ok(())
}

async fn compacted_error_reports_true_revisions(kv: &Client) -> CheckResult {
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, two).await?;
    for result in [
        kv.range(Range::new("a").at(one)).await.map(drop),
        kv.compact(Compact::new(one)).await.map(drop),
    ] {
        let error = expect_refused(result, ErrorKind::Compacted)?;
        let correct = matches!(error, Error::Compacted { requested, compact_revision }
            if absent_or_equal(requested, one) && absent_or_equal(compact_revision, two));
        ensure!(
            correct,
            "{error:?}, but revision {one} was requested and {two} is the compact revision"
        );
    }
    Ok(())
}

async fn future_revision_error_reports_true_revisions(kv: &Client) -> CheckResult {
    let newest = current_revision(kv).await?;
    let future = Revision(newest.0 + 5);
    for result in [
        kv.range(Range::new("a").at(future)).await.map(drop),
        kv.compact(Compact::new(future)).await.map(drop),
    ] {
        let error = expect_refused(result, ErrorKind::FutureRevision)?;
        let correct = matches!(error, Error::FutureRevision { requested, current }
            if absent_or_equal(requested, future) && absent_or_equal(current, newest));
        ensure!(correct, "{error:?}, but revision {future} was requested and {newest} is current");
    }
    Ok(())
}

async fn empty_watch_range_error_names_the_range(kv: &Client) -> CheckResult {
    let inverted = KeyRange::from_wire("c", "a");
    let result = kv.watch(Watch::new(&inverted)).await;
    let error = expect_refused(result, ErrorKind::EmptyWatchRange)?;
    ensure!(matches!(&error, Error::EmptyWatchRange { keys } if *keys == inverted), "{error:?}");
    Ok(())
}

async fn refusals_leave_the_backend_usable(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    expect_refused(kv.put("", "1").await, ErrorKind::EmptyKey)?;
    expect_refused(
        kv.watch(Watch::new(KeyRange::from_wire("c", "a"))).await,
        ErrorKind::EmptyWatchRange,
    )?;
    let future = Range::new("a").at(Revision(i64::MAX));
    expect_refused(kv.range(future).await, ErrorKind::FutureRevision)?;
    let [one] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await
}

/// Polls a future once and drops it.
async fn poll_once_and_drop<T>(future: impl Future<Output = T>) {
    let mut future = Box::pin(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
}

async fn dropped_txn_is_applied_whole_or_not_at_all(kv: &Client) -> CheckResult {
    for _ in 0..10 {
        let ops = ["a", "b", "c"].map(|key| Op::from(Put::new(key, "1")));
        poll_once_and_drop(kv.txn(Txn::new().and_then(ops))).await;
        let seen = key_names(&kv.range(Range::new(KeyRange::all())).await?.kvs);
        ensure!(
            seen.is_empty() || seen == ["a", "b", "c"],
            "only some operations were applied: {seen:?}"
        );
    }
    Ok(())
}

async fn dropped_put_leaves_the_backend_usable(kv: &Client) -> CheckResult {
    poll_once_and_drop(kv.put("a", "1")).await;
    poll_once_and_drop(kv.range(Range::new("a"))).await;
    let [b] = puts(kv, [("b", "1")]).await?;
    ensure!(
        all_keys(kv).await?.contains(&"b".into()),
        "the key that was put after the dropped put is missing"
    );
    ensure!(current_revision(kv).await? >= b, "the revision decreased");
    Ok(())
}

async fn dropped_grant_of_a_chosen_id_is_resolved_by_a_retry(kv: &Client) -> CheckResult {
    let id = unused_lease_id(kv).await?;
    let grant = LeaseGrant::new(Duration::from_secs(60)).id(id);
    poll_once_and_drop(kv.lease_grant(grant)).await;
    match kv.lease_grant(grant).await {
        Ok(granted) => ensure_eq!(granted.id, id),
        Err(error) => ensure_eq!(error.kind(), ErrorKind::LeaseExists, "{error}"),
    }
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease;
    ensure!(lease.is_some(), "the lease does not exist after the retry");
    Ok(())
}

async fn dropped_watch_request_leaves_other_watches_alone(kv: &Client) -> CheckResult {
    poll_once_and_drop(kv.watch(Watch::new(KeyRange::all()))).await;
    let mut watch = watch_all(kv).await?;
    poll_once_and_drop(kv.watch(Watch::new("a"))).await;
    let [one] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await
}
