//! Fault tests of a cluster: members are killed, paused and restarted while [`Traffic`] runs or a
//! session is open.

use coord_core::{Mutex, error::LossReason, kv::Put, session::SessionState};
use coord_etcd_tests::{Cluster, ClusterBuilder, Release};
use futures_util::future::try_join_all;
use tokio::time::timeout;

use crate::support::{client, secs, session, single_member, wait_until, within};
use crate::traffic::Traffic;

async fn three_members() -> Cluster {
    ClusterBuilder::new(Release::newest()).members(3).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leader_costs_no_event_lock_or_session() {
    for release in Release::all().unwrap() {
        let mut cluster = ClusterBuilder::new(release).members(3).start().await;
        let traffic = Traffic::start(&cluster.endpoints()).await;
        traffic.wait_for_progress().await;
        let leader = cluster.leader().await;
        cluster[leader].kill();
        traffic.wait_for_progress().await;
        cluster[leader].start();
        cluster[leader].wait_until_ready().await;
        traffic.wait_for_progress().await;
        assert_eq!(traffic.live_sessions(), 3, "sessions survive an election");
        traffic.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_leader_costs_no_event_lock_or_session() {
    let cluster = three_members().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    traffic.wait_for_progress().await;
    let leader = cluster.leader().await;
    cluster[leader].pause();
    traffic.wait_for_progress().await;
    cluster[leader].resume();
    traffic.wait_for_progress().await;
    assert_eq!(traffic.live_sessions(), 3, "two members are enough");
    traffic.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_follower_costs_no_event_lock_or_session() {
    let cluster = three_members().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    traffic.wait_for_progress().await;
    let follower = (cluster.leader().await + 1) % 3;
    cluster[follower].pause();
    traffic.wait_for_progress().await;
    cluster[follower].resume();
    traffic.wait_for_progress().await;
    assert_eq!(traffic.live_sessions(), 3, "two members are enough");
    traffic.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_all_members_costs_no_event_lock_or_session() {
    let mut cluster = three_members().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    for _ in 0..2 {
        traffic.wait_for_progress().await;
        cluster.members_mut().for_each(|member| member.kill());
        cluster.members_mut().for_each(|member| member.start());
        cluster.wait_until_ready().await;
    }
    traffic.wait_for_progress().await;
    assert_eq!(traffic.live_sessions(), 3, "they were down for less than the TTL");
    traffic.finish().await;
}

/// The members restart one after the other, as for an upgrade, so there is always a quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_costs_no_event_lock_or_session() {
    let mut cluster = three_members().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    for n in 0..3 {
        traffic.wait_for_progress().await;
        cluster[n].kill();
        cluster[n].start();
        cluster[n].wait_until_ready().await;
    }
    traffic.wait_for_progress().await;
    assert_eq!(traffic.live_sessions(), 3, "there was always a quorum");
    traffic.finish().await;
}

/// A paused server keeps its connections open and sends nothing, so only the deadline can end the
/// session.
#[tokio::test]
async fn session_on_a_paused_server_is_lost_before_its_lease() {
    let server = single_member().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 4).await;
    kv.put_with(Put::new("alive", "").lease(session.lease_id())).await.unwrap();
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    server[0].pause();
    // The limit is the TTL: the deadline is a tenth of the TTL earlier.
    let reason = within(secs(4), session.lost()).await;
    assert_eq!(reason, LossReason::DeadlineUnconfirmed);
    let lost = within(secs(1), guard.lost()).await;
    assert_eq!(lost, LossReason::DeadlineUnconfirmed);

    server[0].resume();
    wait_until("the lease has expired", async || matches!(kv.get("alive").await, Ok(None))).await;
    assert_eq!(session.state(), SessionState::Lost(LossReason::DeadlineUnconfirmed));
    let next = crate::support::session(&kv, 4).await;
    let next = within(secs(20), Mutex::new(&next, "m").lock()).await;
    assert!(next.unwrap().fencing_token() > guard.fencing_token());
}

/// Each pause of the server is shorter than the TTL.
#[tokio::test]
async fn session_survives_short_pauses_of_its_server() {
    let server = single_member().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    for _ in 0..3 {
        server[0].pause();
        tokio::time::sleep(secs(2)).await;
        server[0].resume();
        kv.put("a", "1").await.unwrap();
    }
    assert_ne!(session.state(), SessionState::Lost(LossReason::DeadlineUnconfirmed));
    wait_until("the session is alive again", async || session.state() == SessionState::Alive).await;
}

/// A session drops the future of each keep-alive long before the request timeout. The next
/// keep-alive must be sent to another member, also if the pool has idle streams to the first
/// member.
#[tokio::test]
async fn short_session_survives_the_pause_of_its_member() {
    let cluster = three_members().await;
    let leader = cluster.leader().await;
    for (paused, streams) in [((leader + 1) % 3, 0), (leader, 0), (leader, 2)] {
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left(paused);
        let kv = client(&endpoints).await;
        let session = session(&kv, 6).await;
        let keep_alive = || kv.lease_keep_alive(session.lease_id());
        try_join_all((0..streams).map(|_| keep_alive())).await.unwrap();
        cluster[paused].pause();
        let lost = timeout(secs(15), session.lost()).await;
        cluster[paused].resume();
        assert!(lost.is_err(), "two members are healthy, but the session is lost: {lost:?}");
    }
}
