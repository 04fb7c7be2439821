//! Lease cases: grant, keep-alive, time to live, listing and revocation.

use std::time::Duration;

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{LeaseGrant, LeaseId, LeaseTimeToLive, Op, Put, TTL_MAX, Txn},
};
use tokio::time::sleep;

use super::helpers::{
    CaseFailure, CheckResult, LEASE_TTL, all_keys, current_revision, expect_refused, get,
    grant_lease, lease_keys, put_on, puts, run_ops, unused_lease_id,
};
use super::table;

table! { Lease;
    store_chooses_a_positive_id,
    store_chooses_a_new_id_each_time,
    chosen_id_is_granted,
    negative_id_is_granted,
    grant_of_an_id_that_exists_is_refused,
    refused_grant_leaves_the_lease_unchanged,
    id_of_a_revoked_lease_can_be_granted_again,
    granted_ttl_is_the_requested_ttl,
    short_ttl_is_raised_and_reported,
    zero_ttl_is_raised_and_reported,
    longest_ttl_is_granted,
    ttl_above_the_longest_is_refused,
    too_long_a_ttl_is_refused_before_an_existing_id,
    fractional_ttl_is_refused,
    keep_alive_returns_the_granted_ttl,
    keep_alive_of_a_missing_lease_is_refused,
    keep_alive_resets_the_remaining_time,
    time_to_live_of_a_missing_lease_is_none,
    time_to_live_returns_granted_and_remaining_time,
    time_to_live_shrinks_without_keep_alive,
    time_to_live_lists_keys_on_request_only,
    time_to_live_lists_every_attached_key_once,
    leases_lists_exactly_the_existing_leases,
    revoke_of_a_missing_lease_is_refused,
    revoke_twice_is_refused,
    revoke_deletes_the_leases_keys,
    revoke_deletes_all_keys_in_one_revision,
    revoke_leaves_keys_of_other_leases,
    revoke_leaves_keys_that_were_detached,
    revoke_leaves_keys_that_moved_to_another_lease,
    revoke_of_a_lease_without_keys_makes_no_revision,
    revoked_lease_accepts_no_key,
    revoked_key_starts_again_at_version_one,
    txn_attaches_keys_all_or_none,
    lease_headers_show_the_current_revision,
}

async fn store_chooses_a_positive_id(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    ensure!(id.get() > 0, "the store chose {}", id.get());
    Ok(())
}

async fn store_chooses_a_new_id_each_time(kv: &Client) -> CheckResult {
    let mut ids = vec![grant_lease(kv).await?, grant_lease(kv).await?, grant_lease(kv).await?];
    ids.sort();
    ids.dedup();
    ensure_eq!(ids.len(), 3);
    Ok(())
}

async fn chosen_id_is_granted(kv: &Client) -> CheckResult {
    let id = unused_lease_id(kv).await?;
    ensure_eq!(kv.lease_grant(LeaseGrant::new(LEASE_TTL).id(id)).await?.id, id);
    put_on(kv, id, "a").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    Ok(())
}

async fn negative_id_is_granted(kv: &Client) -> CheckResult {
    let id = LeaseId::new(-unused_lease_id(kv).await?.get());
    let granted = kv.lease_grant(LeaseGrant::new(LEASE_TTL).id(id)).await?.id;
    ensure_eq!(Some(granted), id);
    put_on(kv, granted, "a").await?;
    ensure_eq!(get(kv, "a").await?.lease, id);
    kv.lease_revoke(granted).await?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn grant_of_an_id_that_exists_is_refused(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    let again = kv.lease_grant(LeaseGrant::new(LEASE_TTL).id(id)).await;
    expect_refused(again, ErrorKind::LeaseExists)?;
    Ok(())
}

async fn refused_grant_leaves_the_lease_unchanged(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    let again = kv.lease_grant(LeaseGrant::new(LEASE_TTL * 60).id(id)).await;
    expect_refused(again, ErrorKind::LeaseExists)?;
    ensure_eq!(
        ttl_and_key_count(kv, id).await?,
        (LEASE_TTL, 1),
        "the granted TTL and the number of keys"
    );
    Ok(())
}

async fn id_of_a_revoked_lease_can_be_granted_again(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    kv.lease_revoke(id).await?;
    kv.lease_grant(LeaseGrant::new(LEASE_TTL).id(id)).await?;
    ensure_eq!(lease_keys(kv, id).await?, [""; 0]);
    Ok(())
}

/// The granted TTL of a lease, and the number of its keys.
async fn ttl_and_key_count(kv: &Client, id: LeaseId) -> CheckResult<(Duration, usize)> {
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id).with_keys()).await?.lease;
    let lease = lease.ok_or_else(|| CaseFailure::new(format!("lease {id} is missing")))?;
    Ok((lease.granted, lease.keys.len()))
}

async fn granted_ttl_is_the_requested_ttl(kv: &Client) -> CheckResult {
    let granted = kv.lease_grant(LeaseGrant::new(LEASE_TTL)).await?;
    ensure_eq!(granted.ttl, LEASE_TTL);
    ensure_eq!(ttl_and_key_count(kv, granted.id).await?.0, LEASE_TTL);
    Ok(())
}

async fn short_ttl_is_raised_and_reported(kv: &Client) -> CheckResult {
    let requested = Duration::from_secs(1);
    let granted = kv.lease_grant(LeaseGrant::new(requested)).await?;
    ensure!(
        granted.ttl >= requested,
        "the granted TTL {:?} is below the requested one",
        granted.ttl
    );
    ensure_eq!(ttl_and_key_count(kv, granted.id).await?.0, granted.ttl);
    Ok(())
}

async fn zero_ttl_is_raised_and_reported(kv: &Client) -> CheckResult {
    let granted = kv.lease_grant(LeaseGrant::new(Duration::ZERO)).await?;
    ensure!(granted.ttl >= Duration::from_secs(1), "granted a TTL of {:?}", granted.ttl);
    ensure_eq!(ttl_and_key_count(kv, granted.id).await?.0, granted.ttl);
    Ok(())
}

async fn longest_ttl_is_granted(kv: &Client) -> CheckResult {
    let granted = kv.lease_grant(LeaseGrant::new(TTL_MAX)).await?;
    ensure_eq!(granted.ttl, TTL_MAX);
    ensure_eq!(ttl_and_key_count(kv, granted.id).await?.0, TTL_MAX);
    Ok(())
}

async fn ttl_above_the_longest_is_refused(kv: &Client) -> CheckResult {
    let grant = LeaseGrant::new(TTL_MAX + Duration::from_secs(1));
    expect_refused(kv.lease_grant(grant).await, ErrorKind::TtlTooLarge)?;
    Ok(())
}

async fn too_long_a_ttl_is_refused_before_an_existing_id(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    let grant = LeaseGrant::new(TTL_MAX + Duration::from_secs(1)).id(id);
    expect_refused(kv.lease_grant(grant).await, ErrorKind::TtlTooLarge)?;
    Ok(())
}

async fn fractional_ttl_is_refused(kv: &Client) -> CheckResult {
    for ttl in [Duration::from_millis(2500), Duration::new(60, 1)] {
        expect_refused(kv.lease_grant(LeaseGrant::new(ttl)).await, ErrorKind::InvalidTtl)?;
    }
    Ok(())
}

async fn keep_alive_returns_the_granted_ttl(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    let response = kv.lease_keep_alive(id).await?;
    ensure_eq!((response.id, response.ttl), (id, LEASE_TTL));
    Ok(())
}

async fn keep_alive_of_a_missing_lease_is_refused(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    expect_refused(kv.lease_keep_alive(missing).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

/// The remaining time of a lease.
async fn remaining_time(kv: &Client, id: LeaseId) -> CheckResult<Duration> {
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease;
    Ok(lease.ok_or_else(|| CaseFailure::new(format!("lease {id} is missing")))?.remaining)
}

async fn keep_alive_resets_the_remaining_time(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    sleep(Duration::from_millis(2100)).await;
    let before = remaining_time(kv, id).await?;
    kv.lease_keep_alive(id).await?;
    let after = remaining_time(kv, id).await?;
    ensure!(
        before < after && after <= LEASE_TTL,
        "remaining {before:?} before the keep-alive, {after:?} after it"
    );
    Ok(())
}

async fn time_to_live_of_a_missing_lease_is_none(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    let response = kv.lease_time_to_live(LeaseTimeToLive::new(missing).with_keys()).await?;
    ensure_eq!(response.lease, None);
    Ok(())
}

async fn time_to_live_returns_granted_and_remaining_time(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    ensure_eq!(ttl_and_key_count(kv, id).await?.0, LEASE_TTL);
    let left = remaining_time(kv, id).await?;
    ensure!(left <= LEASE_TTL && left >= LEASE_TTL / 2, "remaining {left:?} of {LEASE_TTL:?}");
    ensure_eq!(left.subsec_nanos(), 0, "the fraction of a second");
    Ok(())
}

async fn time_to_live_shrinks_without_keep_alive(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    sleep(Duration::from_millis(2100)).await;
    let left = remaining_time(kv, id).await?;
    ensure!(left < LEASE_TTL - Duration::from_secs(1), "remaining {left:?} after 2.1 s");
    Ok(())
}

async fn time_to_live_lists_keys_on_request_only(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease;
    ensure_eq!(lease.map(|lease| lease.keys.len()), Some(0));
    Ok(())
}

async fn time_to_live_lists_every_attached_key_once(kv: &Client) -> CheckResult {
    let (id, other) = (grant_lease(kv).await?, grant_lease(kv).await?);
    for key in ["c", "a", "b", "a"] {
        put_on(kv, id, key).await?;
    }
    put_on(kv, other, "d").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a", "b", "c"]);
    Ok(())
}

async fn leases_lists_exactly_the_existing_leases(kv: &Client) -> CheckResult {
    let (one, two) = (grant_lease(kv).await?, grant_lease(kv).await?);
    kv.lease_revoke(one).await?;
    let leases = kv.leases().await?.leases;
    let count = |id: LeaseId| leases.iter().filter(|&&lease| lease == id).count();
    ensure_eq!((count(one), count(two)), (0, 1));
    Ok(())
}

async fn revoke_of_a_missing_lease_is_refused(kv: &Client) -> CheckResult {
    let missing = LeaseId::new(-unused_lease_id(kv).await?.get());
    let missing = missing.ok_or_else(|| CaseFailure::new("the store chose lease id zero"))?;
    expect_refused(kv.lease_revoke(missing).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn revoke_twice_is_refused(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    kv.lease_revoke(id).await?;
    expect_refused(kv.lease_revoke(id).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn revoke_deletes_the_leases_keys(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    puts(kv, [("b", "1")]).await?;
    kv.lease_revoke(id).await?;
    ensure_eq!(all_keys(kv).await?, ["b"]);
    Ok(())
}

async fn revoke_deletes_all_keys_in_one_revision(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    put_on(kv, id, "b").await?;
    let before = put_on(kv, id, "c").await?;
    ensure_eq!(kv.lease_revoke(id).await?.header.revision, before.next());
    ensure_eq!(current_revision(kv).await?, before.next());
    Ok(())
}

async fn revoke_leaves_keys_of_other_leases(kv: &Client) -> CheckResult {
    let (one, two) = (grant_lease(kv).await?, grant_lease(kv).await?);
    put_on(kv, one, "a").await?;
    put_on(kv, two, "b").await?;
    kv.lease_revoke(one).await?;
    ensure_eq!(all_keys(kv).await?, ["b"]);
    ensure_eq!(lease_keys(kv, two).await?, ["b"]);
    Ok(())
}

async fn revoke_leaves_keys_that_were_detached(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    let [detached] = puts(kv, [("a", "1")]).await?;
    kv.lease_revoke(id).await?;
    ensure_eq!(get(kv, "a").await?.mod_revision, detached);
    Ok(())
}

async fn revoke_leaves_keys_that_moved_to_another_lease(kv: &Client) -> CheckResult {
    let (one, two) = (grant_lease(kv).await?, grant_lease(kv).await?);
    put_on(kv, one, "a").await?;
    put_on(kv, two, "a").await?;
    kv.lease_revoke(one).await?;
    ensure_eq!(get(kv, "a").await?.lease, Some(two));
    Ok(())
}

async fn revoke_of_a_lease_without_keys_makes_no_revision(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    let deleted = kv.delete("a").await?.header.revision;
    ensure_eq!(kv.lease_revoke(id).await?.header.revision, deleted);
    Ok(())
}

async fn revoked_lease_accepts_no_key(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    kv.lease_revoke(id).await?;
    let put = Put::new("a", "1").lease(id);
    expect_refused(kv.put_with(put.clone()).await, ErrorKind::LeaseNotFound)?;
    expect_refused(kv.txn(Txn::new().and_then([put])).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn revoked_key_starts_again_at_version_one(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    kv.lease_revoke(id).await?;
    let [again] = puts(kv, [("a", "1")]).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((a.create_revision, a.version, a.lease), (again, 1, None));
    Ok(())
}

async fn txn_attaches_keys_all_or_none(kv: &Client) -> CheckResult {
    let (id, missing) = (grant_lease(kv).await?, unused_lease_id(kv).await?);
    let on = |key, id| Op::from(Put::new(key, "1").lease(id));
    let txn = Txn::new().and_then([on("a", id), on("b", missing)]);
    expect_refused(kv.txn(txn).await, ErrorKind::LeaseNotFound)?;
    ensure_eq!(lease_keys(kv, id).await?, [""; 0]);
    run_ops(kv, [on("a", id), on("b", id)]).await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a", "b"]);
    Ok(())
}

async fn lease_headers_show_the_current_revision(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("a", "1")]).await?;
    let granted = kv.lease_grant(LeaseGrant::new(LEASE_TTL)).await?;
    let kept = kv.lease_keep_alive(granted.id).await?;
    let read = kv.lease_time_to_live(LeaseTimeToLive::new(granted.id)).await?;
    let revoked = kv.lease_revoke(granted.id).await?;
    for header in [granted.header, kept.header, read.header, revoked.header] {
        ensure_eq!(header.revision, current);
    }
    Ok(())
}
