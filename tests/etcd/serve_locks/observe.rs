//! What an observer is shown, message by message.

use std::process::Stdio;

use coord_core::{Election, Session};
use etcd_client::ObserveStream;
use tokio::process::Command;

use crate::place::{Call, DONE, Place, THERE, shown, value};

/// What an observer has to be shown next: the value, the lease, the version, and the revision of
/// the message.
async fn shows(stream: &mut ObserveStream, expected: (&str, i64, i64), revision: i64) {
    let (kv, told) = shown(stream).await;
    assert_eq!((value(&kv), kv.lease(), kv.version()), expected);
    assert_eq!(told, revision, "{}", value(&kv));
}

pub(crate) async fn observer_is_shown_every_leader_and_every_value(place: Place) {
    let peer = place.peer().await;
    let (one, two) = (peer.grant(60).await, peer.grant(60).await);
    let (leader, entered) = peer.campaign("jobs", "one", one).await.expect(DONE);
    let mut stream = peer.observe("jobs").await;
    shows(&mut stream, ("one", one, 1), entered).await;
    for (n, proposal) in ["one, ready", "one, ready", "one, done"].into_iter().enumerate() {
        let proclaimed = peer.proclaim(Some(&leader), proposal).await.expect(DONE);
        shows(&mut stream, (proposal, one, 2 + n as i64), proclaimed).await;
    }
    let second = Call::begin({
        let peer = peer.clone();
        async move { peer.campaign("jobs", "two", two).await }
    });
    peer.until_there_are(2, "jobs/").await;
    let resigned = peer.resign(Some(&leader)).await.expect(DONE);
    let (second, _) = second.answer().await.expect(DONE);
    shows(&mut stream, ("two", two, 1), resigned).await;
    // Of nobody nothing is said; then somebody leads anew.
    peer.resign(Some(&second)).await.expect(DONE);
    let (anew, entered) = peer.campaign("jobs", "anew", one).await.expect(DONE);
    shows(&mut stream, ("anew", one, 1), entered).await;
    peer.revoke(one).await;
    let (_, entered) = peer.campaign("jobs", "two again", two).await.expect(DONE);
    shows(&mut stream, ("two again", two, 1), entered).await;
    assert_eq!(anew.lease, one);
}

pub(crate) async fn observer_who_comes_first_waits_for_a_leader(place: Place) {
    let (peer, other) = (place.peer().await, place.peer().await);
    // The stream does not even open.
    let mut opening = Call::begin(async move { other.observe("jobs").await });
    opening.waits().await;
    // Somebody who leads something else is not shown.
    let lease = peer.grant(60).await;
    peer.campaign("jobs2", "another", lease).await.expect(DONE);
    opening.waits().await;
    let (leader, entered) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    let mut stream = opening.answer().await;
    let (kv, revision) = shown(&mut stream).await;
    assert_eq!((kv.key(), value(&kv), kv.lease()), (&leader.key[..], "me", lease));
    assert_eq!((kv.create_revision(), revision), (entered, entered));
    let proclaimed = peer.proclaim(Some(&leader), "still me").await.expect(DONE);
    shows(&mut stream, ("still me", lease, 2), proclaimed).await;
}

pub(crate) async fn observer_who_comes_late_is_shown_the_present(place: Place) {
    let peer = place.peer().await;
    let lease = peer.grant(60).await;
    let (leader, entered) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    let proclaimed = peer.proclaim(Some(&leader), "still me").await.expect(DONE);
    let now = peer.put("elsewhere").await;
    peer.compact(now).await;
    let mut stream = peer.observe("jobs").await;
    let (kv, revision) = shown(&mut stream).await;
    assert_eq!((kv.key(), value(&kv), kv.lease()), (&leader.key[..], "still me", lease));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (entered, proclaimed));
    assert_eq!((kv.version(), revision), (2, now));
    // Two observers do not disturb each other, nor does one that goes.
    let mut other = peer.observe("jobs").await;
    shows(&mut other, ("still me", lease, 2), now).await;
    drop(stream);
    let proclaimed = peer.proclaim(Some(&leader), "me again").await.expect(DONE);
    shows(&mut other, ("me again", lease, 3), proclaimed).await;
}

pub(crate) async fn etcdctl_elect_and_our_election_are_observed(place: Place) {
    let peer = place.peer().await;
    let session = Session::builder(place.backend().await).open().await.expect(THERE);
    let ours = Election::new(&session, "jobs").campaign("ours").await.expect(THERE);
    let mut stream = peer.observe("jobs").await;
    assert_eq!(value(&shown(&mut stream).await.0), "ours");
    let mut command = Command::from(place.release().etcdctl());
    command.args(["--endpoints", place.endpoint(), "elect", "jobs", "etcdctl's"]);
    let mut process = command.stdout(Stdio::null()).kill_on_drop(true).spawn().expect("etcdctl");
    peer.until_there_are(2, "jobs/").await;
    let lease = peer.grant(60).await;
    let theirs = peer.clone();
    let service = Call::begin(async move { theirs.campaign("jobs", "service's", lease).await });
    peer.until_there_are(3, "jobs/").await;
    ours.proclaim("still ours").await.expect(THERE);
    assert_eq!(value(&shown(&mut stream).await.0), "still ours");
    ours.resign().await.expect(THERE);
    let (kv, _) = shown(&mut stream).await;
    assert_eq!(value(&kv), "etcdctl's");
    process.kill().await.expect("it runs");
    // Nobody keeps its lease alive any more; that would take a minute.
    peer.revoke(kv.lease()).await;
    assert_eq!(value(&shown(&mut stream).await.0), "service's");
    service.answer().await.expect(DONE);
}
