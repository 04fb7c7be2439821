//! Connections that their server ends gracefully, and servers that permit few streams.

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
use coord_etcd_tests::scripted::{Answer, Scripted};
use coord_etcd_tests::serve::Served;
use coord_mem::MemBackend;
use coord_server::Server;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::time::timeout;

use crate::support::{client, secs, session};

async fn store() -> Served {
    Served::start(Server::builder(MemBackend::new())).await
}

/// Each connection processes three requests, and says so with GOAWAY. What the client sent
/// meanwhile on higher streams was reported as perhaps applied.
#[tokio::test]
async fn requests_above_the_last_stream_id_are_resent() {
    let processed = Arc::new(Mutex::new(BTreeMap::<Vec<u8>, usize>::new()));
    let noted = Arc::clone(&processed);
    let server = Scripted::start(move |asked| {
        if asked.stream > 5 {
            return Vec::new();
        }
        *noted.lock().unwrap().entry(asked.message.clone()).or_default() += 1;
        match asked.stream {
            5 => vec![Answer::GoAway(5, 0), Answer::GOOD],
            _ => vec![Answer::GOOD],
        }
    });
    let server = server.await;
    let kv = Client::new(EtcdBackend::connect([server.endpoint()]).await.unwrap());
    let puts = (0..40).map(|n| kv.put(format!("k{n}"), "1"));
    for (n, put) in join_all(puts).await.into_iter().enumerate() {
        put.unwrap_or_else(|error| panic!("put {n}: {error}"));
    }
    let processed = processed.lock().unwrap();
    // The request that connects, and the puts.
    assert_eq!(processed.len(), 41);
    assert!(processed.values().all(|count| *count == 1), "{processed:?}");
}

#[tokio::test]
async fn proxy_that_ends_connections_fails_no_request() {
    let store = store().await;
    let limits = Limits { requests_per_connection: Some(10), ..Limits::default() };
    let proxy = Proxy::start(store.endpoint(), limits).await;
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
        let batch = timeout(secs(10), watch.next()).await.expect("no event is lost");
        let batch = batch.expect("it goes on").expect("it goes on");
        assert!(batch.events.iter().all(|event| event.kv.version == 1), "a put was sent twice");
    }
    assert_eq!(session.state(), SessionState::Alive);
}

/// Requests that wait for a free stream had an unknown outcome, and streams that stay open could
/// take them all.
#[tokio::test]
async fn server_that_permits_few_streams_fails_no_request() {
    let store = store().await;
    for (streams, sessions) in [(1, 1), (4, 8)] {
        let limits = Limits { streams_per_connection: Some(streams), ..Limits::default() };
        let proxy = Proxy::start(store.endpoint(), limits).await;
        let kv = client(&[proxy.endpoint().to_owned()]).await;
        let mut watch = kv.watch(Watch::prefix("k")).await.unwrap();
        // Alone it goes over the first connection, where the watch stays.
        kv.put("alone", "1").await.unwrap_or_else(|error| panic!("{streams} streams: {error}"));
        let sessions = join_all((0..sessions).map(|_| session(&kv, 5))).await;
        let puts = (0..200).map(|n| kv.put(format!("k{streams}-{n}"), "1"));
        for put in join_all(puts).await {
            put.unwrap_or_else(|error| panic!("{streams} streams: {error}"));
        }
        for _ in 0..200 {
            let batch = timeout(secs(10), watch.next()).await.expect("no event is lost");
            let batch = batch.expect("it goes on").expect("it goes on");
            assert!(batch.events.iter().all(|event| event.kv.version == 1));
        }
        assert!(sessions.iter().all(|session| session.state() == SessionState::Alive));
    }
}

/// A keep-alive held one stream while it waited for another, so that as many keep-alives as there
/// are streams blocked each other.
#[tokio::test]
async fn keep_alives_do_not_take_each_others_streams() {
    let store = store().await;
    for streams in [1, 4] {
        let limits = Limits { streams_per_connection: Some(streams), ..Limits::default() };
        let proxy = Proxy::start(store.endpoint(), limits).await;
        let kv = client(&[proxy.endpoint().to_owned()]).await;
        let grants = (0..streams).map(|_| kv.lease_grant(LeaseGrant::new(secs(60))));
        let leases = join_all(grants).await.into_iter().map(|lease| lease.unwrap().id);
        let refreshes = leases.map(|lease| timeout(secs(2), kv.lease_keep_alive(lease)));
        for refreshed in join_all(refreshes).await {
            let refreshed = refreshed.unwrap_or_else(|_| panic!("{streams} streams: no answer"));
            assert_eq!(refreshed.unwrap().ttl, secs(60), "{streams} streams");
        }
    }
}

#[tokio::test]
async fn session_lives_where_a_connection_has_one_stream() {
    let store = store().await;
    let limits = Limits { streams_per_connection: Some(1), ..Limits::default() };
    let proxy = Proxy::start(store.endpoint(), limits).await;
    let kv = client(&[proxy.endpoint().to_owned()]).await;
    let session = session(&kv, 2).await;
    // Two times to live, in which a session that is not kept alive ends.
    timeout(secs(4), session.lost()).await.expect_err("the session is alive");
}

/// GOAWAY promises nothing about streams up to its last id: they may have been processed.
#[tokio::test]
async fn change_up_to_the_last_stream_id_stays_unknown() {
    let received = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&received);
    let server = Scripted::start(move |asked| match asked.number {
        0 => vec![Answer::GOOD],
        _ => {
            *counted.lock().unwrap() += 1;
            vec![Answer::GoAway(asked.stream, 0), Answer::Hangup]
        }
    });
    let server = server.await;
    let kv = Client::new(EtcdBackend::connect([server.endpoint()]).await.unwrap());
    let error = kv.put("a", "1").await.expect_err("there is no answer");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
    assert_eq!(*received.lock().unwrap(), 1, "it is not sent again");
}
