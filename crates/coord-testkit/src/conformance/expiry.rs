//! Expiry cases: when a lease expires, and what happens to its keys.
//!
//! A store may grant a longer TTL than requested, and may expire a lease late, but never early. A
//! case that measures the expiry therefore requests the shortest lease, measures from the time
//! before it sends the request, and treats the deletion event as the expiry.

use std::time::Duration;

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{
        Compare, KeyRange, LeaseGrant, LeaseId, LeaseTimeToLive, Put, Range, Txn, Watch,
        WatchBatch, Watcher,
    },
};
use tokio::time::{Instant, sleep, timeout};

use super::helpers::{
    CaseFailure, CheckResult, all_keys, current_revision, event_texts, expect_refused, get,
    jump_clock, put_on, puts, watch_all,
};
use super::table;

table! { Expiry;
    lease_does_not_expire_before_its_ttl,
    lease_expires_soon_after_its_ttl,
    keys_of_an_expired_lease_are_deleted,
    expiry_deletes_keys_in_one_revision_in_key_order,
    expiry_is_delivered_as_an_ordinary_deletion,
    expired_lease_is_not_found,
    expiry_of_a_lease_without_keys_makes_no_revision,
    leases_that_expire_together_get_a_revision_each,
    kept_alive_lease_lives_for_its_whole_ttl,
    detached_key_survives_its_lease,
    key_attached_late_is_deleted_with_its_lease,
    long_lease_lives_for_its_whole_ttl: VirtualTime,
    lease_kept_alive_for_hours_does_not_expire: VirtualTime,
    lease_overdue_after_a_clock_jump_is_not_kept_alive: VirtualTime,
    lease_overdue_after_a_clock_jump_has_no_time_to_live: VirtualTime,
    lease_overdue_after_a_clock_jump_accepts_no_key: VirtualTime,
    lease_overdue_after_a_clock_jump_cannot_be_revoked: VirtualTime,
    lease_overdue_after_a_clock_jump_is_not_listed: VirtualTime,
    lease_overdue_after_a_clock_jump_has_no_keys: VirtualTime,
    lease_overdue_after_a_clock_jump_meets_no_compare: VirtualTime,
}

/// How much later than its TTL a lease may expire.
const MAX_EXPIRY_DELAY: Duration = Duration::from_secs(3);

/// A lease with the shortest TTL that the store grants.
struct ShortLease {
    id: LeaseId,
    ttl: Duration,
    /// The time before the grant request was sent.
    sent: Instant,
}

async fn grant_short_lease(kv: &Client) -> CheckResult<ShortLease> {
    let sent = Instant::now();
    let granted = kv.lease_grant(LeaseGrant::new(Duration::from_secs(1))).await?;
    Ok(ShortLease { id: granted.id, ttl: granted.ttl, sent })
}

/// The next batch of a watch. Waits for at most `ttl` plus [`MAX_EXPIRY_DELAY`].
async fn next_within(watch: &mut Watcher, ttl: Duration) -> CheckResult<WatchBatch> {
    let next = timeout(ttl + MAX_EXPIRY_DELAY, watch.next()).await;
    let next = next
        .map_err(|_| CaseFailure::new(format!("no batch within {:?}", ttl + MAX_EXPIRY_DELAY)))?;
    Ok(next.ok_or_else(|| CaseFailure::new("the watch ended"))??)
}

async fn lease_does_not_expire_before_its_ttl(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let ShortLease { id, ttl, sent } = grant_short_lease(kv).await?;
    put_on(kv, id, "a").await?;
    next_within(&mut watch, ttl).await?;
    ensure_eq!(event_texts(&next_within(&mut watch, ttl).await?), ["delete a"]);
    ensure!(sent.elapsed() >= ttl, "a lease of {ttl:?} expired after {:?}", sent.elapsed());
    Ok(())
}

async fn lease_expires_soon_after_its_ttl(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    put_on(kv, id, "a").await?;
    sleep(ttl + MAX_EXPIRY_DELAY).await;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn keys_of_an_expired_lease_are_deleted(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    puts(kv, [("a", "1"), ("c", "1")]).await?;
    let last = put_on(kv, id, "b").await?;
    let mut watch = kv.watch(Watch::new("b").start_at(last.next())).await?;
    next_within(&mut watch, ttl).await?;
    ensure_eq!(all_keys(kv).await?, ["a", "c"]);
    Ok(())
}

async fn expiry_deletes_keys_in_one_revision_in_key_order(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    put_on(kv, id, "c").await?;
    put_on(kv, id, "a").await?;
    let last = put_on(kv, id, "b").await?;
    let mut watch = kv.watch(Watch::new(KeyRange::all()).start_at(last.next())).await?;
    let batch = next_within(&mut watch, ttl).await?;
    ensure_eq!(event_texts(&batch), ["delete a", "delete b", "delete c"]);
    ensure_eq!(batch.revision, last.next());
    Ok(())
}

async fn expiry_is_delivered_as_an_ordinary_deletion(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    let last = put_on(kv, id, "a").await?;
    let before = get(kv, "a").await?;
    let request = Watch::new("a").start_at(last.next()).with_prev_kv();
    let event = next_within(&mut kv.watch(request).await?, ttl).await?.events.remove(0);
    ensure_eq!((event.kv.lease, event.kv.version), (None, 0));
    ensure_eq!(event.prev_kv, Some(before));
    Ok(())
}

async fn expired_lease_is_not_found(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    sleep(ttl + MAX_EXPIRY_DELAY).await;
    let put = Put::new("a", "1").lease(id);
    expect_refused(kv.put_with(put).await, ErrorKind::LeaseNotFound)?;
    expect_refused(kv.lease_keep_alive(id).await, ErrorKind::LeaseNotFound)?;
    expect_refused(kv.lease_revoke(id).await, ErrorKind::LeaseNotFound)?;
    ensure_eq!(kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease, None);
    ensure!(!kv.leases().await?.leases.contains(&id), "the expired lease is still listed");
    Ok(())
}

async fn expiry_of_a_lease_without_keys_makes_no_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    sleep(ttl + MAX_EXPIRY_DELAY).await;
    ensure_eq!(kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease, None);
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn leases_that_expire_together_get_a_revision_each(kv: &Client) -> CheckResult {
    let (one, two) = (grant_short_lease(kv).await?, grant_short_lease(kv).await?);
    put_on(kv, one.id, "a").await?;
    let last = put_on(kv, two.id, "b").await?;
    let mut watch = kv.watch(Watch::new(KeyRange::all()).start_at(last.next())).await?;
    let mut events = Vec::new();
    for revision in [last.next(), last.next().next()] {
        let batch = next_within(&mut watch, two.ttl).await?;
        ensure_eq!((batch.revision, batch.events.len()), (revision, 1));
        events.extend(event_texts(&batch));
    }
    events.sort();
    ensure_eq!(events, ["delete a", "delete b"]);
    Ok(())
}

async fn kept_alive_lease_lives_for_its_whole_ttl(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    let last = put_on(kv, id, "a").await?;
    let mut watch = kv.watch(Watch::new("a").start_at(last.next())).await?;
    sleep(ttl / 2).await;
    let kept_alive = Instant::now();
    kv.lease_keep_alive(id).await?;
    ensure_eq!(event_texts(&next_within(&mut watch, ttl).await?), ["delete a"]);
    let lived = kept_alive.elapsed();
    ensure!(lived >= ttl, "a lease of {ttl:?} expired {lived:?} after a keep-alive");
    Ok(())
}

async fn detached_key_survives_its_lease(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    put_on(kv, id, "a").await?;
    put_on(kv, id, "b").await?;
    let [detached] = puts(kv, [("a", "kept")]).await?;
    sleep(ttl + MAX_EXPIRY_DELAY).await;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    ensure_eq!(get(kv, "a").await?.mod_revision, detached);
    Ok(())
}

async fn key_attached_late_is_deleted_with_its_lease(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, sent } = grant_short_lease(kv).await?;
    sleep(ttl / 2).await;
    put_on(kv, id, "a").await?;
    sleep((ttl + MAX_EXPIRY_DELAY).saturating_sub(sent.elapsed())).await;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn long_lease_lives_for_its_whole_ttl(kv: &Client) -> CheckResult {
    let ttl = Duration::from_secs(20 * 3600);
    let id = kv.lease_grant(LeaseGrant::new(ttl)).await?.id;
    put_on(kv, id, "a").await?;
    sleep(ttl - Duration::from_secs(1)).await;
    ensure!(kv.get("a").await?.is_some(), "the lease expired too early");
    sleep(Duration::from_secs(1) + MAX_EXPIRY_DELAY).await;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn lease_kept_alive_for_hours_does_not_expire(kv: &Client) -> CheckResult {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    let put = put_on(kv, id, "a").await?;
    for _ in 0..5000 {
        sleep(ttl - Duration::from_millis(500)).await;
        kv.lease_keep_alive(id).await?;
    }
    ensure_eq!(get(kv, "a").await?.mod_revision, put);
    Ok(())
}

/// An overdue lease with the key `a`: its TTL has passed, and no timer of the store has run since.
///
/// A store is in this state after its process was suspended or its runtime was busy. Every kind of
/// call must expire the lease first, because any call may be the first one in this state.
async fn overdue_lease(kv: &Client) -> CheckResult<LeaseId> {
    let ShortLease { id, ttl, .. } = grant_short_lease(kv).await?;
    put_on(kv, id, "a").await?;
    jump_clock(ttl + MAX_EXPIRY_DELAY);
    Ok(id)
}

async fn lease_overdue_after_a_clock_jump_is_not_kept_alive(kv: &Client) -> CheckResult {
    let id = overdue_lease(kv).await?;
    expect_refused(kv.lease_keep_alive(id).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_has_no_time_to_live(kv: &Client) -> CheckResult {
    let id = overdue_lease(kv).await?;
    let request = LeaseTimeToLive::new(id).with_keys();
    ensure_eq!(kv.lease_time_to_live(request).await?.lease, None);
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_accepts_no_key(kv: &Client) -> CheckResult {
    let id = overdue_lease(kv).await?;
    expect_refused(kv.put_with(Put::new("b", "1").lease(id)).await, ErrorKind::LeaseNotFound)?;
    let id = overdue_lease(kv).await?;
    let txn = Txn::new().and_then([Put::new("b", "1").lease(id)]);
    expect_refused(kv.txn(txn).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_cannot_be_revoked(kv: &Client) -> CheckResult {
    let id = overdue_lease(kv).await?;
    expect_refused(kv.lease_revoke(id).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_is_not_listed(kv: &Client) -> CheckResult {
    let id = overdue_lease(kv).await?;
    ensure!(!kv.leases().await?.leases.contains(&id), "the expired lease is still listed");
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_has_no_keys(kv: &Client) -> CheckResult {
    overdue_lease(kv).await?;
    ensure_eq!(kv.get("a").await?, None);
    overdue_lease(kv).await?;
    let read = kv.range(Range::new("a").serializable()).await?;
    ensure!(read.kvs.is_empty(), "a serializable read shows {:?}", read.kvs);
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_meets_no_compare(kv: &Client) -> CheckResult {
    overdue_lease(kv).await?;
    let reads = Txn::new().when([Compare::exists("a")]).and_then([Range::new("a")]);
    ensure!(!kv.txn(reads).await?.succeeded, "a read-only transaction saw the key");
    overdue_lease(kv).await?;
    let writes = Txn::new().when([Compare::exists("a")]).and_then([Put::new("b", "1")]);
    ensure!(!kv.txn(writes).await?.succeeded, "a writing transaction saw the key");
    Ok(())
}
