//! Three members, one of which, or all, meet with something, while [`Traffic`] goes on.

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
async fn killed_leader_costs_no_event_no_lock_and_no_session() {
    for release in Release::all().unwrap() {
        let mut cluster = Setup::new(release).members(3).start().await;
        let traffic = Traffic::start(&cluster.endpoints()).await;
        traffic.goes_on().await;
        let leader = cluster.leader().await;
        cluster[leader].kill();
        traffic.goes_on().await;
        cluster[leader].start();
        cluster[leader].ready().await;
        traffic.goes_on().await;
        assert_eq!(traffic.alive(), 3, "an election is no reason to lose a session");
        traffic.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_leader_costs_no_event_no_lock_and_no_session() {
    let cluster = three().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    traffic.goes_on().await;
    let leader = cluster.leader().await;
    cluster[leader].pause();
    traffic.goes_on().await;
    cluster[leader].resume();
    traffic.goes_on().await;
    assert_eq!(traffic.alive(), 3, "two members are enough");
    traffic.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_follower_costs_no_event_no_lock_and_no_session() {
    let cluster = three().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    traffic.goes_on().await;
    let follower = (cluster.leader().await + 1) % 3;
    cluster[follower].pause();
    traffic.goes_on().await;
    cluster[follower].resume();
    traffic.goes_on().await;
    assert_eq!(traffic.alive(), 3, "two members are enough");
    traffic.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_all_members_costs_no_event_and_no_lock_and_is_survived_by_sessions() {
    let mut cluster = three().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    for _ in 0..2 {
        traffic.goes_on().await;
        cluster.members_mut().for_each(|member| member.kill());
        cluster.members_mut().for_each(|member| member.start());
        cluster.ready().await;
    }
    traffic.goes_on().await;
    assert_eq!(traffic.alive(), 3, "they were down for less than a session lives");
    traffic.finish().await;
}

/// The members are restarted one by one, as for an upgrade: there are always two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_costs_no_event_no_lock_and_no_session() {
    let mut cluster = three().await;
    let traffic = Traffic::start(&cluster.endpoints()).await;
    for n in 0..3 {
        traffic.goes_on().await;
        cluster[n].kill();
        cluster[n].start();
        cluster[n].ready().await;
    }
    traffic.goes_on().await;
    assert_eq!(traffic.alive(), 3, "there were always two");
    traffic.finish().await;
}

/// A server that is frozen keeps its connections open and says nothing: only the clock tells.
#[tokio::test]
async fn session_on_a_frozen_server_is_lost_before_its_lease_can_end() {
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
    let next = timeout(secs(20), Mutex::new(&next, "m").lock()).await.expect("nobody holds it");
    assert!(next.unwrap().fencing_token() > guard.fencing_token());
}

/// A server that was frozen for less than the lease lives is nothing to worry about.
#[tokio::test]
async fn session_on_a_server_that_was_frozen_for_a_moment_lives_on() {
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
    until("the session is sure again", async || session.state() == SessionState::Alive).await;
}

/// The session gives up on each keep-alive long before the client gives up on the member, and drops
/// its future. That has to be hint enough to ask another member the next time, also if there are
/// streams to this one on which leases were kept alive before.
#[tokio::test]
async fn short_session_outlives_the_member_that_it_was_opened_at() {
    let cluster = three().await;
    let leader = cluster.leader().await;
    for (frozen, streams) in [((leader + 1) % 3, 0), (leader, 0), (leader, 2)] {
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left(frozen);
        let kv = client(&endpoints).await;
        let session = session(&kv, 6).await;
        let refresh = || kv.lease_keep_alive(session.lease_id());
        try_join_all((0..streams).map(|_| refresh())).await.expect("everybody is well");
        cluster[frozen].pause();
        let lost = timeout(secs(15), session.lost()).await;
        cluster[frozen].resume();
        assert!(lost.is_err(), "two members are well, and the session is lost: {lost:?}");
    }
}
