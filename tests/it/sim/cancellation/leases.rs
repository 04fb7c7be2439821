//! Cancellation cases of the leases of a client without a session.

use coord_core::kv::{LeaseGrant, LeaseId, LeaseTimeToLive};
use coord_core::{Client, Error};

use super::trial::{TTL, Trial};
use super::{Case, drop_all};

#[test]
fn dropped_lease_calls_leave_no_lease() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["Client::lease_grant"], "the lease expires by itself", lease_grant),
        Case::new(&["Client::lease_keep_alive"], "then revoked", lease_keep_alive),
        Case::new(&["Client::lease_revoke"], "then revoked by another client", lease_revoke),
        Case::new(&["Client::lease_time_to_live"], "then revoked", lease_time_to_live),
    ]
}

async fn grant(client: &Client) -> LeaseId {
    client.lease_grant(LeaseGrant::new(TTL)).await.unwrap().id
}

/// Revokes a lease, which may be revoked already.
async fn revoke(t: &Trial, lease: LeaseId) {
    match t.proceeds(t.other.client().lease_revoke(lease)).await {
        Ok(_) | Err(Error::LeaseNotFound { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

async fn lease_grant(t: Trial) {
    let other = t.other.client();
    t.drop_at_await(t.client().lease_grant(LeaseGrant::new(TTL))).await.transpose().unwrap();
    let lease = t.proceeds(grant(other)).await;
    let leases = other.leases().await.unwrap().leases;
    assert!(leases.contains(&lease) && leases.len() <= 2, "{leases:?}");
    t.messages_arrive().await;
}

async fn lease_keep_alive(t: Trial) {
    let lease = grant(t.other.client()).await;
    t.drop_at_await(t.client().lease_keep_alive(lease)).await.transpose().unwrap();
    revoke(&t, lease).await;
    t.messages_arrive().await;
}

async fn lease_revoke(t: Trial) {
    let lease = grant(t.other.client()).await;
    t.other.client().put_with(coord_core::kv::Put::new("m/k", "").lease(lease)).await.unwrap();
    t.drop_at_await(t.client().lease_revoke(lease)).await.transpose().unwrap();
    revoke(&t, lease).await;
    // The key is deleted with the lease.
    t.queue_is_free("m").await;
}

async fn lease_time_to_live(t: Trial) {
    let lease = grant(t.other.client()).await;
    let request = LeaseTimeToLive::new(lease);
    t.drop_at_await(t.client().lease_time_to_live(request)).await.transpose().unwrap();
    let read = t.proceeds(t.other.client().lease_time_to_live(request)).await.unwrap();
    assert_eq!(read.lease.unwrap().granted, TTL);
    revoke(&t, lease).await;
    t.messages_arrive().await;
}
