//! Those who campaign, proclaim and resign, and whoever asks who leads.

use etcd_client::proto::PbLeaderKey;

use crate::place::{Call, DONE, Peer, Place, REFUSED, Refusal, soon, text, unknown, value};

const NOT_LEADER: &str = "election: not leader";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const NO_KEY: &str = "etcdserver: key is not provided";

/// Campaigns for "jobs" on `lease` meanwhile; is the `place`th in the line when this returns.
async fn in_line(
    peer: &Peer,
    value: &'static str,
    lease: i64,
    place: usize,
) -> Call<Result<(PbLeaderKey, i64), Refusal>> {
    let theirs = peer.clone();
    let call = Call::begin(async move { theirs.campaign("jobs", value, lease).await });
    peer.until_there_are(place, "jobs/").await;
    call
}

pub(crate) async fn campaign_answers_with_what_stands_for_the_leader(place: Place) {
    let peer = place.peer().await;
    for (lease, name, proposal) in [(0x694d_82a1, "jobs", "me"), (-91, "", ""), (7, "a/b/", "x")] {
        peer.grant_with_id(60, lease).await;
        let before = peer.put("elsewhere").await;
        let (leader, revision) = peer.campaign(name, proposal, lease).await.expect(DONE);
        assert_eq!(revision, before + 1);
        let sign = if lease < 0 { "-" } else { "" };
        assert_eq!(text(&leader.key), format!("{name}/{sign}{:x}", lease.abs()));
        assert_eq!((&*leader.name, leader.lease), (name.as_bytes(), lease));
        assert_eq!(leader.rev, revision);
        let kv = peer.kv(&*leader.key).await;
        assert_eq!((value(&kv), kv.lease(), kv.version()), (proposal, lease, 1));
        assert_eq!(kv.create_revision(), revision);
    }
}

pub(crate) async fn campaign_without_a_lease_has_one_of_a_minute(place: Place) {
    let peer = place.peer().await;
    let (leader, _) = peer.campaign("jobs", "me", 0).await.expect(DONE);
    assert_eq!(text(&leader.key), format!("jobs/{:x}", leader.lease));
    let (granted, left) = peer.time_of(leader.lease).await;
    assert!(granted == 60 && (58..=60).contains(&left), "{granted}, {left}");
    // The key stays on that lease when it proclaims.
    peer.proclaim(Some(&leader), "still me").await.expect(DONE);
    assert_eq!(peer.kv(&*leader.key).await.lease(), leader.lease);
    peer.resign(Some(&leader)).await.expect(DONE);
    assert_eq!(peer.time_of(leader.lease).await.0, 60);
}

pub(crate) async fn campaign_on_a_lease_that_is_not_there_is_refused(place: Place) {
    let peer = place.peer().await;
    let refused = peer.campaign("jobs", "me", 123_456).await.expect_err(REFUSED);
    assert_eq!(refused, unknown(NO_LEASE));
    assert_eq!(peer.keys("jobs").await, [""; 0]);
}

pub(crate) async fn campaign_again_on_the_same_lease_proclaims(place: Place) {
    let (peer, other) = (place.peer().await, place.peer().await);
    let lease = peer.grant(60).await;
    let (leader, entered) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    let later = peer.put("elsewhere").await;

    // With the same value nothing is written, and the answer is as of now.
    let (again, revision) = soon(other.campaign("jobs", "me", lease)).await.expect(DONE);
    assert_eq!((&again, revision), (&leader, later));
    let kv = peer.kv(&*leader.key).await;
    assert_eq!((kv.create_revision(), kv.mod_revision()), (entered, entered));

    // With another value the answer is of the revision before it was written.
    let (again, revision) = soon(other.campaign("jobs", "still me", lease)).await.expect(DONE);
    assert_eq!((&again, revision), (&leader, later));
    let kv = peer.kv(&*leader.key).await;
    assert_eq!((value(&kv), kv.version(), kv.lease()), ("still me", 2, lease));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (entered, later + 1));
}

pub(crate) async fn candidate_is_elected_when_the_leader_resigns_and_told_when_it_entered(
    place: Place,
) {
    let peer = place.peer().await;
    let leases = [peer.grant(60).await, peer.grant(60).await, peer.grant(60).await];
    let (first, _) = peer.campaign("jobs", "first", leases[0]).await.expect(DONE);
    let before = peer.put("elsewhere").await;
    let mut second = in_line(&peer, "second", leases[1], 2).await;
    let mut third = in_line(&peer, "third", leases[2], 3).await;
    second.waits().await;
    let resigned = peer.resign(Some(&first)).await.expect(DONE);
    assert_eq!(resigned, before + 3);
    let (second, revision) = second.answer().await.expect(DONE);
    assert_eq!((second.rev, revision), (before + 1, before + 1));
    third.waits().await;
    // A lease that ends is as good as a resignation.
    peer.revoke(leases[1]).await;
    let (third, revision) = third.answer().await.expect(DONE);
    assert_eq!((third.rev, revision), (before + 2, before + 2));
    assert_eq!(third.lease, leases[2]);
}

pub(crate) async fn candidate_that_campaigns_again_while_it_waits_changes_its_value(place: Place) {
    let (peer, other) = (place.peer().await, place.peer().await);
    let (first, second) = (peer.grant(60).await, peer.grant(60).await);
    let (leader, _) = peer.campaign("jobs", "first", first).await.expect(DONE);
    let waiter = in_line(&peer, "second", second, 2).await;
    let mut again = in_line(&other, "second, later", second, 2).await;
    again.waits().await;
    let kv = peer.kv(format!("jobs/{second:x}")).await;
    assert_eq!(value(&kv), "second, later");
    // It may proclaim before it leads.
    let (name, rev) = (b"jobs".to_vec(), kv.create_revision());
    let key = PbLeaderKey { name, key: kv.key().to_vec(), rev, lease: second };
    peer.proclaim(Some(&key), "second, ready").await.expect(DONE);
    assert_eq!(value(&peer.leader("jobs").await.expect(DONE).0), "first");
    peer.resign(Some(&leader)).await.expect(DONE);
    let (got, got_again) = tokio::join!(waiter.answer(), again.answer());
    assert_eq!((got.expect(DONE).0, got_again.expect(DONE).0), (key.clone(), key));
    assert_eq!(value(&peer.leader("jobs").await.expect(DONE).0), "second, ready");
}

pub(crate) async fn candidate_that_gives_up_leaves_no_key_and_keeps_its_lease(place: Place) {
    let (peer, other) = (place.peer().await, place.peer().await);
    let leases = [peer.grant(60).await, peer.grant(60).await, peer.grant(60).await];
    let (leader, _) = peer.campaign("jobs", "first", leases[0]).await.expect(DONE);
    let second = in_line(&peer, "second", leases[1], 2).await;
    let third = in_line(&other, "third", leases[2], 3).await;
    drop(second);
    peer.until_there_are(2, "jobs/").await;
    // Or its connection is lost.
    drop((third, other));
    peer.until_there_are(1, "jobs/").await;
    assert_eq!(peer.leader("jobs").await.expect(DONE).0.key(), &leader.key[..]);
    for lease in leases {
        assert_eq!(peer.time_of(lease).await.0, 60);
    }
}

/// etcd says that it leads, with a key that is not there. Ours says at once that it does not.
pub(crate) async fn candidate_whose_lease_ends_does_not_lead_with_a_key(place: Place) {
    let peer = place.peer().await;
    let leases = [peer.grant(60).await, peer.grant(60).await, peer.grant(60).await];
    let (leader, _) = peer.campaign("jobs", "first", leases[0]).await.expect(DONE);
    let mut revoked = in_line(&peer, "second", leases[1], 2).await;
    let mut deleted = in_line(&peer, "third", leases[2], 3).await;
    peer.revoke(leases[1]).await;
    peer.delete(format!("jobs/{:x}", leases[2])).await;
    if place.is_etcd() {
        tokio::join!(revoked.waits(), deleted.waits());
        peer.resign(Some(&leader)).await.expect(DONE);
        let (leader, _) = revoked.answer().await.expect(DONE);
        assert_eq!(leader.lease, leases[1]);
        let refused = peer.proclaim(Some(&leader), "nobody").await.expect_err(REFUSED);
        assert_eq!(refused, unknown(NOT_LEADER));
        deleted.answer().await.expect(DONE);
    } else {
        assert_eq!(revoked.answer().await.expect_err(REFUSED), unknown(NOT_LEADER));
        assert_eq!(deleted.answer().await.expect_err(REFUSED), unknown(NOT_LEADER));
        peer.resign(Some(&leader)).await.expect(DONE);
    }
    assert_eq!(peer.leader("jobs").await.expect_err(REFUSED), unknown("election: no leader"));
}

pub(crate) async fn leader_is_named_or_there_is_none(place: Place) {
    let peer = place.peer().await;
    for name in ["jobs", ""] {
        assert_eq!(peer.leader(name).await.expect_err(REFUSED), unknown("election: no leader"));
    }
    let lease = peer.grant(60).await;
    let (leader, entered) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    let now = peer.put("elsewhere").await;
    let (kv, revision) = peer.leader("jobs").await.expect(DONE);
    assert_eq!((kv.key(), value(&kv), kv.lease()), (&leader.key[..], "me", lease));
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (entered, entered, 1));
    assert_eq!(revision, now);
    // Names that begin alike are others.
    assert_eq!(peer.leader("job").await.expect_err(REFUSED), unknown("election: no leader"));
    assert_eq!(peer.leader("jobs2").await.expect_err(REFUSED), unknown("election: no leader"));
    peer.resign(Some(&leader)).await.expect(DONE);
    assert_eq!(peer.leader("jobs").await.expect_err(REFUSED), unknown("election: no leader"));
    // Whoever holds the lock of that name leads.
    let (key, _) = peer.lock("jobs", lease).await.expect(DONE);
    let (kv, _) = peer.leader("jobs").await.expect(DONE);
    assert_eq!((kv.key(), value(&kv)), (key.as_bytes(), ""));
}

pub(crate) async fn proclaim_and_resign_want_a_leader(place: Place) {
    let peer = place.peer().await;
    let missing = unknown("\"leader\" field must be provided");
    assert_eq!(peer.proclaim(None, "me").await.expect_err(REFUSED), missing);
    assert_eq!(peer.resign(None).await.expect_err(REFUSED), missing);
    let nobody = PbLeaderKey::default();
    assert_eq!(peer.proclaim(Some(&nobody), "me").await.expect_err(REFUSED), unknown(NO_KEY));
    assert_eq!(peer.resign(Some(&nobody)).await.expect_err(REFUSED), unknown(NO_KEY));
}

pub(crate) async fn proclaim_is_for_whoever_has_the_key(place: Place) {
    let peer = place.peer().await;
    let lease = peer.grant(60).await;
    let (leader, entered) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    let proclaimed = peer.proclaim(Some(&leader), "still me").await.expect(DONE);
    assert_eq!(proclaimed, entered + 1);
    let kv = peer.kv(&*leader.key).await;
    assert_eq!((value(&kv), kv.version(), kv.lease()), ("still me", 2, lease));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (entered, proclaimed));
    // The same value is written again.
    assert_eq!(peer.proclaim(Some(&leader), "still me").await, Ok(entered + 2));

    for other in [
        PbLeaderKey { rev: entered + 1, ..leader.clone() },
        PbLeaderKey { rev: 0, ..leader.clone() },
        PbLeaderKey { key: b"jobs/nobody".to_vec(), ..leader.clone() },
        // Nobody looks for the lease of somebody who does not lead.
        PbLeaderKey { rev: 1, lease: 1, ..leader.clone() },
    ] {
        let refused = peer.proclaim(Some(&other), "somebody else").await.expect_err(REFUSED);
        assert_eq!(refused, unknown(NOT_LEADER), "{other:?}");
    }
    // Its name does not matter.
    let unnamed = PbLeaderKey { name: Vec::new(), ..leader.clone() };
    peer.proclaim(Some(&unnamed), "me again").await.expect(DONE);
    peer.resign(Some(&leader)).await.expect(DONE);
    let refused = peer.proclaim(Some(&leader), "not me").await.expect_err(REFUSED);
    assert_eq!(refused, unknown(NOT_LEADER));
    // Who leads anew is another.
    let (anew, _) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    assert_eq!(anew.key, leader.key);
    let refused = peer.proclaim(Some(&leader), "not me").await.expect_err(REFUSED);
    assert_eq!(refused, unknown(NOT_LEADER));
    assert_eq!(value(&peer.kv(&*anew.key).await), "me");
}

pub(crate) async fn proclaim_on_a_lease_that_is_not_there_is_refused(place: Place) {
    let peer = place.peer().await;
    let (lease, other) = (peer.grant(60).await, peer.grant(60).await);
    let (leader, _) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    let elsewhere = |lease| PbLeaderKey { lease, ..leader.clone() };
    let refused = peer.proclaim(Some(&elsewhere(123_456)), "me").await.expect_err(REFUSED);
    assert_eq!(refused, unknown(NO_LEASE));
    // The key goes to the lease that is named.
    peer.proclaim(Some(&elsewhere(other)), "me").await.expect(DONE);
    assert_eq!(peer.kv(&*leader.key).await.lease(), other);
    // And without one to a new one.
    peer.proclaim(Some(&elsewhere(0)), "me").await.expect(DONE);
    let new = peer.kv(&*leader.key).await.lease();
    assert!(new != 0 && new != lease && new != other);
    assert_eq!(peer.time_of(new).await.0, 60);
}

pub(crate) async fn resign_of_what_is_not_there_changes_nothing(place: Place) {
    let peer = place.peer().await;
    let lease = peer.grant(60).await;
    let (leader, entered) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    for other in [
        PbLeaderKey { rev: entered + 1, ..leader.clone() },
        PbLeaderKey { key: b"jobs/nobody".to_vec(), ..leader.clone() },
    ] {
        assert_eq!(peer.resign(Some(&other)).await, Ok(entered), "{other:?}");
    }
    assert_eq!(peer.leader("jobs").await.expect(DONE).0.key(), &leader.key[..]);
    // Which lease it names does not matter.
    let elsewhere = PbLeaderKey { lease: 123_456, ..leader.clone() };
    assert_eq!(peer.resign(Some(&elsewhere)).await, Ok(entered + 1));
    assert_eq!(peer.resign(Some(&leader)).await, Ok(entered + 1));
    assert_eq!(peer.keys("jobs").await, [""; 0]);
    assert_eq!(peer.time_of(lease).await.0, 60);
}
