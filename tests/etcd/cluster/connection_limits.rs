//! Tests of connections that a server ends with GOAWAY, and of servers with few concurrent streams.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use coord_core::{
    Client,
    error::{ErrorKind, Outcome},
    kv::{LeaseGrant, Watch},
    session::SessionState,
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::proxy::{Limits, Proxy};
use coord_etcd_tests::scripted::{ScriptedResponse, ScriptedServer};
use coord_etcd_tests::test_server::TestServer;
use coord_mem::MemBackend;
use coord_server::Server;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::time::timeout;

use crate::support::{client, secs, session, within};

async fn mem_server() -> TestServer {
    TestServer::start(Server::builder(MemBackend::new())).await
}

/// Each connection processes three requests and ends with GOAWAY. Regression: requests on higher
/// streams failed with an unknown outcome, although the server had not processed them.
#[tokio::test]
async fn requests_above_the_last_stream_id_are_resent() {
    let processed = Arc::new(Mutex::new(BTreeMap::<Vec<u8>, usize>::new()));
    let counted = Arc::clone(&processed);
    let server = ScriptedServer::start(move |request| {
        if request.stream > 5 {
            return Vec::new();
        }
        *counted.lock().unwrap().entry(request.message.clone()).or_default() += 1;
        match request.stream {
            5 => vec![ScriptedResponse::GoAway(5, 0), ScriptedResponse::VALID],
            _ => vec![ScriptedResponse::VALID],
        }
    });
    let server = server.await;
    let kv = Client::new(EtcdBackend::connect([server.endpoint()]).await.unwrap());
    let puts = (0..40).map(|n| kv.put(format!("k{n}"), "1"));
    for (n, put) in join_all(puts).await.into_iter().enumerate() {
        put.unwrap_or_else(|error| panic!("put {n}: {error}"));
    }
    let processed = processed.lock().unwrap();
    // One request of the connect, and 40 puts.
    assert_eq!(processed.len(), 41);
    assert!(processed.values().all(|count| *count == 1), "{processed:?}");
}

#[tokio::test]
async fn requests_survive_a_proxy_that_ends_connections() {
    let server = mem_server().await;
    let limits = Limits { requests_per_connection: Some(10), ..Limits::default() };
    let proxy = Proxy::start(server.endpoint(), limits).await;
    let kv = client(&[proxy.endpoint().to_owned()]).await;
    let session = session(&kv, 5).await;
    let mut watch = kv.watch(Watch::prefix("k")).await.unwrap();
    let puts = (0..1_000).map(|n| kv.put(format!("k{n:03}"), "1"));
    let puts: Vec<_> = stream::iter(puts).buffer_unordered(16).collect().await;
    for put in puts {
        put.unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(proxy.connections() > 20, "{} connections", proxy.connections());
    for _ in 0..1_000 {
        let batch = within(secs(10), watch.next()).await.unwrap().unwrap();
        assert!(batch.events.iter().all(|event| event.kv.version == 1), "a put was applied twice");
    }
    assert_eq!(session.state(), SessionState::Alive);
}

/// Regression: requests that waited for a free stream failed with an unknown outcome, and watch and
/// keep-alive streams could occupy all streams of a connection.
#[tokio::test]
async fn requests_survive_a_server_with_few_streams() {
    let server = mem_server().await;
    for (streams, sessions) in [(1, 1), (4, 8)] {
        let limits = Limits { streams_per_connection: Some(streams), ..Limits::default() };
        let proxy = Proxy::start(server.endpoint(), limits).await;
        let kv = client(&[proxy.endpoint().to_owned()]).await;
        let mut watch = kv.watch(Watch::prefix("k")).await.unwrap();
        // A single request uses the first connection, which also has the watch.
        kv.put("alone", "1").await.unwrap_or_else(|error| panic!("{streams} streams: {error}"));
        let sessions = join_all((0..sessions).map(|_| session(&kv, 5))).await;
        let puts = (0..200).map(|n| kv.put(format!("k{streams}-{n}"), "1"));
        for put in join_all(puts).await {
            put.unwrap_or_else(|error| panic!("{streams} streams: {error}"));
        }
        for _ in 0..200 {
            let batch = within(secs(10), watch.next()).await.unwrap().unwrap();
            assert!(batch.events.iter().all(|event| event.kv.version == 1));
        }
        assert!(sessions.iter().all(|session| session.state() == SessionState::Alive));
    }
}

/// Regression: a keep-alive occupied one stream while it waited for another, so that as many
/// keep-alives as streams blocked each other.
#[tokio::test]
async fn keep_alives_do_not_block_each_other() {
    let server = mem_server().await;
    for streams in [1, 4] {
        let limits = Limits { streams_per_connection: Some(streams), ..Limits::default() };
        let proxy = Proxy::start(server.endpoint(), limits).await;
        let kv = client(&[proxy.endpoint().to_owned()]).await;
        let grants = (0..streams).map(|_| kv.lease_grant(LeaseGrant::new(secs(60))));
        let leases = join_all(grants).await.into_iter().map(|lease| lease.unwrap().id);
        let keep_alives = leases.map(|lease| timeout(secs(2), kv.lease_keep_alive(lease)));
        for response in join_all(keep_alives).await {
            let response = response.unwrap_or_else(|_| panic!("{streams} streams: no response"));
            assert_eq!(response.unwrap().ttl, secs(60), "{streams} streams");
        }
    }
}

#[tokio::test]
async fn session_survives_on_a_connection_with_one_stream() {
    let server = mem_server().await;
    let limits = Limits { streams_per_connection: Some(1), ..Limits::default() };
    let proxy = Proxy::start(server.endpoint(), limits).await;
    let kv = client(&[proxy.endpoint().to_owned()]).await;
    let session = session(&kv, 2).await;
    // Twice the TTL: without keep-alives, the session is lost by then.
    timeout(secs(4), session.lost()).await.unwrap_err();
}

/// The server may have processed the streams up to the last stream id of its GOAWAY.
#[tokio::test]
async fn write_up_to_the_last_stream_id_has_unknown_outcome() {
    let received = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&received);
    let server = ScriptedServer::start(move |request| match request.number {
        0 => vec![ScriptedResponse::VALID],
        _ => {
            *counted.lock().unwrap() += 1;
            vec![ScriptedResponse::GoAway(request.stream, 0), ScriptedResponse::Hangup]
        }
    });
    let server = server.await;
    let kv = Client::new(EtcdBackend::connect([server.endpoint()]).await.unwrap());
    let error = kv.put("a", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
    assert_eq!(*received.lock().unwrap(), 1, "a request with an unknown outcome is not sent again");
}
