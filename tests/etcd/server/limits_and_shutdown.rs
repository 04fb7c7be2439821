//! Tests of the limits and the shutdown of coord's server, as clients experience them.
//!
//! They do not run on etcd, which has no such limits and takes seconds to stop.
#![expect(clippy::unwrap_used, reason = "a call that fails fails the test")]

use std::time::Duration;

use coord_core::kv::{KeyRange, Put, Watch};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::test_server::TestServer;
use coord_mem::MemBackend;
use coord_server::Server;
use coord_testkit::{Action, Call, Intercept};
use etcd_client::{Client, Error, LockOptions, WatchStream};
use tokio::time::{Instant, timeout};

/// The time limit for responses and for the shutdown.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

async fn client(server: &TestServer) -> Client {
    Client::connect([server.endpoint()], None).await.unwrap()
}

/// The code and the message with which a call was rejected.
#[track_caller]
fn rejection<T>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the call was not rejected"),
    }
}

async fn next(stream: &mut WatchStream) -> etcd_client::WatchResponse {
    timeout(RESPONSE_TIMEOUT, stream.message()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn watch_over_the_limit_is_refused_until_another_is_cancelled() {
    let builder = Server::builder(MemBackend::new()).max_watches_per_stream(2);
    let server = TestServer::start(builder).await;
    let mut client = client(&server).await;
    let mut stream = client.watch("a", None).await.unwrap();
    assert!(next(&mut stream).await.created());
    stream.watch("b", None).await.unwrap();
    assert!(next(&mut stream).await.created());
    stream.watch("c", None).await.unwrap();
    let rejected = next(&mut stream).await;
    assert!(rejected.created() && rejected.canceled());
    assert_eq!(rejected.watch_id(), -1);
    assert!(rejected.cancel_reason().contains('2'), "{rejected:?}");

    client.put("b", "1", None).await.unwrap();
    assert_eq!(next(&mut stream).await.events().len(), 1, "the other watches are not affected");
    stream.cancel(0).await.unwrap();
    assert!(next(&mut stream).await.canceled());
    stream.watch("c", None).await.unwrap();
    let created = next(&mut stream).await;
    assert!(created.created() && !created.canceled());
    assert_eq!(created.watch_id(), 2, "a rejected watch does not use an id");
}

#[tokio::test]
async fn shutdown_ends_every_stream_and_waiting_call_with_an_error() {
    let mut server = TestServer::start(Server::builder(MemBackend::new())).await;
    let mut client = client(&server).await;
    let mut watch = client.watch("a", None).await.unwrap();
    assert!(next(&mut watch).await.created());
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let (mut requests, mut responses) = client.lease_keep_alive(lease).await.unwrap();
    requests.keep_alive().await.unwrap();
    assert!(responses.message().await.unwrap().is_some());
    let held = client.lock("name", Some(LockOptions::new().with_lease(lease))).await.unwrap();
    assert!(held.key().starts_with(b"name/"));
    let mut other = client.clone();
    let waiting = async {
        let waited = other.lock("name", None).await;
        rejection(waited)
    };
    let stopping = async {
        // The call waits once its key exists.
        let range = Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
        while client.get("name/", range.clone()).await.unwrap().count() < 2 {
            tokio::task::yield_now().await;
        }
        server.stop();
    };
    let (waited, ()) =
        timeout(RESPONSE_TIMEOUT, async { tokio::join!(waiting, stopping) }).await.unwrap();
    let stopped = "Unavailable: etcdserver: server stopped";
    assert_eq!(waited, stopped);
    assert_eq!(rejection(timeout(RESPONSE_TIMEOUT, watch.message()).await.unwrap()), stopped);
    assert_eq!(rejection(timeout(RESPONSE_TIMEOUT, responses.message()).await.unwrap()), stopped);
    timeout(RESPONSE_TIMEOUT, server.wait_until_stopped()).await.unwrap();
    let rejected = client.get("a", None).await;
    let rejected = rejection(rejected);
    assert!(rejected.starts_with("Unavailable"), "{rejected}");
}

/// A server whose puts take `put_time`, with a client. A shutdown waits `grace` for calls.
async fn server_with_slow_puts(put_time: Duration, grace: Duration) -> (TestServer, Client) {
    let delay = move |call: &Call| match call {
        Call::Put(Put { .. }) => Action::Delay(put_time),
        _ => Action::Pass,
    };
    let store = Intercept::new(MemBackend::new(), delay);
    let server = TestServer::start(Server::builder(store).grace(grace)).await;
    let client = client(&server).await;
    (server, client)
}

#[tokio::test]
async fn call_in_progress_completes_during_shutdown() {
    let (mut server, mut client) =
        server_with_slow_puts(Duration::from_millis(300), Duration::from_secs(10)).await;
    let put = client.put("a", "1", None);
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.stop();
        server.wait_until_stopped().await;
    };
    let (put, ()) = tokio::join!(put, stopping);
    assert_eq!(put.unwrap().header().unwrap().revision(), 2);
}

#[tokio::test]
async fn call_longer_than_the_grace_period_is_aborted() {
    let (mut server, mut client) =
        server_with_slow_puts(Duration::from_secs(10), Duration::from_millis(200)).await;
    let put = client.put("a", "1", None);
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let requested = Instant::now();
        server.stop();
        server.wait_until_stopped().await;
        requested.elapsed()
    };
    let (put, took) = tokio::join!(put, stopping);
    put.unwrap_err();
    assert!(Duration::from_millis(200) <= took && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn watch_resumes_without_a_gap_after_a_server_restart() {
    let backend = MemBackend::new();
    let store = coord_core::Client::new(backend.clone());
    let mut server = TestServer::start(Server::builder(backend.clone())).await;
    let etcd = EtcdBackend::connect([server.endpoint()]).await.unwrap();
    let client = coord_core::Client::new(etcd);
    let mut watch = client.watch(Watch::new(KeyRange::prefix("k"))).await.unwrap();
    client.put("k", "1").await.unwrap();
    let endpoint = server.endpoint().to_owned();
    server.stop();
    timeout(RESPONSE_TIMEOUT, server.wait_until_stopped()).await.unwrap();
    store.put("k", "2").await.unwrap();
    let _restarted = TestServer::start_at(Server::builder(backend), &endpoint).await;
    store.put("k", "3").await.unwrap();
    for value in ["1", "2", "3"] {
        let batch = timeout(RESPONSE_TIMEOUT, watch.next()).await.unwrap().unwrap().unwrap();
        let values: Vec<_> = batch.events.into_iter().map(|event| event.kv.value).collect();
        assert_eq!(values, [value]);
    }
    let put = client.put("k", "4").await;
    assert_eq!(put.unwrap().header.revision.0, 5);
}
