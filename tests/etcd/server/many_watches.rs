//! Tests of 10,000 watches on one connection, on coord's server and on a real etcd.
#![expect(clippy::unwrap_used, reason = "a call that fails fails the test")]

use std::collections::BTreeSet;

use coord_etcd_tests::test_server::TestServer;
use coord_etcd_tests::{Cluster, ClusterBuilder, Release};
use coord_mem::MemBackend;
use coord_server::Server;
use etcd_client::{Client, WatchStream};
use futures_util::future::try_join_all;
use tokio::time::{Duration, timeout};

const WATCHES: usize = 10_000;
/// The time limit for each message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn each_of_ten_thousand_watches_receives_its_event() {
    let (coord, etcd) = servers().await;
    check_watches_of_one_stream(client(coord.endpoint()).await).await;
    check_watches_of_one_stream(client(&etcd.endpoints()[0]).await).await;
}

/// Regression: when a client opened more than about 2,000 streams at once, h2 classified it as an
/// attacker and closed the connection.
#[tokio::test]
async fn each_of_ten_thousand_streams_receives_its_event() {
    let (coord, etcd) = servers().await;
    check_watches_of_many_streams(client(coord.endpoint()).await, WATCHES).await;
    // Fewer streams, because etcd takes longer.
    check_watches_of_many_streams(client(&etcd.endpoints()[0]).await, 1_000).await;
}

async fn servers() -> (TestServer, Cluster) {
    let coord = TestServer::start(Server::builder(MemBackend::new())).await;
    (coord, ClusterBuilder::new(Release::newest()).start().await)
}

/// A client with one connection.
async fn client(endpoint: &str) -> Client {
    Client::connect([endpoint], None).await.unwrap()
}

async fn check_watches_of_one_stream(mut client: Client) {
    let mut stream = client.watch("a", None).await.unwrap();
    for _ in 1..WATCHES {
        stream.watch("a", None).await.unwrap();
    }
    let created = ids(&mut stream, |message| message.created()).await;
    client.put("a", "1", None).await.unwrap();
    let notified = ids(&mut stream, |message| message.events().len() == 1).await;
    assert_eq!(notified, created);
}

/// The watch ids of the next messages. There must be one expected message for each watch.
async fn ids(
    stream: &mut WatchStream,
    is_expected: impl Fn(&etcd_client::WatchResponse) -> bool,
) -> BTreeSet<i64> {
    let mut ids = BTreeSet::new();
    for _ in 0..WATCHES {
        let message = timeout(MESSAGE_TIMEOUT, stream.message()).await.unwrap();
        let message = message.unwrap().unwrap();
        assert!(is_expected(&message), "{message:?}");
        assert!(ids.insert(message.watch_id()), "{message:?}");
    }
    ids
}

async fn check_watches_of_many_streams(client: Client, count: usize) {
    let open = (0..count).map(|n| {
        let mut client = client.clone();
        async move { client.watch(format!("k{n}"), None).await }
    });
    let opened = timeout(MESSAGE_TIMEOUT, try_join_all(open)).await.unwrap();
    let mut streams = opened.unwrap();
    // The streams are read concurrently, because a connection buffers a limited amount of data.
    let created = try_join_all(streams.iter_mut().map(WatchStream::message));
    for message in timeout(MESSAGE_TIMEOUT, created).await.unwrap().unwrap() {
        assert!(message.unwrap().created());
    }
    let put = (0..count).map(|n| {
        let mut client = client.clone();
        async move { client.put(format!("k{n}"), "1", None).await }
    });
    let put = async { try_join_all(put).await.unwrap() };
    let events = try_join_all(streams.iter_mut().map(WatchStream::message));
    let both = async { tokio::join!(put, events).1 };
    let events = timeout(MESSAGE_TIMEOUT, both).await.unwrap().unwrap();
    for (n, message) in events.into_iter().enumerate() {
        let message = message.unwrap();
        let keys: Vec<_> = message
            .events()
            .iter()
            .map(|event| event.kv().map(etcd_client::KeyValue::key))
            .collect();
        assert_eq!(keys, [Some(format!("k{n}").as_bytes())]);
    }
}
