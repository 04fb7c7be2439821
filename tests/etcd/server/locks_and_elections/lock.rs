//! The Lock and Unlock calls: the queue key, the lease, and rejections.

use std::time::Duration;

use tokio::time::Instant;

use crate::target::{Target, unknown_status, value, within_20_s};

pub(crate) async fn lock_key_is_name_and_hex_lease_attached_to_lease(target: Target) {
    let client = target.client().await;
    for (lease, name, expected) in [
        (0x694d_82a1, "jobs", "jobs/694d82a1"),
        (0x7000_0000_0000_0001, "jobs/night/", "jobs/night//7000000000000001"),
        (91, "", "/5b"),
        (-91, "negative", "negative/-5b"),
    ] {
        client.grant_with_id(60, lease).await;
        let before = client.put("elsewhere").await;
        let (key, revision) = client.lock(name, lease).await.unwrap();
        assert_eq!((key.as_str(), revision), (expected, before + 1));
        let kv = client.kv(key).await;
        assert_eq!((kv.value(), kv.lease()), (&b""[..], lease));
        assert_eq!((kv.create_revision(), kv.version()), (revision, 1));
    }
}

pub(crate) async fn lock_on_unknown_lease_is_rejected(target: Target) {
    let client = target.client().await;
    let rejected = client.lock("jobs", 123_456).await.unwrap_err();
    assert_eq!(rejected, unknown_status("etcdserver: requested lease not found"));
    let lease = client.grant(60).await;
    client.lock("held", lease).await.unwrap();
    let rejected = client.lock("held", 123_456).await.unwrap_err();
    assert_eq!(rejected, unknown_status("etcdserver: requested lease not found"));
    assert_eq!(client.keys("jobs").await, [""; 0]);
    assert_eq!(client.keys("held").await.len(), 1);
}

pub(crate) async fn lock_without_lease_gets_lease_of_60_s(target: Target) {
    let client = target.client().await;
    let (key, _) = client.lock("jobs", 0).await.unwrap();
    let lease = client.kv(&*key).await.lease();
    assert_eq!(key, format!("jobs/{lease:x}"));
    let (granted, left) = client.lease_ttl(lease).await;
    assert!(granted == 60 && (58..=60).contains(&left), "{granted}, {left}");
    // Another call without a lease is another contender.
    let second = client.lock("jobs", 0);
    tokio::pin!(second);
    tokio::select! {
        biased;
        result = &mut second => panic!("{result:?} while {key} is held"),
        () = client.wait_for_key_count(2, "jobs/") => {}
    }
    client.unlock(&*key).await.unwrap();
    let (second, _) = within_20_s(second).await.unwrap();
    assert_ne!(second, key);
    // Unlocking does not revoke the lease.
    assert_eq!(client.lease_ttl(lease).await.0, 60);
}

pub(crate) async fn lock_ends_when_its_lease_is_not_kept_alive(target: Target) {
    let client = target.client().await;
    // The minimum TTL that etcd grants.
    let short = client.grant(2).await;
    let granted = Instant::now();
    client.lock("jobs", short).await.unwrap();
    let long = client.grant(60).await;
    within_20_s(client.lock("jobs", long)).await.unwrap();
    let after = granted.elapsed();
    // The call may send one keep-alive for the lease.
    let usual = Duration::from_millis(1900)..Duration::from_millis(5500);
    assert!(usual.contains(&after), "{after:?}");
    assert_eq!(client.lease_ttl(short).await.1, -1);
}

pub(crate) async fn lock_again_on_same_lease_returns_same_key(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    let lease = client.grant(60).await;
    let (key, created) = client.lock("jobs", lease).await.unwrap();
    let later = client.put("elsewhere").await;
    for client in [&client, &other] {
        assert_eq!(within_20_s(client.lock("jobs", lease)).await, Ok((key.clone(), later)));
    }
    let kv = client.kv(&*key).await;
    assert_eq!((kv.create_revision(), kv.mod_revision()), (created, created));
    // One unlock releases it, and the next lock creates the key anew.
    client.unlock(&*key).await.unwrap();
    assert_eq!(client.keys("jobs/").await, [""; 0]);
    assert_eq!(client.lock("jobs", lease).await, Ok((key, later + 2)));
    // One lease can hold several locks.
    let (another, _) = client.lock("other jobs", lease).await.unwrap();
    assert_eq!(another, format!("other jobs/{lease:x}"));
}

pub(crate) async fn lock_after_campaign_keeps_the_value(target: Target) {
    let client = target.client().await;
    let lease = client.grant(60).await;
    let (leader, _) = client.campaign("jobs", "me", lease).await.unwrap();
    let (key, _) = within_20_s(client.lock("jobs", lease)).await.unwrap();
    assert_eq!(key.as_bytes(), leader.key);
    assert_eq!(value(&client.kv(key).await), "me");
}

pub(crate) async fn unlock_deletes_any_existing_key(target: Target) {
    let client = target.client().await;
    let revision = client.put("anything").await;
    assert_eq!(client.unlock("nothing").await, Ok(revision));
    assert_eq!(client.unlock("anything").await, Ok(revision + 1));
    assert!(client.get("anything").await.is_none());
    let rejected = client.unlock("").await.unwrap_err();
    assert_eq!(rejected, unknown_status("etcdserver: key is not provided"));
    // The key of an unlock is not a prefix.
    client.put("jobs/1").await;
    client.unlock("jobs/").await.unwrap();
    assert_eq!(client.keys("jobs/").await, ["jobs/1"]);
}
