//! Tests of 10,000 watches on one connection, with coord's server and with a real etcd.

use std::collections::BTreeSet;

use coord_etcd_tests::serve::TestServer;
use coord_etcd_tests::{Cluster, Release, Setup};
use coord_mem::MemBackend;
use coord_server::Server;
use etcd_client::{Client, WatchStream};
use futures_util::future::try_join_all;
use tokio::time::{Duration, timeout};

const WATCHES: usize = 10_000;
const TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn each_of_ten_thousand_watches_receives_its_event() {
    let (ours, etcd) = both().await;
    of_one_stream(client(ours.endpoint()).await).await;
    of_one_stream(client(&etcd.endpoints()[0]).await).await;
}

/// From about 2,000 streams opened at once, h2 took the client for an attacker and closed the
/// connection.
#[tokio::test]
async fn each_of_ten_thousand_streams_receives_its_event() {
    let (ours, etcd) = both().await;
    of_many_streams(client(ours.endpoint()).await, WATCHES).await;
    // etcd does the same with fewer streams, and takes longer.
    of_many_streams(client(&etcd.endpoints()[0]).await, 1_000).await;
}

async fn both() -> (TestServer, Cluster) {
    let ours = TestServer::start(Server::builder(MemBackend::new())).await;
    (ours, Setup::new(Release::newest()).start().await)
}

/// A client with one connection.
async fn client(endpoint: &str) -> Client {
    Client::connect([endpoint], None).await.expect("a server that is ready")
}

async fn of_one_stream(mut client: Client) {
    let mut stream = client.watch("a", None).await.expect("the stream opens");
    for _ in 1..WATCHES {
        stream.watch("a", None).await.expect("the stream takes requests");
    }
    let created = ids(&mut stream, |message| message.created()).await;
    client.put("a", "1", None).await.expect("a put");
    let notified = ids(&mut stream, |message| message.events().len() == 1).await;
    assert_eq!(notified, created);
}

/// The ids of the watches in the next messages, one message for each, all as expected.
async fn ids(
    stream: &mut WatchStream,
    is_expected: impl Fn(&etcd_client::WatchResponse) -> bool,
) -> BTreeSet<i64> {
    let mut ids = BTreeSet::new();
    for _ in 0..WATCHES {
        let message = timeout(TIMEOUT, stream.message()).await.expect("a message in time");
        let message = message.expect("no error").expect("the stream continues");
        assert!(is_expected(&message), "{message:?}");
        assert!(ids.insert(message.watch_id()), "{message:?}");
    }
    ids
}

async fn of_many_streams(client: Client, count: usize) {
    let open = (0..count).map(|n| {
        let mut client = client.clone();
        async move { client.watch(format!("k{n}"), None).await }
    });
    let opened = timeout(TIMEOUT, try_join_all(open)).await.expect("all streams open");
    let mut streams = opened.expect("no error");
    // All are read concurrently, because a connection buffers a limited amount of unread data.
    let created = try_join_all(streams.iter_mut().map(WatchStream::message));
    for message in timeout(TIMEOUT, created).await.expect("answers").expect("no error") {
        assert!(message.expect("the stream continues").created());
    }
    let put = (0..count).map(|n| {
        let mut client = client.clone();
        async move { client.put(format!("k{n}"), "1", None).await }
    });
    let put = async { try_join_all(put).await.expect("puts") };
    let events = try_join_all(streams.iter_mut().map(WatchStream::message));
    let both = async { tokio::join!(put, events).1 };
    let events = timeout(TIMEOUT, both).await.expect("events").expect("no error");
    for (n, message) in events.into_iter().enumerate() {
        let message = message.expect("the stream continues");
        let keys: Vec<_> = message
            .events()
            .iter()
            .map(|event| event.kv().map(etcd_client::KeyValue::key))
            .collect();
        assert_eq!(keys, [Some(format!("k{n}").as_bytes())]);
    }
}
