//! What clients see of our server's limits and of its end, where etcd is no measure: it has no such
//! limits, and takes seconds to stop.

use std::time::Duration;

use coord_core::kv::{KeyRange, Put, Watch};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::serve::TestServer;
use coord_mem::MemBackend;
use coord_server::Server;
use coord_testkit::{Action, Call, Intercept};
use etcd_client::{Client, Error, LockOptions, WatchStream};
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(10);

async fn client(served: &TestServer) -> Client {
    Client::connect([served.endpoint()], None).await.expect("a server that is ready")
}

/// The code and the message of a refusal.
#[track_caller]
fn refusal<T>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

async fn next(stream: &mut WatchStream) -> etcd_client::WatchResponse {
    let next = timeout(SOON, stream.message()).await.expect("an answer");
    next.expect("no error").expect("the stream goes on")
}

#[tokio::test]
async fn watch_over_the_limit_is_refused_until_another_is_cancelled() {
    let builder = Server::builder(MemBackend::new()).max_watches_per_stream(2);
    let served = TestServer::start(builder).await;
    let mut client = client(&served).await;
    let mut stream = client.watch("a", None).await.unwrap();
    assert!(next(&mut stream).await.created());
    stream.watch("b", None).await.unwrap();
    assert!(next(&mut stream).await.created());
    stream.watch("c", None).await.unwrap();
    let refused = next(&mut stream).await;
    assert!(refused.created() && refused.canceled());
    assert_eq!(refused.watch_id(), -1);
    assert!(refused.cancel_reason().contains('2'), "{refused:?}");

    client.put("b", "1", None).await.unwrap();
    assert_eq!(next(&mut stream).await.events().len(), 1, "the others are as they were");
    stream.cancel(0).await.unwrap();
    assert!(next(&mut stream).await.canceled());
    stream.watch("c", None).await.unwrap();
    let created = next(&mut stream).await;
    assert!(created.created() && !created.canceled());
    assert_eq!(created.watch_id(), 2, "a refusal uses no id up");
}

#[tokio::test]
async fn server_that_stops_tells_every_stream_and_every_waiting_call() {
    let mut served = TestServer::start(Server::builder(MemBackend::new())).await;
    let mut client = client(&served).await;
    let mut watch = client.watch("a", None).await.unwrap();
    assert!(next(&mut watch).await.created());
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let (mut keeper, mut kept) = client.lease_keep_alive(lease).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert!(kept.message().await.unwrap().is_some());
    let held = client.lock("name", Some(LockOptions::new().with_lease(lease))).await.unwrap();
    assert!(held.key().starts_with(b"name/"));
    let mut other = client.clone();
    let waits = async {
        let waited = other.lock("name", None).await;
        refusal(waited)
    };
    let stops = async {
        // It waits once its key is there.
        let range = Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
        while client.get("name/", range.clone()).await.unwrap().count() < 2 {
            tokio::task::yield_now().await;
        }
        served.stop();
    };
    let (waited, ()) = timeout(SOON, async { tokio::join!(waits, stops) }).await.unwrap();
    let stopped = "Unavailable: etcdserver: server stopped";
    assert_eq!(waited, stopped);
    assert_eq!(refusal(timeout(SOON, watch.message()).await.unwrap()), stopped);
    assert_eq!(refusal(timeout(SOON, kept.message()).await.unwrap()), stopped);
    timeout(SOON, served.stopped()).await.expect("nothing is left to wait for");
    let refused = client.get("a", None).await;
    let refused = refusal(refused);
    assert!(refused.starts_with("Unavailable"), "{refused}");
}

/// A put that takes its time.
async fn slow(time: Duration, grace: Duration) -> (TestServer, Client) {
    let late = move |call: &Call| match call {
        Call::Put(Put { .. }) => Action::Delay(time),
        _ => Action::Pass,
    };
    let store = Intercept::new(MemBackend::new(), late);
    let served = TestServer::start(Server::builder(store).grace(grace)).await;
    let client = client(&served).await;
    (served, client)
}

#[tokio::test]
async fn call_under_way_is_answered_by_a_server_that_stops() {
    let (mut served, mut client) = slow(Duration::from_millis(300), SOON).await;
    let put = client.put("a", "1", None);
    let stops = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        served.stop();
        served.stopped().await;
    };
    let (put, ()) = tokio::join!(put, stops);
    assert_eq!(put.unwrap().header().unwrap().revision(), 2);
}

#[tokio::test]
async fn call_that_takes_longer_than_the_grace_is_cut_off() {
    let (mut served, mut client) = slow(SOON, Duration::from_millis(200)).await;
    let put = client.put("a", "1", None);
    let stops = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let asked = Instant::now();
        served.stop();
        served.stopped().await;
        asked.elapsed()
    };
    let (put, took) = tokio::join!(put, stops);
    put.unwrap_err();
    assert!(Duration::from_millis(200) <= took && took < SOON / 2, "{took:?}");
}

#[tokio::test]
async fn watch_resumes_without_a_gap_after_a_server_restart() {
    let backend = MemBackend::new();
    let store = coord_core::Client::new(backend.clone());
    let mut served = TestServer::start(Server::builder(backend.clone())).await;
    let etcd = EtcdBackend::connect([served.endpoint()]).await.unwrap();
    let client = coord_core::Client::new(etcd);
    let mut watch = client.watch(Watch::new(KeyRange::prefix("k"))).await.unwrap();
    client.put("k", "1").await.unwrap();
    let endpoint = served.endpoint().to_owned();
    served.stop();
    timeout(SOON, served.stopped()).await.expect("nothing is left to wait for");
    store.put("k", "2").await.unwrap();
    let _again = TestServer::start_at(Server::builder(backend), &endpoint).await;
    store.put("k", "3").await.unwrap();
    for value in ["1", "2", "3"] {
        let batch = timeout(SOON, watch.next()).await.expect("it goes on").unwrap().unwrap();
        let values: Vec<_> = batch.events.into_iter().map(|event| event.kv.value).collect();
        assert_eq!(values, [value]);
    }
    let kept = client.put("k", "4").await;
    assert_eq!(kept.unwrap().header.revision.0, 5);
}
