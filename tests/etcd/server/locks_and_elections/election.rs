//! The Campaign, Proclaim, Resign and Leader calls.

use etcd_client::proto::PbLeaderKey;

use crate::target::{Target, text, unknown_status, value, within_20_s};

const NOT_LEADER: &str = "election: not leader";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const NO_KEY: &str = "etcdserver: key is not provided";

pub(crate) async fn campaign_returns_leader_key_and_revision(target: Target) {
    let client = target.client().await;
    for (lease, name, proposal) in [(0x694d_82a1, "jobs", "me"), (-91, "", ""), (7, "a/b/", "x")] {
        client.grant_with_id(60, lease).await;
        let before = client.put("elsewhere").await;
        let (leader, revision) = client.campaign(name, proposal, lease).await.unwrap();
        assert_eq!(revision, before + 1);
        let sign = if lease < 0 { "-" } else { "" };
        assert_eq!(text(&leader.key), format!("{name}/{sign}{:x}", lease.abs()));
        assert_eq!((&*leader.name, leader.lease), (name.as_bytes(), lease));
        assert_eq!(leader.rev, revision);
        let kv = client.kv(&*leader.key).await;
        assert_eq!((value(&kv), kv.lease(), kv.version()), (proposal, lease, 1));
        assert_eq!(kv.create_revision(), revision);
    }
}

pub(crate) async fn campaign_without_lease_gets_lease_of_60_s(target: Target) {
    let client = target.client().await;
    let (leader, _) = client.campaign("jobs", "me", 0).await.unwrap();
    assert_eq!(text(&leader.key), format!("jobs/{:x}", leader.lease));
    let (granted, left) = client.lease_ttl(leader.lease).await;
    assert!(granted == 60 && (58..=60).contains(&left), "{granted}, {left}");
    // Proclaiming keeps the key on that lease.
    client.proclaim(Some(&leader), "still me").await.unwrap();
    assert_eq!(client.kv(&*leader.key).await.lease(), leader.lease);
    client.resign(Some(&leader)).await.unwrap();
    assert_eq!(client.lease_ttl(leader.lease).await.0, 60);
}

pub(crate) async fn campaign_on_unknown_lease_is_rejected(target: Target) {
    let client = target.client().await;
    let rejected = client.campaign("jobs", "me", 123_456).await.unwrap_err();
    assert_eq!(rejected, unknown_status(NO_LEASE));
    assert_eq!(client.keys("jobs").await, [""; 0]);
}

pub(crate) async fn campaign_again_on_same_lease_proclaims(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    let lease = client.grant(60).await;
    let (leader, entered) = client.campaign("jobs", "me", lease).await.unwrap();
    let later = client.put("elsewhere").await;

    // With the same value nothing is written, and the response has the current revision.
    let (again, revision) = within_20_s(other.campaign("jobs", "me", lease)).await.unwrap();
    assert_eq!((&again, revision), (&leader, later));
    let kv = client.kv(&*leader.key).await;
    assert_eq!((kv.create_revision(), kv.mod_revision()), (entered, entered));

    // With another value, the response has the revision before the write.
    let (again, revision) = within_20_s(other.campaign("jobs", "still me", lease)).await.unwrap();
    assert_eq!((&again, revision), (&leader, later));
    let kv = client.kv(&*leader.key).await;
    assert_eq!((value(&kv), kv.version(), kv.lease()), ("still me", 2, lease));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (entered, later + 1));
}

pub(crate) async fn candidate_elected_after_resign_gets_enqueue_revision(target: Target) {
    let client = target.client().await;
    let leases = [client.grant(60).await, client.grant(60).await, client.grant(60).await];
    let (first, _) = client.campaign("jobs", "first", leases[0]).await.unwrap();
    let before = client.put("elsewhere").await;
    let mut second = client.start_campaign("jobs", "second", leases[1], 2).await;
    let mut third = client.start_campaign("jobs", "third", leases[2], 3).await;
    second.assert_pending().await;
    let resigned = client.resign(Some(&first)).await.unwrap();
    assert_eq!(resigned, before + 3);
    let (second, revision) = second.response().await.unwrap();
    assert_eq!((second.rev, revision), (before + 1, before + 1));
    third.assert_pending().await;
    // The end of the leader's lease has the effect of a resignation.
    client.revoke(leases[1]).await;
    let (third, revision) = third.response().await.unwrap();
    assert_eq!((third.rev, revision), (before + 2, before + 2));
    assert_eq!(third.lease, leases[2]);
}

pub(crate) async fn campaign_again_while_waiting_changes_the_value(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    let (leader, _) = client.campaign("jobs", "first", first).await.unwrap();
    let waiter = client.start_campaign("jobs", "second", second, 2).await;
    let mut again = other.start_campaign("jobs", "second, later", second, 2).await;
    again.assert_pending().await;
    let kv = client.kv(format!("jobs/{second:x}")).await;
    assert_eq!(value(&kv), "second, later");
    // A candidate can proclaim before it leads.
    let (name, rev) = (b"jobs".to_vec(), kv.create_revision());
    let key = PbLeaderKey { name, key: kv.key().to_vec(), rev, lease: second };
    client.proclaim(Some(&key), "second, ready").await.unwrap();
    assert_eq!(value(&client.leader("jobs").await.unwrap().0), "first");
    client.resign(Some(&leader)).await.unwrap();
    let (got, got_again) = tokio::join!(waiter.response(), again.response());
    assert_eq!((got.unwrap().0, got_again.unwrap().0), (key.clone(), key));
    assert_eq!(value(&client.leader("jobs").await.unwrap().0), "second, ready");
}

pub(crate) async fn cancelled_candidate_leaves_no_key_and_keeps_its_lease(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    let leases = [client.grant(60).await, client.grant(60).await, client.grant(60).await];
    let (leader, _) = client.campaign("jobs", "first", leases[0]).await.unwrap();
    let second = client.start_campaign("jobs", "second", leases[1], 2).await;
    let third = other.start_campaign("jobs", "third", leases[2], 3).await;
    drop(second);
    client.wait_for_key_count(2, "jobs/").await;
    // The same if the connection is lost.
    drop((third, other));
    client.wait_for_key_count(1, "jobs/").await;
    assert_eq!(client.leader("jobs").await.unwrap().0.key(), &leader.key[..]);
    for lease in leases {
        assert_eq!(client.lease_ttl(lease).await.0, 60);
    }
}

/// etcd returns a leader key that does not exist. coord's server reports within a quarter of a
/// second that the candidate does not lead.
pub(crate) async fn candidate_without_lease_or_key_does_not_lead(target: Target) {
    let client = target.client().await;
    let leases = [client.grant(60).await, client.grant(60).await, client.grant(60).await];
    let (leader, _) = client.campaign("jobs", "first", leases[0]).await.unwrap();
    let mut revoked = client.start_campaign("jobs", "second", leases[1], 2).await;
    let mut deleted = client.start_campaign("jobs", "third", leases[2], 3).await;
    client.revoke(leases[1]).await;
    client.delete(format!("jobs/{:x}", leases[2])).await;
    if target.is_etcd() {
        tokio::join!(revoked.assert_pending(), deleted.assert_pending());
        client.resign(Some(&leader)).await.unwrap();
        let (leader, _) = revoked.response().await.unwrap();
        assert_eq!(leader.lease, leases[1]);
        let rejected = client.proclaim(Some(&leader), "not the leader").await.unwrap_err();
        assert_eq!(rejected, unknown_status(NOT_LEADER));
        deleted.response().await.unwrap();
    } else {
        assert_eq!(revoked.response().await.unwrap_err(), unknown_status(NOT_LEADER));
        assert_eq!(deleted.response().await.unwrap_err(), unknown_status(NOT_LEADER));
        client.resign(Some(&leader)).await.unwrap();
    }
    assert_eq!(client.leader("jobs").await.unwrap_err(), unknown_status("election: no leader"));
}

pub(crate) async fn leader_returns_current_leader_or_error(target: Target) {
    let client = target.client().await;
    for name in ["jobs", ""] {
        assert_eq!(client.leader(name).await.unwrap_err(), unknown_status("election: no leader"));
    }
    let lease = client.grant(60).await;
    let (leader, entered) = client.campaign("jobs", "me", lease).await.unwrap();
    let now = client.put("elsewhere").await;
    let (kv, revision) = client.leader("jobs").await.unwrap();
    assert_eq!((kv.key(), value(&kv), kv.lease()), (&leader.key[..], "me", lease));
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (entered, entered, 1));
    assert_eq!(revision, now);
    // Names with a common prefix are different elections.
    assert_eq!(client.leader("job").await.unwrap_err(), unknown_status("election: no leader"));
    assert_eq!(client.leader("jobs2").await.unwrap_err(), unknown_status("election: no leader"));
    client.resign(Some(&leader)).await.unwrap();
    assert_eq!(client.leader("jobs").await.unwrap_err(), unknown_status("election: no leader"));
    // The holder of the lock with the same name is the leader.
    let (key, _) = client.lock("jobs", lease).await.unwrap();
    let (kv, _) = client.leader("jobs").await.unwrap();
    assert_eq!((kv.key(), value(&kv)), (key.as_bytes(), ""));
}

pub(crate) async fn proclaim_and_resign_without_leader_are_rejected(target: Target) {
    let client = target.client().await;
    let missing = unknown_status("\"leader\" field must be provided");
    assert_eq!(client.proclaim(None, "me").await.unwrap_err(), missing);
    assert_eq!(client.resign(None).await.unwrap_err(), missing);
    let empty = PbLeaderKey::default();
    assert_eq!(client.proclaim(Some(&empty), "me").await.unwrap_err(), unknown_status(NO_KEY));
    assert_eq!(client.resign(Some(&empty)).await.unwrap_err(), unknown_status(NO_KEY));
}

pub(crate) async fn proclaim_requires_key_and_create_revision(target: Target) {
    let client = target.client().await;
    let lease = client.grant(60).await;
    let (leader, entered) = client.campaign("jobs", "me", lease).await.unwrap();
    let proclaimed = client.proclaim(Some(&leader), "still me").await.unwrap();
    assert_eq!(proclaimed, entered + 1);
    let kv = client.kv(&*leader.key).await;
    assert_eq!((value(&kv), kv.version(), kv.lease()), ("still me", 2, lease));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (entered, proclaimed));
    // The same value is written again.
    assert_eq!(client.proclaim(Some(&leader), "still me").await, Ok(entered + 2));

    for other in [
        PbLeaderKey { rev: entered + 1, ..leader.clone() },
        PbLeaderKey { rev: 0, ..leader.clone() },
        PbLeaderKey { key: b"jobs/unknown".to_vec(), ..leader.clone() },
        // The lease of a key that does not lead is not checked.
        PbLeaderKey { rev: 1, lease: 1, ..leader.clone() },
    ] {
        let rejected = client.proclaim(Some(&other), "another").await.unwrap_err();
        assert_eq!(rejected, unknown_status(NOT_LEADER), "{other:?}");
    }
    // The name in the leader key is ignored.
    let unnamed = PbLeaderKey { name: Vec::new(), ..leader.clone() };
    client.proclaim(Some(&unnamed), "me again").await.unwrap();
    client.resign(Some(&leader)).await.unwrap();
    let rejected = client.proclaim(Some(&leader), "not me").await.unwrap_err();
    assert_eq!(rejected, unknown_status(NOT_LEADER));
    // A later leadership has another create revision.
    let (anew, _) = client.campaign("jobs", "me", lease).await.unwrap();
    assert_eq!(anew.key, leader.key);
    let rejected = client.proclaim(Some(&leader), "not me").await.unwrap_err();
    assert_eq!(rejected, unknown_status(NOT_LEADER));
    assert_eq!(value(&client.kv(&*anew.key).await), "me");
}

pub(crate) async fn proclaim_attaches_key_to_named_lease(target: Target) {
    let client = target.client().await;
    let (lease, other) = (client.grant(60).await, client.grant(60).await);
    let (leader, _) = client.campaign("jobs", "me", lease).await.unwrap();
    let elsewhere = |lease| PbLeaderKey { lease, ..leader.clone() };
    let rejected = client.proclaim(Some(&elsewhere(123_456)), "me").await.unwrap_err();
    assert_eq!(rejected, unknown_status(NO_LEASE));
    // The key is attached to the named lease.
    client.proclaim(Some(&elsewhere(other)), "me").await.unwrap();
    assert_eq!(client.kv(&*leader.key).await.lease(), other);
    // Without a lease, the key is attached to a new one.
    client.proclaim(Some(&elsewhere(0)), "me").await.unwrap();
    let new = client.kv(&*leader.key).await.lease();
    assert!(new != 0 && new != lease && new != other);
    assert_eq!(client.lease_ttl(new).await.0, 60);
}

pub(crate) async fn resign_of_another_leader_changes_nothing(target: Target) {
    let client = target.client().await;
    let lease = client.grant(60).await;
    let (leader, entered) = client.campaign("jobs", "me", lease).await.unwrap();
    for other in [
        PbLeaderKey { rev: entered + 1, ..leader.clone() },
        PbLeaderKey { key: b"jobs/unknown".to_vec(), ..leader.clone() },
    ] {
        assert_eq!(client.resign(Some(&other)).await, Ok(entered), "{other:?}");
    }
    assert_eq!(client.leader("jobs").await.unwrap().0.key(), &leader.key[..]);
    // The lease in the leader key is ignored.
    let elsewhere = PbLeaderKey { lease: 123_456, ..leader.clone() };
    assert_eq!(client.resign(Some(&elsewhere)).await, Ok(entered + 1));
    assert_eq!(client.resign(Some(&leader)).await, Ok(entered + 1));
    assert_eq!(client.keys("jobs").await, [""; 0]);
    assert_eq!(client.lease_ttl(lease).await.0, 60);
}
