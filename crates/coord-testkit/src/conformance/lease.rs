//! Leases while they live: granting, refreshing, asking, listing, revoking.

use std::time::Duration;

use coord_core::{
    Client, KvBackend,
    error::ErrorKind,
    kv::{LeaseGrant, LeaseId, LeaseTimeToLive, Op, Put, TTL_MAX, Txn},
};
use tokio::time::sleep;

use super::steps::{
    Checked, Failure, all_keys, free_lease, get, lease, lease_keys, now, put_on, puts, refused,
    steps,
};
use super::table;

table! { Lease;
    store_chooses_a_positive_id,
    store_chooses_a_new_id_each_time,
    chosen_id_is_granted,
    negative_id_is_granted,
    grant_of_an_id_that_exists_is_refused,
    refused_grant_leaves_the_lease_as_it_was,
    id_of_a_revoked_lease_is_free_again,
    granted_time_is_what_was_asked_for,
    short_time_is_raised_and_told,
    zero_time_is_raised_and_told,
    longest_time_is_granted,
    time_above_the_longest_is_refused,
    too_long_a_time_is_refused_before_an_id_that_exists,
    fraction_of_a_second_is_refused,
    keep_alive_tells_the_granted_time,
    keep_alive_of_a_missing_lease_is_refused,
    keep_alive_gives_the_whole_time_again,
    time_to_live_of_a_missing_lease_is_none_and_no_error,
    time_to_live_tells_the_granted_time_and_what_is_left,
    time_to_live_shrinks_while_nobody_refreshes,
    time_to_live_lists_keys_on_request_only,
    time_to_live_lists_every_attached_key_once,
    leases_lists_those_that_exist,
    revoke_of_a_missing_lease_is_refused,
    revoke_twice_is_refused,
    revoke_deletes_the_leases_keys,
    revoke_deletes_all_keys_in_one_revision,
    revoke_leaves_keys_of_other_leases,
    revoke_leaves_keys_that_were_detached,
    revoke_leaves_keys_that_moved_to_another_lease,
    revoke_makes_no_revision_when_its_keys_are_gone,
    revoked_lease_takes_no_key,
    revoked_key_starts_again_at_version_one,
    txn_attaches_keys_all_or_none,
    lease_headers_show_the_current_revision,
}

const MINUTE: Duration = Duration::from_secs(60);

async fn store_chooses_a_positive_id(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    ensure!(id.get() > 0, "the store chose {}", id.get());
    Ok(())
}

async fn store_chooses_a_new_id_each_time(kv: &Client) -> Checked {
    let mut ids = vec![lease(kv).await?, lease(kv).await?, lease(kv).await?];
    ids.sort();
    ids.dedup();
    ensure_eq!(ids.len(), 3);
    Ok(())
}

async fn chosen_id_is_granted(kv: &Client) -> Checked {
    let id = free_lease(kv).await?;
    ensure_eq!(kv.lease_grant(LeaseGrant::new(MINUTE).id(id)).await?.id, id);
    put_on(kv, id, "a").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    Ok(())
}

async fn negative_id_is_granted(kv: &Client) -> Checked {
    let id = LeaseId::new(-free_lease(kv).await?.get());
    let granted = kv.lease_grant(LeaseGrant::new(MINUTE).id(id)).await?.id;
    ensure_eq!(Some(granted), id);
    put_on(kv, granted, "a").await?;
    ensure_eq!(get(kv, "a").await?.lease, id);
    kv.lease_revoke(granted).await?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn grant_of_an_id_that_exists_is_refused(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    let again = kv.lease_grant(LeaseGrant::new(MINUTE).id(id)).await;
    refused(again, ErrorKind::LeaseExists)?;
    Ok(())
}

async fn refused_grant_leaves_the_lease_as_it_was(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    let again = kv.lease_grant(LeaseGrant::new(MINUTE * 60).id(id)).await;
    refused(again, ErrorKind::LeaseExists)?;
    ensure_eq!(status(kv, id).await?, (MINUTE, 1), "granted time and keys");
    Ok(())
}

async fn id_of_a_revoked_lease_is_free_again(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    kv.lease_revoke(id).await?;
    kv.lease_grant(LeaseGrant::new(MINUTE).id(id)).await?;
    ensure_eq!(lease_keys(kv, id).await?, [""; 0]);
    Ok(())
}

/// The time granted to a lease, and how many keys hang on it.
async fn status(kv: &Client, id: LeaseId) -> Checked<(Duration, usize)> {
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id).with_keys()).await?.lease;
    let lease = lease.ok_or_else(|| Failure::new(format!("lease {id} is missing")))?;
    Ok((lease.granted, lease.keys.len()))
}

async fn granted_time_is_what_was_asked_for(kv: &Client) -> Checked {
    let granted = kv.lease_grant(LeaseGrant::new(MINUTE)).await?;
    ensure_eq!(granted.ttl, MINUTE);
    ensure_eq!(status(kv, granted.id).await?.0, MINUTE);
    Ok(())
}

async fn short_time_is_raised_and_told(kv: &Client) -> Checked {
    let asked = Duration::from_secs(1);
    let granted = kv.lease_grant(LeaseGrant::new(asked)).await?;
    ensure!(granted.ttl >= asked, "{:?} is less than was asked for", granted.ttl);
    ensure_eq!(status(kv, granted.id).await?.0, granted.ttl);
    Ok(())
}

async fn zero_time_is_raised_and_told(kv: &Client) -> Checked {
    let granted = kv.lease_grant(LeaseGrant::new(Duration::ZERO)).await?;
    ensure!(granted.ttl >= Duration::from_secs(1), "a lease of {:?}", granted.ttl);
    ensure_eq!(status(kv, granted.id).await?.0, granted.ttl);
    Ok(())
}

async fn longest_time_is_granted(kv: &Client) -> Checked {
    let granted = kv.lease_grant(LeaseGrant::new(TTL_MAX)).await?;
    ensure_eq!(granted.ttl, TTL_MAX);
    ensure_eq!(status(kv, granted.id).await?.0, TTL_MAX);
    Ok(())
}

async fn time_above_the_longest_is_refused(kv: &Client) -> Checked {
    let grant = LeaseGrant::new(TTL_MAX + Duration::from_secs(1));
    refused(kv.lease_grant(grant).await, ErrorKind::TtlTooLarge)?;
    Ok(())
}

async fn too_long_a_time_is_refused_before_an_id_that_exists(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    let grant = LeaseGrant::new(TTL_MAX + Duration::from_secs(1)).id(id);
    refused(kv.lease_grant(grant).await, ErrorKind::TtlTooLarge)?;
    Ok(())
}

async fn fraction_of_a_second_is_refused(kv: &Client) -> Checked {
    for ttl in [Duration::from_millis(2500), Duration::new(60, 1)] {
        refused(kv.lease_grant(LeaseGrant::new(ttl)).await, ErrorKind::InvalidTtl)?;
    }
    Ok(())
}

async fn keep_alive_tells_the_granted_time(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    let response = kv.lease_keep_alive(id).await?;
    ensure_eq!((response.id, response.ttl), (id, MINUTE));
    Ok(())
}

async fn keep_alive_of_a_missing_lease_is_refused(kv: &Client) -> Checked {
    let gone = free_lease(kv).await?;
    refused(kv.lease_keep_alive(gone).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

/// What is left of a lease's time.
async fn remaining(kv: &Client, id: LeaseId) -> Checked<Duration> {
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease;
    Ok(lease.ok_or_else(|| Failure::new(format!("lease {id} is missing")))?.remaining)
}

async fn keep_alive_gives_the_whole_time_again(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    sleep(Duration::from_millis(2100)).await;
    let before = remaining(kv, id).await?;
    kv.lease_keep_alive(id).await?;
    let after = remaining(kv, id).await?;
    ensure!(before < after && after <= MINUTE, "{before:?} were left, and then {after:?}");
    Ok(())
}

async fn time_to_live_of_a_missing_lease_is_none_and_no_error(kv: &Client) -> Checked {
    let gone = free_lease(kv).await?;
    let response = kv.lease_time_to_live(LeaseTimeToLive::new(gone).with_keys()).await?;
    ensure_eq!(response.lease, None);
    Ok(())
}

async fn time_to_live_tells_the_granted_time_and_what_is_left(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    ensure_eq!(status(kv, id).await?.0, MINUTE);
    let left = remaining(kv, id).await?;
    ensure!(left <= MINUTE && left >= MINUTE / 2, "{left:?} are left of a minute");
    ensure_eq!(left.subsec_nanos(), 0, "whole seconds are told");
    Ok(())
}

async fn time_to_live_shrinks_while_nobody_refreshes(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    sleep(Duration::from_millis(2100)).await;
    let left = remaining(kv, id).await?;
    ensure!(left < MINUTE - Duration::from_secs(1), "{left:?} are left after 2.1 s");
    Ok(())
}

async fn time_to_live_lists_keys_on_request_only(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    let lease = kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?.lease;
    ensure_eq!(lease.map(|lease| lease.keys.len()), Some(0));
    Ok(())
}

async fn time_to_live_lists_every_attached_key_once(kv: &Client) -> Checked {
    let (id, other) = (lease(kv).await?, lease(kv).await?);
    for key in ["c", "a", "b", "a"] {
        put_on(kv, id, key).await?;
    }
    put_on(kv, other, "d").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a", "b", "c"]);
    Ok(())
}

async fn leases_lists_those_that_exist(kv: &Client) -> Checked {
    let (one, two) = (lease(kv).await?, lease(kv).await?);
    kv.lease_revoke(one).await?;
    let leases = kv.leases().await?.leases;
    let count = |id: LeaseId| leases.iter().filter(|&&lease| lease == id).count();
    ensure_eq!((count(one), count(two)), (0, 1));
    Ok(())
}

async fn revoke_of_a_missing_lease_is_refused(kv: &Client) -> Checked {
    let missing = LeaseId::new(-free_lease(kv).await?.get());
    let missing = missing.ok_or_else(|| Failure::new("the store chose a lease id of zero"))?;
    refused(kv.lease_revoke(missing).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn revoke_twice_is_refused(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    kv.lease_revoke(id).await?;
    refused(kv.lease_revoke(id).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn revoke_deletes_the_leases_keys(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    puts(kv, [("b", "1")]).await?;
    kv.lease_revoke(id).await?;
    ensure_eq!(all_keys(kv).await?, ["b"]);
    Ok(())
}

async fn revoke_deletes_all_keys_in_one_revision(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    put_on(kv, id, "b").await?;
    let before = put_on(kv, id, "c").await?;
    ensure_eq!(kv.lease_revoke(id).await?.header.revision, before.next());
    ensure_eq!(now(kv).await?, before.next());
    Ok(())
}

async fn revoke_leaves_keys_of_other_leases(kv: &Client) -> Checked {
    let (one, two) = (lease(kv).await?, lease(kv).await?);
    put_on(kv, one, "a").await?;
    put_on(kv, two, "b").await?;
    kv.lease_revoke(one).await?;
    ensure_eq!(all_keys(kv).await?, ["b"]);
    ensure_eq!(lease_keys(kv, two).await?, ["b"]);
    Ok(())
}

async fn revoke_leaves_keys_that_were_detached(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    let [detached] = puts(kv, [("a", "1")]).await?;
    kv.lease_revoke(id).await?;
    ensure_eq!(get(kv, "a").await?.mod_revision, detached);
    Ok(())
}

async fn revoke_leaves_keys_that_moved_to_another_lease(kv: &Client) -> Checked {
    let (one, two) = (lease(kv).await?, lease(kv).await?);
    put_on(kv, one, "a").await?;
    put_on(kv, two, "a").await?;
    kv.lease_revoke(one).await?;
    ensure_eq!(get(kv, "a").await?.lease, Some(two));
    Ok(())
}

async fn revoke_makes_no_revision_when_its_keys_are_gone(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    let deleted = kv.delete("a").await?.header.revision;
    ensure_eq!(kv.lease_revoke(id).await?.header.revision, deleted);
    Ok(())
}

async fn revoked_lease_takes_no_key(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    kv.lease_revoke(id).await?;
    let put = Put::new("a", "1").lease(id);
    refused(kv.put_with(put.clone()).await, ErrorKind::LeaseNotFound)?;
    refused(kv.txn(Txn::new().and_then([put])).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}

async fn revoked_key_starts_again_at_version_one(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    kv.lease_revoke(id).await?;
    let [again] = puts(kv, [("a", "1")]).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((a.create_revision, a.version, a.lease), (again, 1, None));
    Ok(())
}

async fn txn_attaches_keys_all_or_none(kv: &Client) -> Checked {
    let (id, gone) = (lease(kv).await?, free_lease(kv).await?);
    let on = |key, id| Op::from(Put::new(key, "1").lease(id));
    let txn = Txn::new().and_then([on("a", id), on("b", gone)]);
    refused(kv.txn(txn).await, ErrorKind::LeaseNotFound)?;
    ensure_eq!(lease_keys(kv, id).await?, [""; 0]);
    steps(kv, [on("a", id), on("b", id)]).await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a", "b"]);
    Ok(())
}

async fn lease_headers_show_the_current_revision(kv: &Client) -> Checked {
    let [current] = puts(kv, [("a", "1")]).await?;
    let granted = kv.lease_grant(LeaseGrant::new(MINUTE)).await?;
    let kept = kv.lease_keep_alive(granted.id).await?;
    let told = kv.lease_time_to_live(LeaseTimeToLive::new(granted.id)).await?;
    let revoked = kv.lease_revoke(granted.id).await?;
    for header in [granted.header, kept.header, told.header, revoked.header] {
        ensure_eq!(header.revision, current);
    }
    Ok(())
}
