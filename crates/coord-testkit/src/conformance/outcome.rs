//! What errors tell, and what a dropped future leaves behind.
//!
//! Everywhere in this suite, a refusal counts as one only if its [`outcome`](coord_core::Error) is
//! "surely not applied". Here are the details that errors carry, and cancellation.

use std::task::Poll;
use std::time::Duration;

use coord_core::{
    Client, Error, KvBackend,
    error::ErrorKind,
    kv::{Compact, KeyRange, LeaseGrant, LeaseTimeToLive, Op, Put, Range, Revision, Txn, Watch},
};
use futures_util::future::poll_fn;

use super::steps::{
    Checked, all_keys, compact, expect_batch, free_lease, lease, names, now, puts, refused,
    watch_all,
};
use super::table;

table! { Outcome;
    missing_key_is_told_as_the_caller_knows_it,
    duplicate_key_is_told_as_the_caller_knows_it,
    provided_value_and_lease_tell_the_key,
    missing_lease_is_told,
    lease_that_exists_is_told,
    refused_time_is_told,
    compacted_error_tells_true_revisions,
    future_error_tells_true_revisions,
    refused_watch_tells_its_range,
    refusals_leave_the_backend_usable,
    dropped_txn_is_applied_whole_or_not_at_all,
    dropped_put_leaves_the_backend_usable,
    dropped_grant_of_a_chosen_id_can_be_told_by_trying_again,
    dropped_watch_request_disturbs_nothing,
}

/// What a backend was not told it cannot tell; what it tells must be true.
fn true_if_told<T: PartialEq>(told: Option<T>, truth: T) -> bool {
    told.is_none_or(|told| told == truth)
}

async fn missing_key_is_told_as_the_caller_knows_it(kv: &Client) -> Checked {
    let keep = || Put::new("absent", "").ignore_value();
    for result in
        [kv.put_with(keep()).await.map(drop), kv.txn(Txn::new().and_then([keep()])).await.map(drop)]
    {
        let error = refused(result, ErrorKind::KeyNotFound)?;
        let told =
            matches!(&error, Error::KeyNotFound { key } if true_if_told(key.as_deref(), b"absent"));
        ensure!(told, "{error:?} tells another key");
    }
    Ok(())
}

async fn duplicate_key_is_told_as_the_caller_knows_it(kv: &Client) -> Checked {
    let txn = Txn::new().and_then(["a", "b", "b"].map(|key| Put::new(key, "1")));
    let error = refused(kv.txn(txn).await, ErrorKind::DuplicateKey)?;
    ensure!(matches!(&error, Error::DuplicateKey { key } if key == "b"), "{error:?}");
    Ok(())
}

async fn provided_value_and_lease_tell_the_key(kv: &Client) -> Checked {
    let put = Put::new("a", "1").ignore_value();
    let error = refused(kv.put_with(put).await, ErrorKind::ValueProvided)?;
    ensure!(matches!(&error, Error::ValueProvided { key } if key == "a"), "{error:?}");
    let put = Put::new("b", "1").ignore_lease().lease(lease(kv).await?);
    let error = refused(kv.put_with(put).await, ErrorKind::LeaseProvided)?;
    ensure!(matches!(&error, Error::LeaseProvided { key } if key == "b"), "{error:?}");
    Ok(())
}

async fn missing_lease_is_told(kv: &Client) -> Checked {
    let gone = free_lease(kv).await?;
    for result in [
        kv.put_with(Put::new("a", "1").lease(gone)).await.map(drop),
        kv.lease_keep_alive(gone).await.map(drop),
        kv.lease_revoke(gone).await.map(drop),
    ] {
        let error = refused(result, ErrorKind::LeaseNotFound)?;
        let told = matches!(error, Error::LeaseNotFound { lease } if true_if_told(lease, gone));
        ensure!(told, "{error:?} tells another lease than {gone}");
    }
    Ok(())
}

async fn lease_that_exists_is_told(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    let again = kv.lease_grant(LeaseGrant::new(Duration::from_secs(60)).id(id)).await;
    let error = refused(again, ErrorKind::LeaseExists)?;
    ensure!(matches!(error, Error::LeaseExists { lease } if lease == id), "{error:?}");
    Ok(())
}

async fn refused_time_is_told(kv: &Client) -> Checked {
    let asked = Duration::from_millis(1500);
    let error = refused(kv.lease_grant(LeaseGrant::new(asked)).await, ErrorKind::InvalidTtl)?;
    ensure!(matches!(error, Error::InvalidTtl { ttl } if ttl == asked), "{error:?}");
    Ok(())
}

async fn compacted_error_tells_true_revisions(kv: &Client) -> Checked {
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, two).await?;
    for result in [
        kv.range(Range::new("a").at(one)).await.map(drop),
        kv.compact(Compact::new(one)).await.map(drop),
    ] {
        let error = refused(result, ErrorKind::Compacted)?;
        let told = matches!(error, Error::Compacted { requested, compact_revision }
            if true_if_told(requested, one) && true_if_told(compact_revision, two));
        ensure!(told, "{error:?}, but {one} was requested and {two} is the oldest");
    }
    Ok(())
}

async fn future_error_tells_true_revisions(kv: &Client) -> Checked {
    let now = now(kv).await?;
    let future = Revision(now.0 + 5);
    for result in [
        kv.range(Range::new("a").at(future)).await.map(drop),
        kv.compact(Compact::new(future)).await.map(drop),
    ] {
        let error = refused(result, ErrorKind::FutureRevision)?;
        let told = matches!(error, Error::FutureRevision { requested, current }
            if true_if_told(requested, future) && true_if_told(current, now));
        ensure!(told, "{error:?}, but {future} was requested and {now} is the newest");
    }
    Ok(())
}

async fn refused_watch_tells_its_range(kv: &Client) -> Checked {
    let inverted = KeyRange::from_wire("c", "a");
    let result = kv.watch(Watch::new(&inverted)).await;
    let error = refused(result, ErrorKind::EmptyWatchRange)?;
    ensure!(matches!(&error, Error::EmptyWatchRange { keys } if *keys == inverted), "{error:?}");
    Ok(())
}

async fn refusals_leave_the_backend_usable(kv: &Client) -> Checked {
    let mut watch = watch_all(kv).await?;
    refused(kv.put("", "1").await, ErrorKind::EmptyKey)?;
    refused(kv.watch(Watch::new(KeyRange::from_wire("c", "a"))).await, ErrorKind::EmptyWatchRange)?;
    let future = Range::new("a").at(Revision(i64::MAX));
    refused(kv.range(future).await, ErrorKind::FutureRevision)?;
    let [one] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await
}

/// Polls a future once and drops it.
async fn abandon<T>(future: impl Future<Output = T>) {
    let mut future = Box::pin(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
}

async fn dropped_txn_is_applied_whole_or_not_at_all(kv: &Client) -> Checked {
    for _ in 0..10 {
        let ops = ["a", "b", "c"].map(|key| Op::from(Put::new(key, "1")));
        abandon(kv.txn(Txn::new().and_then(ops))).await;
        let seen = names(&kv.range(Range::new(KeyRange::all())).await?.kvs);
        ensure!(seen.is_empty() || seen == ["a", "b", "c"], "half of it was applied: {seen:?}");
    }
    Ok(())
}

async fn dropped_put_leaves_the_backend_usable(kv: &Client) -> Checked {
    abandon(kv.put("a", "1")).await;
    abandon(kv.range(Range::new("a"))).await;
    let [b] = puts(kv, [("b", "1")]).await?;
    ensure!(all_keys(kv).await?.contains(&"b".into()), "the next put was lost");
    ensure!(now(kv).await? >= b, "the revision went back");
    Ok(())
}

async fn dropped_grant_of_a_chosen_id_can_be_told_by_trying_again(kv: &Client) -> Checked {
    let id = free_lease(kv).await?;
    let grant = LeaseGrant::new(Duration::from_secs(60)).id(id);
    abandon(kv.lease_grant(grant)).await;
    match kv.lease_grant(grant).await {
        Ok(granted) => ensure_eq!(granted.id, id),
        Err(error) => ensure_eq!(error.kind(), ErrorKind::LeaseExists, "{error}"),
    }
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease;
    ensure!(lease.is_some(), "either way the lease exists");
    Ok(())
}

async fn dropped_watch_request_disturbs_nothing(kv: &Client) -> Checked {
    abandon(kv.watch(Watch::new(KeyRange::all()))).await;
    let mut watch = watch_all(kv).await?;
    abandon(kv.watch(Watch::new("a"))).await;
    let [one] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await
}
