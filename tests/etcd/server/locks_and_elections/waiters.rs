//! Waiters of the Lock call: the order of acquisition, and what ends a wait.

use std::process::Stdio;
use std::time::Duration;

use coord_core::{Mutex, Session};
use etcd_client::Error;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::Code;

use crate::target::{
    LockResult, PendingCall, ServiceClient, Target, next_leader, unknown_status, within_20_s,
};

pub(crate) async fn waiters_acquire_in_enqueue_order(target: Target) {
    let client = target.client().await;
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(client.grant(60).await);
    }
    // Enqueue order must differ from key order.
    leases.sort_by_key(|lease| lease.reverse_bits());
    let (mut holder, _) = client.lock("jobs", leases[0]).await.unwrap();
    let mut queue = Vec::new();
    for (n, lease) in leases.iter().enumerate().skip(1) {
        queue.push((*lease, client.start_lock("jobs", *lease, n + 1).await));
    }
    for (lease, mut next) in queue {
        next.assert_pending().await;
        let unlocked = client.unlock(holder).await.unwrap();
        holder = format!("jobs/{lease:x}");
        assert_eq!(next.response().await, Ok((holder.clone(), unlocked)));
    }
    client.unlock(holder).await.unwrap();
    assert_eq!(client.keys("jobs").await, [""; 0]);
}

/// Asserts that the waiter fails because its session has expired. etcd reports it when the waiter
/// becomes first, coord's server within a quarter of a second. etcd 3.4 reports success.
async fn assert_session_expired(
    target: &Target,
    client: &ServiceClient,
    holder: String,
    mut waiter: PendingCall<LockResult>,
) {
    let result = if target.is_etcd() {
        waiter.assert_pending().await;
        client.unlock(holder).await.unwrap();
        waiter.response().await
    } else {
        let result = waiter.response().await;
        client.unlock(holder).await.unwrap();
        result
    };
    if target.acquires_without_lease() {
        result.unwrap();
    } else {
        assert_eq!(result.unwrap_err(), unknown_status("mutex: session is expired"));
    }
}

pub(crate) async fn waiter_fails_when_its_lease_ends(target: Target) {
    let client = target.client().await;
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    let (holder, _) = client.lock("jobs", first).await.unwrap();
    let waiter = client.start_lock("jobs", second, 2).await;
    client.revoke(second).await;
    assert_session_expired(&target, &client, holder, waiter).await;
}

pub(crate) async fn waiter_fails_when_its_key_is_deleted(target: Target) {
    let client = target.client().await;
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    let (holder, _) = client.lock("jobs", first).await.unwrap();
    let waiter = client.start_lock("jobs", second, 2).await;
    client.delete(format!("jobs/{second:x}")).await;
    assert_session_expired(&target, &client, holder, waiter).await;
    assert_eq!(client.lease_ttl(second).await.0, 60);
}

pub(crate) async fn cancelled_waiter_leaves_no_key_and_keeps_its_lease(target: Target) {
    let client = target.client().await;
    let leases = [client.grant(60).await, client.grant(60).await, client.grant(60).await];
    let (holder, _) = client.lock("jobs", leases[0]).await.unwrap();
    let second = client.start_lock("jobs", leases[1], 2).await;
    let mut third = client.start_lock("jobs", leases[2], 3).await;
    drop(second);
    client.wait_for_key_count(2, "jobs/").await;
    assert_eq!(client.keys("jobs/").await, [&*holder, &format!("jobs/{:x}", leases[2])]);
    assert_eq!(client.lease_ttl(leases[1]).await.0, 60);
    third.assert_pending().await;
    client.unlock(holder).await.unwrap();
    let (holder, _) = third.response().await.unwrap();
    // A call that times out, at the end of the queue.
    let timed_out = timeout(Duration::from_millis(200), client.lock("jobs", leases[1]));
    assert!(timed_out.await.is_err(), "acquired while {holder} is held");
    client.wait_for_key_count(1, "jobs/").await;
    client.unlock(holder).await.unwrap();
    // The lease can be used to lock again.
    client.lock("jobs", leases[1]).await.unwrap();
}

pub(crate) async fn waiter_with_lost_connection_leaves_no_key(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    let leases = [client.grant(60).await, other.grant(60).await, other.grant(60).await];
    let (holder, _) = client.lock("jobs", leases[0]).await.unwrap();
    let second = other.start_lock("jobs", leases[1], 2).await;
    let third = other.start_lock("jobs", leases[2], 3).await;
    drop((second, third, other));
    client.wait_for_key_count(1, "jobs/").await;
    assert_eq!(client.keys("jobs/").await, [holder]);
    for lease in leases {
        assert_eq!(client.lease_ttl(lease).await.0, 60);
    }
}

/// Both calls acquire. If one of them is cancelled, etcd deletes the shared key.
pub(crate) async fn calls_on_one_lease_share_one_key(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    let (holder, _) = client.lock("jobs", first).await.unwrap();
    let mut waiter = client.start_lock("jobs", second, 2).await;
    let mut again = other.start_lock("jobs", second, 2).await;
    tokio::join!(waiter.assert_pending(), again.assert_pending());
    assert_eq!(client.keys("jobs/").await.len(), 2);
    client.unlock(holder).await.unwrap();
    let (got, got_again) = tokio::join!(waiter.response(), again.response());
    let (holder, _) = got.unwrap();
    assert_eq!(got_again.unwrap().0, holder);

    let waiter = client.start_lock("jobs", first, 2).await;
    let mut again = other.start_lock("jobs", first, 2).await;
    again.assert_pending().await;
    drop(waiter);
    if target.is_etcd() {
        client.wait_for_key_count(1, "jobs/").await;
        assert_session_expired(&target, &client, holder, again).await;
    } else {
        again.assert_pending().await;
        client.unlock(holder).await.unwrap();
        let (holder, _) = again.response().await.unwrap();
        assert_eq!(client.keys("jobs/").await, [holder]);
    }
}

/// In etcd, a lock waits for the holders of its child names; on coord's server it does not.
pub(crate) async fn child_name_has_a_queue_of_its_own(target: Target) {
    let client = target.client().await;
    let (night, day) = (client.grant(60).await, client.grant(60).await);
    let (child, _) = client.lock("jobs/night", night).await.unwrap();
    let caller = client.clone();
    let mut parent = PendingCall::spawn(async move { caller.lock("jobs", day).await });
    if target.is_etcd() {
        parent.assert_pending().await;
        assert_eq!(client.leader("jobs").await.unwrap().0.key(), child.as_bytes());
        client.unlock(child).await.unwrap();
    }
    let (parent, _) = parent.response().await.unwrap();
    assert_eq!(client.leader("jobs").await.unwrap().0.key(), parent.as_bytes());
    // A child name does not wait for the holder of its parent.
    client.lock("jobs/day", night).await.unwrap();
}

/// Starts `etcdctl lock`. The call returns the key that it prints once it holds the lock.
fn etcdctl_lock(target: &Target) -> (Child, PendingCall<Option<String>>) {
    let mut command = Command::from(target.release().etcdctl());
    command.args(["--endpoints", target.endpoint(), "lock", "jobs"]).kill_on_drop(true);
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    (process, PendingCall::spawn(async move { lines.next_line().await.unwrap() }))
}

pub(crate) async fn service_etcdctl_and_mutex_share_one_queue(target: Target) {
    let (client, coord_client) = (target.client().await, target.coord_client().await);
    let leases = [client.grant(60).await, client.grant(60).await];
    let session = Session::builder(&coord_client).open().await.unwrap();
    let mutex = Mutex::new(&session, "jobs");

    let (first, _) = client.lock("jobs", leases[0]).await.unwrap();
    let mut ours = PendingCall::spawn(async move { mutex.lock().await });
    client.wait_for_key_count(2, "jobs/").await;
    let mut second = client.start_lock("jobs", leases[1], 3).await;
    let (process, mut etcdctl) = etcdctl_lock(&target);
    client.wait_for_key_count(4, "jobs/").await;

    tokio::join!(ours.assert_pending(), second.assert_pending(), etcdctl.assert_pending());
    client.unlock(first).await.unwrap();
    let guard = ours.response().await.unwrap();
    let mut last = client.start_lock("jobs", leases[0], 4).await;
    tokio::join!(second.assert_pending(), etcdctl.assert_pending());
    guard.unlock().await.unwrap();
    let (second, _) = second.response().await.unwrap();
    tokio::join!(etcdctl.assert_pending(), last.assert_pending());
    client.unlock(second).await.unwrap();
    let key = etcdctl.response().await.unwrap();
    assert_eq!(client.keys("jobs/").await, [&*key, &format!("jobs/{:x}", leases[0])]);
    last.assert_pending().await;
    // `etcdctl` unlocks on SIGINT.
    let id = process.id().unwrap().cast_signed();
    let id = Pid::from_raw(id).unwrap();
    kill_process(id, Signal::INT).unwrap();
    last.response().await.unwrap();
}

/// Runs on coord's server only, because etcd closes the connection.
pub(crate) async fn waiting_calls_fail_when_the_server_stops(target: Target) {
    let client = target.client().await;
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    client.lock("jobs", first).await.unwrap();
    let mut stream = client.observe("jobs").await;
    next_leader(&mut stream).await;
    let lock = client.start_lock("jobs", second, 2).await;
    let caller = client.clone();
    let mut campaign = PendingCall::spawn(async move { caller.campaign("jobs", "", second).await });
    campaign.assert_pending().await;
    within_20_s(target.stop()).await;
    let stopped = (Code::Unavailable, "etcdserver: server stopped".to_owned());
    assert_eq!(lock.response().await, Err(stopped.clone()));
    assert_eq!(campaign.response().await, Err(stopped.clone()));
    let Err(Error::GRpcStatus(status)) = within_20_s(stream.message()).await else {
        panic!("the stream is still open")
    };
    assert_eq!((status.code(), status.message().to_owned()), stopped);
}
