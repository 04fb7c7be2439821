//! A server that comes back with another history: `coord serve` that was started again.

use coord_core::election::GapCause;
use coord_core::{
    Client, Election, Mutex,
    error::{ErrorKind, LossReason},
    kv::Watch,
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::serve::Served;
use coord_mem::MemBackend;
use coord_server::Server;
use tokio::time::timeout;

use crate::support::{client, secs, session};

/// Stops a server, and starts one with an empty store at its address.
async fn start_again(mut old: Served) -> Served {
    let endpoint = old.endpoint().to_owned();
    old.stop();
    old.stopped().await;
    Served::start_at(Server::builder(MemBackend::new()), &endpoint).await
}

#[tokio::test]
async fn watches_end_when_history_was_replaced() {
    let server = Served::start(Server::builder(MemBackend::new())).await;
    let kv = Client::new(EtcdBackend::connect([server.endpoint()]).await.unwrap());
    for n in 0..20 {
        kv.put("a", n.to_string()).await.unwrap();
    }
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    let server = start_again(server).await;
    // Whatever the connection does meanwhile, this is answered in the end.
    while kv.get("a").await.is_err() {}
    let ended = timeout(secs(10), watch.next()).await.expect("at the first response");
    assert_eq!(ended.unwrap().unwrap_err().kind(), ErrorKind::HistoryReplaced);

    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    kv.put("a", "new").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.value, "new");
    drop(server);
}

/// Two holders had the same key, lease and fencing token, and both their guarded writes passed.
#[tokio::test]
async fn holder_and_observer_notice_a_server_that_came_back_empty() {
    let server = Served::start(Server::builder(MemBackend::new())).await;
    let kv = client(&[server.endpoint().to_owned()]).await;
    let old = session(&kv, 5).await;
    let held = Mutex::new(&old, "m").lock().await.unwrap();
    let leadership = Election::new(&old, "e").campaign("old").await.unwrap();
    let mut leaders = Election::observer(&kv, "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "old");
    // The watch is registered by the next poll: the value that comes with it shows that it is.
    leadership.proclaim("still old").await.unwrap();
    assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "still old");

    let server = start_again(server).await;
    let other = client(&[server.endpoint().to_owned()]).await;
    let new = session(&other, 5).await;
    let guard = Mutex::new(&new, "m").lock().await.unwrap();
    assert_ne!((held.key(), old.lease_id()), (guard.key(), new.lease_id()));
    let reason = timeout(secs(10), held.lost()).await.expect("at its next keep-alive");
    assert!(matches!(reason, LossReason::Revoked | LossReason::KeyDeleted), "{reason}");
    // Any response on the old client ends its watches.
    while kv.get("m").await.is_err() {}
    let next = timeout(secs(10), leaders.next()).await.expect("at once").unwrap().unwrap();
    assert_eq!(next, None);
    assert_eq!(leaders.gap().expect("it says so").cause, GapCause::HistoryReplaced);
    drop((leadership, guard, server));
}
