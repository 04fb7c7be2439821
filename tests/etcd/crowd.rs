//! Ten thousand watches on one connection, on our server and on a real etcd.

use std::collections::BTreeSet;

use coord_etcd_tests::serve::Served;
use coord_etcd_tests::{Cluster, Release, Setup};
use coord_mem::MemBackend;
use coord_server::Server;
use etcd_client::{Client, WatchStream};
use futures_util::future::try_join_all;
use tokio::time::{Duration, timeout};

const WATCHES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn ten_thousand_watches_of_one_stream_hear_of_an_event_each() {
    let (ours, etcd) = both().await;
    of_one_stream(client(ours.endpoint()).await).await;
    of_one_stream(client(&etcd.endpoints()[0]).await).await;
}

/// With all of them in one breath h2 once took the client for an attacker, from some two thousand
/// streams on, and closed the connection.
#[tokio::test]
async fn ten_thousand_streams_of_one_connection_hear_of_an_event_each() {
    let (ours, etcd) = both().await;
    of_many_streams(client(ours.endpoint()).await, WATCHES).await;
    // Enough to see that it is etcd's story too.
    of_many_streams(client(&etcd.endpoints()[0]).await, 1_000).await;
}

async fn both() -> (Served, Cluster) {
    let ours = Served::start(Server::builder(MemBackend::new())).await;
    (ours, Setup::new(Release::newest()).start().await)
}

/// One endpoint is one connection.
async fn client(endpoint: &str) -> Client {
    Client::connect([endpoint], None).await.expect("a server that is ready")
}

async fn of_one_stream(mut client: Client) {
    let mut stream = client.watch("a", None).await.expect("the stream opens");
    for _ in 1..WATCHES {
        stream.watch("a", None).await.expect("the stream takes requests");
    }
    let created = heard(&mut stream, |message| message.created()).await;
    client.put("a", "1", None).await.expect("a put");
    let told = heard(&mut stream, |message| message.events().len() == 1).await;
    assert_eq!(told, created);
}

/// The ids of the watches that answered so, each of them once.
async fn heard(
    stream: &mut WatchStream,
    as_it_should: impl Fn(&etcd_client::WatchResponse) -> bool,
) -> BTreeSet<i64> {
    let mut ids = BTreeSet::new();
    for _ in 0..WATCHES {
        let message = timeout(PATIENCE, stream.message()).await.expect("an answer");
        let message = message.expect("no error").expect("the stream goes on");
        assert!(as_it_should(&message), "{message:?}");
        assert!(ids.insert(message.watch_id()), "{message:?}");
    }
    ids
}

async fn of_many_streams(client: Client, count: usize) {
    let open = (0..count).map(|n| {
        let mut client = client.clone();
        async move { client.watch(format!("k{n}"), None).await }
    });
    let opened = timeout(PATIENCE, try_join_all(open)).await.expect("all streams open");
    let mut streams = opened.expect("no error");
    // All are read at once: a connection holds only so much that nobody has read.
    let created = try_join_all(streams.iter_mut().map(WatchStream::message));
    for message in timeout(PATIENCE, created).await.expect("answers").expect("no error") {
        assert!(message.expect("the stream goes on").created());
    }
    let put = (0..count).map(|n| {
        let mut client = client.clone();
        async move { client.put(format!("k{n}"), "1", None).await }
    });
    let put = async { try_join_all(put).await.expect("puts") };
    let events = try_join_all(streams.iter_mut().map(WatchStream::message));
    let both = async { tokio::join!(put, events).1 };
    let events = timeout(PATIENCE, both).await.expect("events").expect("no error");
    for (n, message) in events.into_iter().enumerate() {
        let message = message.expect("the stream goes on");
        let keys: Vec<_> = message
            .events()
            .iter()
            .map(|event| event.kv().map(etcd_client::KeyValue::key))
            .collect();
        assert_eq!(keys, [Some(format!("k{n}").as_bytes())]);
    }
}
