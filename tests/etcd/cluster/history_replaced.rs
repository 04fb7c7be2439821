//! Tests of a server that restarts with an empty store, as `coord serve` does: its history is
//! replaced.

use coord_core::election::GapCause;
use coord_core::{
    Election, Mutex,
    error::{ErrorKind, LossReason},
    kv::Watch,
};
use coord_etcd_tests::test_server::TestServer;
use coord_mem::MemBackend;
use coord_server::Server;

use crate::support::{client, secs, session, within};

/// Stops a server, and starts one with an empty store at its address.
async fn restart_empty(mut old: TestServer) -> TestServer {
    let endpoint = old.endpoint().to_owned();
    old.stop();
    old.wait_until_stopped().await;
    TestServer::start_at(Server::builder(MemBackend::new()), &endpoint).await
}

#[tokio::test]
async fn watch_ends_when_the_history_is_replaced() {
    let server = TestServer::start(Server::builder(MemBackend::new())).await;
    let kv = client(&[server.endpoint().to_owned()]).await;
    for n in 0..20 {
        kv.put("a", n.to_string()).await.unwrap();
    }
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    let server = restart_empty(server).await;
    // The first calls may fail on the old connection.
    while kv.get("a").await.is_err() {}
    let end = within(secs(10), watch.next()).await;
    assert_eq!(end.unwrap().unwrap_err().kind(), ErrorKind::HistoryReplaced);

    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    kv.put("a", "new").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.value, "new");
    drop(server);
}

/// Regression: two clients held the lock with the same key, lease and fencing token, and the
/// guarded writes of both were applied.
#[tokio::test]
async fn holder_and_observer_detect_a_server_that_restarts_empty() {
    let server = TestServer::start(Server::builder(MemBackend::new())).await;
    let kv = client(&[server.endpoint().to_owned()]).await;
    let old = session(&kv, 5).await;
    let held = Mutex::new(&old, "m").lock().await.unwrap();
    let leadership = Election::new(&old, "e").campaign("old").await.unwrap();
    let mut leaders = Election::observer(&kv, "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "old");
    // The next poll registers the watch. Once it returns this value, the watch is registered.
    leadership.proclaim("still old").await.unwrap();
    assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "still old");

    let server = restart_empty(server).await;
    let other = client(&[server.endpoint().to_owned()]).await;
    let new = session(&other, 5).await;
    let guard = Mutex::new(&new, "m").lock().await.unwrap();
    assert_ne!((held.key(), old.lease_id()), (guard.key(), new.lease_id()));
    let reason = within(secs(10), held.lost()).await;
    assert!(matches!(reason, LossReason::Revoked | LossReason::KeyDeleted), "{reason}");
    // The first response to the old client ends its watches.
    while kv.get("m").await.is_err() {}
    let next = within(secs(10), leaders.next()).await.unwrap().unwrap();
    assert_eq!(next, None);
    assert_eq!(leaders.gap().unwrap().cause, GapCause::HistoryReplaced);
    drop((leadership, guard, server));
}
