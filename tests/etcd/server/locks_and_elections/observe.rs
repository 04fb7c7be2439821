//! The Observe call: the messages that an observer receives.

use std::process::Stdio;

use coord_core::{Election, Session};
use etcd_client::ObserveStream;
use tokio::process::Command;

use crate::target::{PendingCall, Target, next_leader, value};

/// Asserts the next message: value, lease and version of the leader's key, and the revision of the
/// message.
async fn assert_next(stream: &mut ObserveStream, expected: (&str, i64, i64), revision: i64) {
    let (kv, message_revision) = next_leader(stream).await;
    assert_eq!((value(&kv), kv.lease(), kv.version()), expected);
    assert_eq!(message_revision, revision, "{}", value(&kv));
}

pub(crate) async fn observer_receives_every_leader_and_value(target: Target) {
    let client = target.client().await;
    let (one, two) = (client.grant(60).await, client.grant(60).await);
    let (leader, entered) = client.campaign("jobs", "one", one).await.unwrap();
    let mut stream = client.observe("jobs").await;
    assert_next(&mut stream, ("one", one, 1), entered).await;
    for (n, proposal) in ["one, ready", "one, ready", "one, done"].into_iter().enumerate() {
        let proclaimed = client.proclaim(Some(&leader), proposal).await.unwrap();
        assert_next(&mut stream, (proposal, one, 2 + n as i64), proclaimed).await;
    }
    let second = client.start_campaign("jobs", "two", two, 2).await;
    let resigned = client.resign(Some(&leader)).await.unwrap();
    let (second, _) = second.response().await.unwrap();
    assert_next(&mut stream, ("two", two, 1), resigned).await;
    // While there is no leader, no message is sent.
    client.resign(Some(&second)).await.unwrap();
    let (anew, entered) = client.campaign("jobs", "anew", one).await.unwrap();
    assert_next(&mut stream, ("anew", one, 1), entered).await;
    client.revoke(one).await;
    let (_, entered) = client.campaign("jobs", "two again", two).await.unwrap();
    assert_next(&mut stream, ("two again", two, 1), entered).await;
    assert_eq!(anew.lease, one);
}

pub(crate) async fn observer_waits_for_the_first_leader(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    // The stream does not open before there is a leader.
    let mut opening = PendingCall::spawn(async move { other.observe("jobs").await });
    opening.assert_pending().await;
    // The leader of another election is not sent.
    let lease = client.grant(60).await;
    client.campaign("jobs2", "another", lease).await.unwrap();
    opening.assert_pending().await;
    let (leader, entered) = client.campaign("jobs", "me", lease).await.unwrap();
    let mut stream = opening.response().await;
    let (kv, revision) = next_leader(&mut stream).await;
    assert_eq!((kv.key(), value(&kv), kv.lease()), (&leader.key[..], "me", lease));
    assert_eq!((kv.create_revision(), revision), (entered, entered));
    let proclaimed = client.proclaim(Some(&leader), "still me").await.unwrap();
    assert_next(&mut stream, ("still me", lease, 2), proclaimed).await;
}

pub(crate) async fn late_observer_receives_the_current_leader(target: Target) {
    let client = target.client().await;
    let lease = client.grant(60).await;
    let (leader, entered) = client.campaign("jobs", "me", lease).await.unwrap();
    let proclaimed = client.proclaim(Some(&leader), "still me").await.unwrap();
    let now = client.put("elsewhere").await;
    client.compact(now).await;
    let mut stream = client.observe("jobs").await;
    let (kv, revision) = next_leader(&mut stream).await;
    assert_eq!((kv.key(), value(&kv), kv.lease()), (&leader.key[..], "still me", lease));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (entered, proclaimed));
    assert_eq!((kv.version(), revision), (2, now));
    // Another observer is not affected when an observer ends.
    let mut other = client.observe("jobs").await;
    assert_next(&mut other, ("still me", lease, 2), now).await;
    drop(stream);
    let proclaimed = client.proclaim(Some(&leader), "me again").await.unwrap();
    assert_next(&mut other, ("me again", lease, 3), proclaimed).await;
}

pub(crate) async fn observer_receives_etcdctl_and_election_leaders(target: Target) {
    let client = target.client().await;
    let session = Session::builder(&target.coord_client().await).open().await.unwrap();
    let ours = Election::new(&session, "jobs").campaign("ours").await.unwrap();
    let mut stream = client.observe("jobs").await;
    assert_eq!(value(&next_leader(&mut stream).await.0), "ours");
    let mut command = Command::from(target.release().etcdctl());
    command.args(["--endpoints", target.endpoint(), "elect", "jobs", "etcdctl's"]);
    let mut process = command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    client.wait_for_key_count(2, "jobs/").await;
    let lease = client.grant(60).await;
    let service = client.start_campaign("jobs", "service's", lease, 3).await;
    ours.proclaim("still ours").await.unwrap();
    assert_eq!(value(&next_leader(&mut stream).await.0), "still ours");
    ours.resign().await.unwrap();
    let (kv, _) = next_leader(&mut stream).await;
    assert_eq!(value(&kv), "etcdctl's");
    process.kill().await.unwrap();
    // The lease of the killed process would expire after a minute.
    client.revoke(kv.lease()).await;
    assert_eq!(value(&next_leader(&mut stream).await.0), "service's");
    service.response().await.unwrap();
}
