//! Those who wait for a lock: in which order they get it, and what ends their wait.

use std::process::Stdio;
use std::time::Duration;

use coord_core::{Mutex, Session};
use etcd_client::Error;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::Code;

use crate::place::{Call, DONE, Peer, Place, REFUSED, Refusal, THERE, shown, soon, unknown};

/// Locks "jobs" on `lease` meanwhile; is the `place`th in the line when this returns.
async fn in_line(peer: &Peer, lease: i64, place: usize) -> Call<Result<(String, i64), Refusal>> {
    let theirs = peer.clone();
    let call = Call::begin(async move { theirs.lock("jobs", lease).await });
    peer.until_there_are(place, "jobs/").await;
    call
}

pub(crate) async fn those_who_wait_are_served_in_the_order_in_which_they_came(place: Place) {
    let peer = place.peer().await;
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(peer.grant(60).await);
    }
    // So that they come in another order than their keys.
    leases.sort_by_key(|lease| lease.reverse_bits());
    let (mut holder, _) = peer.lock("jobs", leases[0]).await.expect(DONE);
    let mut line = Vec::new();
    for (n, lease) in leases.iter().enumerate().skip(1) {
        line.push((*lease, in_line(&peer, *lease, n + 1).await));
    }
    for (lease, mut next) in line {
        next.waits().await;
        let unlocked = peer.unlock(holder).await.expect(DONE);
        holder = format!("jobs/{lease:x}");
        assert_eq!(next.answer().await, Ok((holder.clone(), unlocked)));
    }
    peer.unlock(holder).await.expect(DONE);
    assert_eq!(peer.keys("jobs").await, [""; 0]);
}

/// What etcd says when the waiter's turn comes, ours says at once; 3.4 does not notice.
async fn is_told_that_its_session_has_ended(
    place: &Place,
    peer: &Peer,
    holder: String,
    mut waiter: Call<Result<(String, i64), Refusal>>,
) {
    let answer = if place.is_etcd() {
        waiter.waits().await;
        peer.unlock(holder).await.expect(DONE);
        waiter.answer().await
    } else {
        let answer = waiter.answer().await;
        peer.unlock(holder).await.expect(DONE);
        answer
    };
    if place.is_old() {
        answer.expect("a key that is not there any more");
    } else {
        assert_eq!(answer.expect_err(REFUSED), unknown("mutex: session is expired"));
    }
}

pub(crate) async fn waiter_whose_lease_ends_is_told_that_its_session_has(place: Place) {
    let peer = place.peer().await;
    let (first, second) = (peer.grant(60).await, peer.grant(60).await);
    let (holder, _) = peer.lock("jobs", first).await.expect(DONE);
    let waiter = in_line(&peer, second, 2).await;
    peer.revoke(second).await;
    is_told_that_its_session_has_ended(&place, &peer, holder, waiter).await;
}

pub(crate) async fn waiter_whose_key_is_deleted_is_told_that_its_session_has_ended(place: Place) {
    let peer = place.peer().await;
    let (first, second) = (peer.grant(60).await, peer.grant(60).await);
    let (holder, _) = peer.lock("jobs", first).await.expect(DONE);
    let waiter = in_line(&peer, second, 2).await;
    peer.delete(format!("jobs/{second:x}")).await;
    is_told_that_its_session_has_ended(&place, &peer, holder, waiter).await;
    assert_eq!(peer.time_of(second).await.0, 60);
}

pub(crate) async fn waiter_that_gives_up_leaves_no_key_and_keeps_its_lease(place: Place) {
    let peer = place.peer().await;
    let leases = [peer.grant(60).await, peer.grant(60).await, peer.grant(60).await];
    let (holder, _) = peer.lock("jobs", leases[0]).await.expect(DONE);
    let second = in_line(&peer, leases[1], 2).await;
    let mut third = in_line(&peer, leases[2], 3).await;
    drop(second);
    peer.until_there_are(2, "jobs/").await;
    assert_eq!(peer.keys("jobs/").await, [&*holder, &format!("jobs/{:x}", leases[2])]);
    assert_eq!(peer.time_of(leases[1]).await.0, 60);
    third.waits().await;
    peer.unlock(holder).await.expect(DONE);
    let (holder, _) = third.answer().await.expect(DONE);
    // With a deadline of its own, and as the last in the line.
    let given_up = timeout(Duration::from_millis(200), peer.lock("jobs", leases[1]));
    assert!(given_up.await.is_err(), "{holder} is held");
    peer.until_there_are(1, "jobs/").await;
    peer.unlock(holder).await.expect(DONE);
    // It may come again.
    peer.lock("jobs", leases[1]).await.expect(DONE);
}

pub(crate) async fn waiter_whose_connection_is_lost_leaves_no_key(place: Place) {
    let (peer, other) = (place.peer().await, place.peer().await);
    let leases = [peer.grant(60).await, other.grant(60).await, other.grant(60).await];
    let (holder, _) = peer.lock("jobs", leases[0]).await.expect(DONE);
    let second = in_line(&other, leases[1], 2).await;
    let third = in_line(&other, leases[2], 3).await;
    drop((second, third, other));
    peer.until_there_are(1, "jobs/").await;
    assert_eq!(peer.keys("jobs/").await, [holder]);
    for lease in leases {
        assert_eq!(peer.time_of(lease).await.0, 60);
    }
}

/// Both have the lock. If one of them gives up, etcd takes the key away from the other too.
pub(crate) async fn two_calls_on_one_lease_wait_under_one_key(place: Place) {
    let (peer, other) = (place.peer().await, place.peer().await);
    let (first, second) = (peer.grant(60).await, peer.grant(60).await);
    let (holder, _) = peer.lock("jobs", first).await.expect(DONE);
    let mut waiter = in_line(&peer, second, 2).await;
    let mut again = in_line(&other, second, 2).await;
    tokio::join!(waiter.waits(), again.waits());
    assert_eq!(peer.keys("jobs/").await.len(), 2);
    peer.unlock(holder).await.expect(DONE);
    let (got, got_again) = tokio::join!(waiter.answer(), again.answer());
    let (holder, _) = got.expect(DONE);
    assert_eq!(got_again.expect(DONE).0, holder);

    let waiter = in_line(&peer, first, 2).await;
    let mut again = in_line(&other, first, 2).await;
    again.waits().await;
    drop(waiter);
    if place.is_etcd() {
        peer.until_there_are(1, "jobs/").await;
        is_told_that_its_session_has_ended(&place, &peer, holder, again).await;
    } else {
        again.waits().await;
        peer.unlock(holder).await.expect(DONE);
        let (holder, _) = again.answer().await.expect(DONE);
        assert_eq!(peer.keys("jobs/").await, [holder]);
    }
}

/// For etcd a lock waits for those below it.
pub(crate) async fn names_that_nest_are_two_lines_for_us(place: Place) {
    let peer = place.peer().await;
    let (night, day) = (peer.grant(60).await, peer.grant(60).await);
    let (below, _) = peer.lock("jobs/night", night).await.expect(DONE);
    let theirs = peer.clone();
    let mut above = Call::begin(async move { theirs.lock("jobs", day).await });
    if place.is_etcd() {
        above.waits().await;
        assert_eq!(peer.leader("jobs").await.expect(DONE).0.key(), below.as_bytes());
        peer.unlock(below).await.expect(DONE);
    }
    let (above, _) = above.answer().await.expect(DONE);
    assert_eq!(peer.leader("jobs").await.expect(DONE).0.key(), above.as_bytes());
    // Those above do not stand in the way of those below.
    peer.lock("jobs/day", night).await.expect(DONE);
}

/// `etcdctl lock`, which holds the lock until it is killed.
fn etcdctl_lock(place: &Place) -> (Child, Call<Option<String>>) {
    let mut command = Command::from(place.release().etcdctl());
    command.args(["--endpoints", place.endpoint(), "lock", "jobs"]).kill_on_drop(true);
    let mut process = command.stdout(Stdio::piped()).spawn().expect("etcdctl lies beside etcd");
    let mut lines = BufReader::new(process.stdout.take().expect("it was piped")).lines();
    (process, Call::begin(async move { lines.next_line().await.expect("it can be read") }))
}

pub(crate) async fn service_etcdctl_and_our_mutex_stand_in_one_line(place: Place) {
    let (peer, backend) = (place.peer().await, place.backend().await);
    let leases = [peer.grant(60).await, peer.grant(60).await];
    let session = Session::builder(backend).open().await.expect(THERE);
    let mutex = Mutex::new(&session, "jobs");

    let (first, _) = peer.lock("jobs", leases[0]).await.expect(DONE);
    let mut ours = Call::begin(async move { mutex.lock().await });
    peer.until_there_are(2, "jobs/").await;
    let mut second = in_line(&peer, leases[1], 3).await;
    let (process, mut etcdctl) = etcdctl_lock(&place);
    peer.until_there_are(4, "jobs/").await;

    tokio::join!(ours.waits(), second.waits(), etcdctl.waits());
    peer.unlock(first).await.expect(DONE);
    let guard = ours.answer().await.expect(THERE);
    let mut last = in_line(&peer, leases[0], 4).await;
    tokio::join!(second.waits(), etcdctl.waits());
    guard.unlock().await.expect(THERE);
    let (second, _) = second.answer().await.expect(DONE);
    tokio::join!(etcdctl.waits(), last.waits());
    peer.unlock(second).await.expect(DONE);
    let key = etcdctl.answer().await.expect("etcdctl says so");
    assert_eq!(peer.keys("jobs/").await, [&*key, &format!("jobs/{:x}", leases[0])]);
    last.waits().await;
    // Told to stop, it unlocks.
    let id = process.id().expect("it runs").cast_signed();
    let id = Pid::from_raw(id).expect("no process has the number 0");
    kill_process(id, Signal::INT).expect("it runs");
    last.answer().await.expect(DONE);
}

/// etcd breaks the connection.
pub(crate) async fn whoever_waits_is_told_that_the_server_is_stopped(place: Place) {
    let peer = place.peer().await;
    let (first, second) = (peer.grant(60).await, peer.grant(60).await);
    peer.lock("jobs", first).await.expect(DONE);
    let mut stream = peer.observe("jobs").await;
    shown(&mut stream).await;
    let lock = in_line(&peer, second, 2).await;
    let theirs = peer.clone();
    let mut campaign = Call::begin(async move { theirs.campaign("jobs", "", second).await });
    campaign.waits().await;
    soon(place.stop()).await;
    let stopped = (Code::Unavailable, "etcdserver: server stopped".to_owned());
    assert_eq!(lock.answer().await, Err(stopped.clone()));
    assert_eq!(campaign.answer().await, Err(stopped.clone()));
    let Err(Error::GRpcStatus(status)) = soon(stream.message()).await else { panic!("it goes on") };
    assert_eq!((status.code(), status.message().to_owned()), stopped);
}
