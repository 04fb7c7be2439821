//! Tests of faults in a cluster: members are killed, paused and restarted under [`Traffic`].

use coord_core::{Mutex, error::LossReason, kv::Put, session::SessionState};
use coord_etcd_tests::{Cluster, Release, Setup};
use futures_util::future::try_join_all;
use tokio::time::timeout;

use crate::support::{client, secs, session, single, until};
use crate::traffic::Traffic;

async fn three() -> Cluster {
    Setup::new(Release::newest()).members(3).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leader_costs_no_event_lock_or_session() {
    for release in Release::all().unwrap() {
        let mut cluster = Setup::new(release).members(3).start().await;
        let traffic = Traffic::start(&cluster.endpoints()).await;
        traffic.advances().await;
        let leader = cluster.leader().await;
        cluster[leader].kill();
        traffic.advances().await;
        cluster[leader].start();
        cluster[leader].ready().await;
        traffic.advances().await;
        assert_eq!(traffic.alive(), 3, "sessions survive an election");
        traffic.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_leader_costs_no_event_lock_or_session() {
    let cluster = three().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    traffic.advances().await;
    let leader = cluster.leader().await;
    cluster[leader].pause();
    traffic.advances().await;
    cluster[leader].resume();
    traffic.advances().await;
    assert_eq!(traffic.alive(), 3, "two members are enough");
    traffic.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_follower_costs_no_event_lock_or_session() {
    let cluster = three().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    traffic.advances().await;
    let follower = (cluster.leader().await + 1) % 3;
    cluster[follower].pause();
    traffic.advances().await;
    cluster[follower].resume();
    traffic.advances().await;
    assert_eq!(traffic.alive(), 3, "two members are enough");
    traffic.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_all_members_costs_no_event_lock_or_session() {
    let mut cluster = three().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    for _ in 0..2 {
        traffic.advances().await;
        cluster.members_mut().for_each(|member| member.kill());
        cluster.members_mut().for_each(|member| member.start());
        cluster.ready().await;
    }
    traffic.advances().await;
    assert_eq!(traffic.alive(), 3, "they were down for less than the TTL");
    traffic.finish().await;
}

/// The members are restarted one by one, as for an upgrade, so there is always a quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_costs_no_event_lock_or_session() {
    let mut cluster = three().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    for n in 0..3 {
        traffic.advances().await;
        cluster[n].kill();
        cluster[n].start();
        cluster[n].ready().await;
    }
    traffic.advances().await;
    assert_eq!(traffic.alive(), 3, "there was always a quorum");
    traffic.finish().await;
}

/// A frozen server keeps its connections open and sends nothing, so only the deadline ends the
/// session.
#[tokio::test]
async fn session_on_a_frozen_server_is_lost_before_its_lease() {
    let server = single().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 4).await;
    kv.put_with(Put::new("alive", "").lease(session.lease_id())).await.unwrap();
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    server[0].pause();
    let reason = timeout(secs(4), session.lost()).await.expect("before the lease can end");
    assert_eq!(reason, LossReason::DeadlineUnconfirmed);
    let lost = timeout(secs(1), guard.lost()).await.expect("with the session");
    assert_eq!(lost, LossReason::DeadlineUnconfirmed);

    server[0].resume();
    until("the lease has ended", async || matches!(kv.get("alive").await, Ok(None))).await;
    assert_eq!(session.state(), SessionState::Lost(LossReason::DeadlineUnconfirmed));
    let next = crate::support::session(&kv, 4).await;
    let next = timeout(secs(20), Mutex::new(&next, "m").lock()).await.expect("it is free");
    assert!(next.unwrap().fencing_token() > guard.fencing_token());
}

/// The server is frozen for less than the TTL.
#[tokio::test]
async fn session_survives_a_server_that_freezes_briefly() {
    let server = single().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    for _ in 0..3 {
        server[0].pause();
        tokio::time::sleep(secs(2)).await;
        server[0].resume();
        kv.put("a", "1").await.unwrap();
    }
    assert_ne!(session.state(), SessionState::Lost(LossReason::DeadlineUnconfirmed));
    until("the session is alive again", async || session.state() == SessionState::Alive).await;
}

/// A session drops the future of each keep-alive long before the request timeout. The next
/// keep-alive must go to another member, also if the pool has idle streams to the first one.
#[tokio::test]
async fn short_session_survives_the_freeze_of_its_member() {
    let cluster = three().await;
    let leader = cluster.leader().await;
    for (frozen, streams) in [((leader + 1) % 3, 0), (leader, 0), (leader, 2)] {
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left(frozen);
        let kv = client(&endpoints).await;
        let session = session(&kv, 6).await;
        let refresh = || kv.lease_keep_alive(session.lease_id());
        try_join_all((0..streams).map(|_| refresh())).await.expect("all members are healthy");
        cluster[frozen].pause();
        let lost = timeout(secs(15), session.lost()).await;
        cluster[frozen].resume();
        assert!(lost.is_err(), "two members are healthy, and the session is lost: {lost:?}");
    }
}
