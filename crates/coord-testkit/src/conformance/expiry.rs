//! Leases when they end by themselves.
//!
//! A store may grant more than was asked for, and may notice the end of a lease late, but never
//! early. So a check asks for the shortest lease it can get, counts from the moment before the
//! request was sent, and takes the deletion's event as the end.

use std::time::Duration;

use coord_core::{
    Client, KvBackend,
    error::ErrorKind,
    kv::{
        Compare, KeyRange, LeaseGrant, LeaseId, LeaseTimeToLive, Put, Range, Txn, Watch,
        WatchBatch, Watcher,
    },
};
use tokio::time::{Instant, sleep, timeout};

use super::steps::{
    Checked, Failure, all_keys, get, jump, now, put_on, puts, refused, told, watch_all,
};
use super::table;

table! { Expiry;
    lease_ends_not_before_its_time,
    lease_ends_soon_after_its_time,
    expired_leases_keys_are_deleted,
    expired_leases_keys_are_deleted_in_one_revision_in_key_order,
    expired_key_is_told_as_an_ordinary_deletion,
    expired_lease_is_missing,
    expiry_of_a_lease_without_keys_makes_no_revision,
    leases_that_end_together_end_in_a_revision_each,
    refreshed_lease_lives_its_whole_time_again,
    detached_key_survives_its_lease,
    key_attached_late_ends_with_its_lease,
    long_lease_lives_for_its_whole_time: VirtualTime,
    lease_refreshed_for_hours_does_not_end: VirtualTime,
    lease_overdue_after_a_clock_jump_is_not_kept_alive: VirtualTime,
    lease_overdue_after_a_clock_jump_has_no_time_to_live: VirtualTime,
    lease_overdue_after_a_clock_jump_takes_no_key: VirtualTime,
    lease_overdue_after_a_clock_jump_cannot_be_revoked: VirtualTime,
    lease_overdue_after_a_clock_jump_is_not_listed: VirtualTime,
    lease_overdue_after_a_clock_jump_has_no_keys: VirtualTime,
    lease_overdue_after_a_clock_jump_meets_no_compare: VirtualTime,
}

/// How late a store may notice that a lease has ended.
const LATE: Duration = Duration::from_secs(3);

/// A lease as short as it can be had.
struct Short {
    id: LeaseId,
    ttl: Duration,
    /// Before the grant was sent.
    sent: Instant,
}

async fn short(kv: &Client) -> Checked<Short> {
    let sent = Instant::now();
    let granted = kv.lease_grant(LeaseGrant::new(Duration::from_secs(1))).await?;
    Ok(Short { id: granted.id, ttl: granted.ttl, sent })
}

/// The next batch of a watch, waiting for a lease that ends `ttl` from now at the latest.
async fn end(watch: &mut Watcher, ttl: Duration) -> Checked<WatchBatch> {
    let next = timeout(ttl + LATE, watch.next()).await;
    let next = next.map_err(|_| Failure::new(format!("no lease ended in {:?}", ttl + LATE)))?;
    Ok(next.ok_or_else(|| Failure::new("the watch has ended"))??)
}

async fn lease_ends_not_before_its_time(kv: &Client) -> Checked {
    let mut watch = watch_all(kv).await?;
    let Short { id, ttl, sent } = short(kv).await?;
    put_on(kv, id, "a").await?;
    end(&mut watch, ttl).await?;
    ensure_eq!(told(&end(&mut watch, ttl).await?), ["delete a"]);
    ensure!(sent.elapsed() >= ttl, "a lease of {ttl:?} ended after {:?}", sent.elapsed());
    Ok(())
}

async fn lease_ends_soon_after_its_time(kv: &Client) -> Checked {
    let Short { id, ttl, .. } = short(kv).await?;
    put_on(kv, id, "a").await?;
    sleep(ttl + LATE).await;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn expired_leases_keys_are_deleted(kv: &Client) -> Checked {
    let Short { id, ttl, .. } = short(kv).await?;
    puts(kv, [("a", "1"), ("c", "1")]).await?;
    let last = put_on(kv, id, "b").await?;
    let mut watch = kv.watch(Watch::new("b").start_at(last.next())).await?;
    end(&mut watch, ttl).await?;
    ensure_eq!(all_keys(kv).await?, ["a", "c"]);
    Ok(())
}

async fn expired_leases_keys_are_deleted_in_one_revision_in_key_order(kv: &Client) -> Checked {
    let Short { id, ttl, .. } = short(kv).await?;
    put_on(kv, id, "c").await?;
    put_on(kv, id, "a").await?;
    let last = put_on(kv, id, "b").await?;
    let mut watch = kv.watch(Watch::new(KeyRange::all()).start_at(last.next())).await?;
    let batch = end(&mut watch, ttl).await?;
    ensure_eq!(told(&batch), ["delete a", "delete b", "delete c"]);
    ensure_eq!(batch.revision, last.next());
    Ok(())
}

async fn expired_key_is_told_as_an_ordinary_deletion(kv: &Client) -> Checked {
    let Short { id, ttl, .. } = short(kv).await?;
    let last = put_on(kv, id, "a").await?;
    let before = get(kv, "a").await?;
    let request = Watch::new("a").start_at(last.next()).with_prev_kv();
    let event = end(&mut kv.watch(request).await?, ttl).await?.events.remove(0);
    ensure_eq!((event.kv.lease, event.kv.version), (None, 0));
    ensure_eq!(event.prev_kv, Some(before));
    Ok(())
}

async fn expired_lease_is_missing(kv: &Client) -> Checked {
    let Short { id, ttl, .. } = short(kv).await?;
    sleep(ttl + LATE).await;
    let put = Put::new("a", "1").lease(id);
    refused(kv.put_with(put).await, ErrorKind::LeaseNotFound)?;
    refused(kv.lease_keep_alive(id).await, ErrorKind::LeaseNotFound)?;
    refused(kv.lease_revoke(id).await, ErrorKind::LeaseNotFound)?;
    ensure_eq!(kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease, None);
    ensure!(!kv.leases().await?.leases.contains(&id), "it is still listed");
    Ok(())
}

async fn expiry_of_a_lease_without_keys_makes_no_revision(kv: &Client) -> Checked {
    let before = now(kv).await?;
    let Short { id, ttl, .. } = short(kv).await?;
    sleep(ttl + LATE).await;
    ensure_eq!(kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease, None);
    ensure_eq!(now(kv).await?, before);
    Ok(())
}

async fn leases_that_end_together_end_in_a_revision_each(kv: &Client) -> Checked {
    let (one, two) = (short(kv).await?, short(kv).await?);
    put_on(kv, one.id, "a").await?;
    let last = put_on(kv, two.id, "b").await?;
    let mut watch = kv.watch(Watch::new(KeyRange::all()).start_at(last.next())).await?;
    let mut events = Vec::new();
    for revision in [last.next(), last.next().next()] {
        let batch = end(&mut watch, two.ttl).await?;
        ensure_eq!((batch.revision, batch.events.len()), (revision, 1));
        events.extend(told(&batch));
    }
    events.sort();
    ensure_eq!(events, ["delete a", "delete b"]);
    Ok(())
}

async fn refreshed_lease_lives_its_whole_time_again(kv: &Client) -> Checked {
    let Short { id, ttl, .. } = short(kv).await?;
    let last = put_on(kv, id, "a").await?;
    let mut watch = kv.watch(Watch::new("a").start_at(last.next())).await?;
    sleep(ttl / 2).await;
    let refreshed = Instant::now();
    kv.lease_keep_alive(id).await?;
    ensure_eq!(told(&end(&mut watch, ttl).await?), ["delete a"]);
    let lived = refreshed.elapsed();
    ensure!(lived >= ttl, "it ended {lived:?} after it was refreshed for {ttl:?}");
    Ok(())
}

async fn detached_key_survives_its_lease(kv: &Client) -> Checked {
    let Short { id, ttl, .. } = short(kv).await?;
    put_on(kv, id, "a").await?;
    put_on(kv, id, "b").await?;
    let [detached] = puts(kv, [("a", "kept")]).await?;
    sleep(ttl + LATE).await;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    ensure_eq!(get(kv, "a").await?.mod_revision, detached);
    Ok(())
}

async fn key_attached_late_ends_with_its_lease(kv: &Client) -> Checked {
    let Short { id, ttl, sent } = short(kv).await?;
    sleep(ttl / 2).await;
    put_on(kv, id, "a").await?;
    sleep((ttl + LATE).saturating_sub(sent.elapsed())).await;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn long_lease_lives_for_its_whole_time(kv: &Client) -> Checked {
    let day = Duration::from_secs(20 * 3600);
    let id = kv.lease_grant(LeaseGrant::new(day)).await?.id;
    put_on(kv, id, "a").await?;
    sleep(day - Duration::from_secs(1)).await;
    ensure!(kv.get("a").await?.is_some(), "it ended too early");
    sleep(Duration::from_secs(1) + LATE).await;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn lease_refreshed_for_hours_does_not_end(kv: &Client) -> Checked {
    let Short { id, ttl, .. } = short(kv).await?;
    let put = put_on(kv, id, "a").await?;
    for _ in 0..5000 {
        sleep(ttl - Duration::from_millis(500)).await;
        kv.lease_keep_alive(id).await?;
    }
    ensure_eq!(get(kv, "a").await?.mod_revision, put);
    Ok(())
}

/// A lease with the key `a` whose time is over, although no timer of the store has run since.
///
/// A process that was suspended, or whose runtime was busy, meets its store in this state. Each
/// kind of call must find the lease ended: the next call of another kind may come too late.
async fn overdue(kv: &Client) -> Checked<LeaseId> {
    let Short { id, ttl, .. } = short(kv).await?;
    put_on(kv, id, "a").await?;
    jump(ttl + LATE);
    Ok(id)
}

async fn lease_overdue_after_a_clock_jump_is_not_kept_alive(kv: &Client) -> Checked {
    let id = overdue(kv).await?;
    refused(kv.lease_keep_alive(id).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_has_no_time_to_live(kv: &Client) -> Checked {
    let id = overdue(kv).await?;
    let request = LeaseTimeToLive::new(id).with_keys();
    ensure_eq!(kv.lease_time_to_live(request).await?.lease, None);
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_takes_no_key(kv: &Client) -> Checked {
    let id = overdue(kv).await?;
    refused(kv.put_with(Put::new("b", "1").lease(id)).await, ErrorKind::LeaseNotFound)?;
    let id = overdue(kv).await?;
    let txn = Txn::new().and_then([Put::new("b", "1").lease(id)]);
    refused(kv.txn(txn).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_cannot_be_revoked(kv: &Client) -> Checked {
    let id = overdue(kv).await?;
    refused(kv.lease_revoke(id).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_is_not_listed(kv: &Client) -> Checked {
    let id = overdue(kv).await?;
    ensure!(!kv.leases().await?.leases.contains(&id), "it is still listed");
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_has_no_keys(kv: &Client) -> Checked {
    overdue(kv).await?;
    ensure_eq!(kv.get("a").await?, None);
    overdue(kv).await?;
    let read = kv.range(Range::new("a").serializable()).await?;
    ensure!(read.kvs.is_empty(), "a serializable read shows {:?}", read.kvs);
    Ok(())
}

async fn lease_overdue_after_a_clock_jump_meets_no_compare(kv: &Client) -> Checked {
    overdue(kv).await?;
    let reads = Txn::new().when([Compare::exists("a")]).and_then([Range::new("a")]);
    ensure!(!kv.txn(reads).await?.succeeded, "a transaction that reads met the key");
    overdue(kv).await?;
    let writes = Txn::new().when([Compare::exists("a")]).and_then([Put::new("b", "1")]);
    ensure!(!kv.txn(writes).await?.succeeded, "a transaction that writes met the key");
    Ok(())
}
