//! One who locks: what key it gets, on which lease, and when it is refused.

use std::time::Duration;

use tokio::time::Instant;

use crate::place::{DONE, Place, REFUSED, soon, unknown, value};

pub(crate) async fn key_is_the_name_and_the_lease_in_hex_and_hangs_on_the_lease(place: Place) {
    let peer = place.peer().await;
    for (lease, name, expected) in [
        (0x694d_82a1, "jobs", "jobs/694d82a1"),
        (0x7000_0000_0000_0001, "jobs/night/", "jobs/night//7000000000000001"),
        (91, "", "/5b"),
        (-91, "negative", "negative/-5b"),
    ] {
        peer.grant_with_id(60, lease).await;
        let before = peer.put("elsewhere").await;
        let (key, revision) = peer.lock(name, lease).await.expect(DONE);
        assert_eq!((key.as_str(), revision), (expected, before + 1));
        let kv = peer.kv(key).await;
        assert_eq!((kv.value(), kv.lease()), (&b""[..], lease));
        assert_eq!((kv.create_revision(), kv.version()), (revision, 1));
    }
}

pub(crate) async fn lease_that_is_not_there_is_refused(place: Place) {
    let peer = place.peer().await;
    let refused = peer.lock("jobs", 123_456).await.expect_err(REFUSED);
    assert_eq!(refused, unknown("etcdserver: requested lease not found"));
    let lease = peer.grant(60).await;
    peer.lock("held", lease).await.expect(DONE);
    let refused = peer.lock("held", 123_456).await.expect_err(REFUSED);
    assert_eq!(refused, unknown("etcdserver: requested lease not found"));
    assert_eq!(peer.keys("jobs").await, [""; 0]);
    assert_eq!(peer.keys("held").await.len(), 1);
}

pub(crate) async fn lock_without_a_lease_has_one_of_a_minute(place: Place) {
    let peer = place.peer().await;
    let (key, _) = peer.lock("jobs", 0).await.expect(DONE);
    let lease = peer.kv(&*key).await.lease();
    assert_eq!(key, format!("jobs/{lease:x}"));
    let (granted, left) = peer.time_of(lease).await;
    assert!(granted == 60 && (58..=60).contains(&left), "{granted}, {left}");
    // Another call is somebody else.
    let second = peer.lock("jobs", 0);
    tokio::pin!(second);
    tokio::select! {
        biased;
        answer = &mut second => panic!("{answer:?} while {key} holds"),
        () = peer.until_there_are(2, "jobs/") => {}
    }
    peer.unlock(&*key).await.expect(DONE);
    let (second, _) = soon(second).await.expect(DONE);
    assert_ne!(second, key);
    // Unlocking does not end the lease.
    assert_eq!(peer.time_of(lease).await.0, 60);
}

pub(crate) async fn lock_ends_with_its_lease_which_the_server_does_not_keep_alive(place: Place) {
    let peer = place.peer().await;
    // The shortest that etcd grants.
    let short = peer.grant(2).await;
    let granted = Instant::now();
    peer.lock("jobs", short).await.expect(DONE);
    let long = peer.grant(60).await;
    soon(peer.lock("jobs", long)).await.expect(DONE);
    let after = granted.elapsed();
    // A call refreshes the lease once, if it comes to that.
    let usual = Duration::from_millis(1900)..Duration::from_millis(5500);
    assert!(usual.contains(&after), "{after:?}");
    assert_eq!(peer.time_of(short).await.1, -1);
}

pub(crate) async fn same_lease_and_name_again_is_answered_at_once_with_the_same_key(place: Place) {
    let (peer, other) = (place.peer().await, place.peer().await);
    let lease = peer.grant(60).await;
    let (key, created) = peer.lock("jobs", lease).await.expect(DONE);
    let later = peer.put("elsewhere").await;
    for peer in [&peer, &other] {
        assert_eq!(soon(peer.lock("jobs", lease)).await, Ok((key.clone(), later)));
    }
    let kv = peer.kv(&*key).await;
    assert_eq!((kv.create_revision(), kv.mod_revision()), (created, created));
    // One unlock is enough, and the next lock is another life of the key.
    peer.unlock(&*key).await.expect(DONE);
    assert_eq!(peer.keys("jobs/").await, [""; 0]);
    assert_eq!(peer.lock("jobs", lease).await, Ok((key, later + 2)));
    // The lease may hold other locks.
    let (another, _) = peer.lock("other jobs", lease).await.expect(DONE);
    assert_eq!(another, format!("other jobs/{lease:x}"));
}

pub(crate) async fn lock_leaves_the_value_of_a_campaign_as_it_is(place: Place) {
    let peer = place.peer().await;
    let lease = peer.grant(60).await;
    let (leader, _) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    let (key, _) = soon(peer.lock("jobs", lease)).await.expect(DONE);
    assert_eq!(key.as_bytes(), leader.key);
    assert_eq!(value(&peer.kv(key).await), "me");
}

pub(crate) async fn unlock_deletes_any_key_and_none(place: Place) {
    let peer = place.peer().await;
    let revision = peer.put("anything").await;
    assert_eq!(peer.unlock("nothing").await, Ok(revision));
    assert_eq!(peer.unlock("anything").await, Ok(revision + 1));
    assert!(peer.get("anything").await.is_none());
    let refused = peer.unlock("").await.expect_err(REFUSED);
    assert_eq!(refused, unknown("etcdserver: key is not provided"));
    // Names are no ranges.
    peer.put("jobs/1").await;
    peer.unlock("jobs/").await.expect(DONE);
    assert_eq!(peer.keys("jobs/").await, ["jobs/1"]);
}
