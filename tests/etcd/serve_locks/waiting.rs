//! Waiting for a lock: the order of acquisition, and what ends a wait.

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
    PendingCall, REACHABLE, REJECTED, Rejection, SUCCEEDS, ServiceClient, Target, next_leader,
    unknown, within_20_s,
};

/// Starts to lock "jobs" on `lease`, and returns once the call is at `position` in the queue.
async fn enqueue_waiter(
    client: &ServiceClient,
    lease: i64,
    position: usize,
) -> PendingCall<Result<(String, i64), Rejection>> {
    let caller = client.clone();
    let call = PendingCall::spawn(async move { caller.lock("jobs", lease).await });
    client.wait_for_key_count(position, "jobs/").await;
    call
}

pub(crate) async fn waiters_acquire_in_enqueue_order(target: Target) {
    let client = target.client().await;
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(client.grant(60).await);
    }
    // So that enqueue order differs from key order.
    leases.sort_by_key(|lease| lease.reverse_bits());
    let (mut holder, _) = client.lock("jobs", leases[0]).await.expect(SUCCEEDS);
    let mut queue = Vec::new();
    for (n, lease) in leases.iter().enumerate().skip(1) {
        queue.push((*lease, enqueue_waiter(&client, *lease, n + 1).await));
    }
    for (lease, mut next) in queue {
        next.expect_pending().await;
        let unlocked = client.unlock(holder).await.expect(SUCCEEDS);
        holder = format!("jobs/{lease:x}");
        assert_eq!(next.response().await, Ok((holder.clone(), unlocked)));
    }
    client.unlock(holder).await.expect(SUCCEEDS);
    assert_eq!(client.keys("jobs").await, [""; 0]);
}

/// etcd reports the end of the session when the waiter becomes first, our server at once. etcd 3.4
/// reports success.
async fn expect_session_expired(
    target: &Target,
    client: &ServiceClient,
    holder: String,
    mut waiter: PendingCall<Result<(String, i64), Rejection>>,
) {
    let result = if target.is_etcd() {
        waiter.expect_pending().await;
        client.unlock(holder).await.expect(SUCCEEDS);
        waiter.response().await
    } else {
        let result = waiter.response().await;
        client.unlock(holder).await.expect(SUCCEEDS);
        result
    };
    if target.acquires_without_lease() {
        result.expect("a key that no longer exists");
    } else {
        assert_eq!(result.expect_err(REJECTED), unknown("mutex: session is expired"));
    }
}

pub(crate) async fn waiter_fails_when_its_lease_ends(target: Target) {
    let client = target.client().await;
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    let (holder, _) = client.lock("jobs", first).await.expect(SUCCEEDS);
    let waiter = enqueue_waiter(&client, second, 2).await;
    client.revoke(second).await;
    expect_session_expired(&target, &client, holder, waiter).await;
}

pub(crate) async fn waiter_fails_when_its_key_is_deleted(target: Target) {
    let client = target.client().await;
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    let (holder, _) = client.lock("jobs", first).await.expect(SUCCEEDS);
    let waiter = enqueue_waiter(&client, second, 2).await;
    client.delete(format!("jobs/{second:x}")).await;
    expect_session_expired(&target, &client, holder, waiter).await;
    assert_eq!(client.lease_ttl(second).await.0, 60);
}

pub(crate) async fn cancelled_waiter_leaves_no_key_and_keeps_its_lease(target: Target) {
    let client = target.client().await;
    let leases = [client.grant(60).await, client.grant(60).await, client.grant(60).await];
    let (holder, _) = client.lock("jobs", leases[0]).await.expect(SUCCEEDS);
    let second = enqueue_waiter(&client, leases[1], 2).await;
    let mut third = enqueue_waiter(&client, leases[2], 3).await;
    drop(second);
    client.wait_for_key_count(2, "jobs/").await;
    assert_eq!(client.keys("jobs/").await, [&*holder, &format!("jobs/{:x}", leases[2])]);
    assert_eq!(client.lease_ttl(leases[1]).await.0, 60);
    third.expect_pending().await;
    client.unlock(holder).await.expect(SUCCEEDS);
    let (holder, _) = third.response().await.expect(SUCCEEDS);
    // A call with a timeout of its own, at the end of the queue.
    let timed_out = timeout(Duration::from_millis(200), client.lock("jobs", leases[1]));
    assert!(timed_out.await.is_err(), "{holder} is held");
    client.wait_for_key_count(1, "jobs/").await;
    client.unlock(holder).await.expect(SUCCEEDS);
    // Its lease can lock again.
    client.lock("jobs", leases[1]).await.expect(SUCCEEDS);
}

pub(crate) async fn waiter_with_lost_connection_leaves_no_key(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    let leases = [client.grant(60).await, other.grant(60).await, other.grant(60).await];
    let (holder, _) = client.lock("jobs", leases[0]).await.expect(SUCCEEDS);
    let second = enqueue_waiter(&other, leases[1], 2).await;
    let third = enqueue_waiter(&other, leases[2], 3).await;
    drop((second, third, other));
    client.wait_for_key_count(1, "jobs/").await;
    assert_eq!(client.keys("jobs/").await, [holder]);
    for lease in leases {
        assert_eq!(client.lease_ttl(lease).await.0, 60);
    }
}

/// Both calls acquire. If one of them is cancelled, etcd deletes the key of the other too.
pub(crate) async fn calls_on_one_lease_share_one_key(target: Target) {
    let (client, other) = (target.client().await, target.client().await);
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    let (holder, _) = client.lock("jobs", first).await.expect(SUCCEEDS);
    let mut waiter = enqueue_waiter(&client, second, 2).await;
    let mut again = enqueue_waiter(&other, second, 2).await;
    tokio::join!(waiter.expect_pending(), again.expect_pending());
    assert_eq!(client.keys("jobs/").await.len(), 2);
    client.unlock(holder).await.expect(SUCCEEDS);
    let (got, got_again) = tokio::join!(waiter.response(), again.response());
    let (holder, _) = got.expect(SUCCEEDS);
    assert_eq!(got_again.expect(SUCCEEDS).0, holder);

    let waiter = enqueue_waiter(&client, first, 2).await;
    let mut again = enqueue_waiter(&other, first, 2).await;
    again.expect_pending().await;
    drop(waiter);
    if target.is_etcd() {
        client.wait_for_key_count(1, "jobs/").await;
        expect_session_expired(&target, &client, holder, again).await;
    } else {
        again.expect_pending().await;
        client.unlock(holder).await.expect(SUCCEEDS);
        let (holder, _) = again.response().await.expect(SUCCEEDS);
        assert_eq!(client.keys("jobs/").await, [holder]);
    }
}

/// In etcd, a lock waits for the holders of its child names.
pub(crate) async fn child_name_has_a_queue_of_its_own(target: Target) {
    let client = target.client().await;
    let (night, day) = (client.grant(60).await, client.grant(60).await);
    let (child, _) = client.lock("jobs/night", night).await.expect(SUCCEEDS);
    let caller = client.clone();
    let mut parent = PendingCall::spawn(async move { caller.lock("jobs", day).await });
    if target.is_etcd() {
        parent.expect_pending().await;
        assert_eq!(client.leader("jobs").await.expect(SUCCEEDS).0.key(), child.as_bytes());
        client.unlock(child).await.expect(SUCCEEDS);
    }
    let (parent, _) = parent.response().await.expect(SUCCEEDS);
    assert_eq!(client.leader("jobs").await.expect(SUCCEEDS).0.key(), parent.as_bytes());
    // A child name does not wait for the holder of its parent.
    client.lock("jobs/day", night).await.expect(SUCCEEDS);
}

/// Starts `etcdctl lock`, which holds the lock until it is killed.
fn etcdctl_lock(target: &Target) -> (Child, PendingCall<Option<String>>) {
    let mut command = Command::from(target.release().etcdctl());
    command.args(["--endpoints", target.endpoint(), "lock", "jobs"]).kill_on_drop(true);
    let mut process =
        command.stdout(Stdio::piped()).spawn().expect("etcdctl is installed beside etcd");
    let mut lines = BufReader::new(process.stdout.take().expect("stdout is piped")).lines();
    (process, PendingCall::spawn(async move { lines.next_line().await.expect("readable output") }))
}

pub(crate) async fn service_etcdctl_and_mutex_share_one_queue(target: Target) {
    let (client, coord_client) = (target.client().await, target.coord_client().await);
    let leases = [client.grant(60).await, client.grant(60).await];
    let session = Session::builder(&coord_client).open().await.expect(REACHABLE);
    let mutex = Mutex::new(&session, "jobs");

    let (first, _) = client.lock("jobs", leases[0]).await.expect(SUCCEEDS);
    let mut ours = PendingCall::spawn(async move { mutex.lock().await });
    client.wait_for_key_count(2, "jobs/").await;
    let mut second = enqueue_waiter(&client, leases[1], 3).await;
    let (process, mut etcdctl) = etcdctl_lock(&target);
    client.wait_for_key_count(4, "jobs/").await;

    tokio::join!(ours.expect_pending(), second.expect_pending(), etcdctl.expect_pending());
    client.unlock(first).await.expect(SUCCEEDS);
    let guard = ours.response().await.expect(REACHABLE);
    let mut last = enqueue_waiter(&client, leases[0], 4).await;
    tokio::join!(second.expect_pending(), etcdctl.expect_pending());
    guard.unlock().await.expect(REACHABLE);
    let (second, _) = second.response().await.expect(SUCCEEDS);
    tokio::join!(etcdctl.expect_pending(), last.expect_pending());
    client.unlock(second).await.expect(SUCCEEDS);
    let key = etcdctl.response().await.expect("the key that etcdctl prints");
    assert_eq!(client.keys("jobs/").await, [&*key, &format!("jobs/{:x}", leases[0])]);
    last.expect_pending().await;
    // `etcdctl` unlocks when it is interrupted.
    let id = process.id().expect("etcdctl is running").cast_signed();
    let id = Pid::from_raw(id).expect("a process id is not 0");
    kill_process(id, Signal::INT).expect("etcdctl is running");
    last.response().await.expect(SUCCEEDS);
}

/// Not on etcd, which closes the connection.
pub(crate) async fn waiting_calls_fail_when_the_server_stops(target: Target) {
    let client = target.client().await;
    let (first, second) = (client.grant(60).await, client.grant(60).await);
    client.lock("jobs", first).await.expect(SUCCEEDS);
    let mut stream = client.observe("jobs").await;
    next_leader(&mut stream).await;
    let lock = enqueue_waiter(&client, second, 2).await;
    let caller = client.clone();
    let mut campaign = PendingCall::spawn(async move { caller.campaign("jobs", "", second).await });
    campaign.expect_pending().await;
    within_20_s(target.stop()).await;
    let stopped = (Code::Unavailable, "etcdserver: server stopped".to_owned());
    assert_eq!(lock.response().await, Err(stopped.clone()));
    assert_eq!(campaign.response().await, Err(stopped.clone()));
    let Err(Error::GRpcStatus(status)) = within_20_s(stream.message()).await else {
        panic!("the stream is still open")
    };
    assert_eq!((status.code(), status.message().to_owned()), stopped);
}
