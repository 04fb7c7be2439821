//! Differential tests of watch streams: coord's server against real etcd servers, message by
//! message.
//!
//! The random scenarios are the same in every run. `mirror --streams`, an example of this package,
//! runs others.

use std::sync::Arc;

use coord_core::{
    Client,
    kv::{Compact, Revision},
};
use coord_etcd_tests::differential::{DifferentialRun, Target};
use coord_etcd_tests::test_server::TestServer;
use coord_etcd_tests::{RawClient, Release, create_watch};
use coord_mem::MemBackend;
use coord_server::Server;

/// The number of scenarios on all real servers together.
const SCENARIOS: u64 = 384;

#[tokio::test]
async fn watch_streams_send_the_same_messages_as_etcd() {
    let releases = Release::all().unwrap_or_else(|why| panic!("{why}"));
    let count = SCENARIOS.div_ceil(releases.len() as u64);
    for release in releases {
        let target = Target::WatchStreams;
        let run = DifferentialRun { target, release, seed: 0, count, batch: 24, jobs: 4 };
        run.assert_no_mismatch().await;
    }
}

/// etcd drops a progress request while a watch of the stream has not caught up.
#[tokio::test]
async fn progress_is_sent_beside_a_compacted_watch() {
    let store = Client::new(MemBackend::new());
    for _ in 2..5 {
        store.put("a", "1").await.unwrap();
    }
    store.compact(Compact::new(Revision(3))).await.unwrap();
    let server = TestServer::start(Server::builder(Arc::clone(store.backend()))).await;
    let mut stream = RawClient::connect(server.endpoint()).await.watch().await;
    stream.send_request(create_watch!("a", start_revision: 3));
    stream.request_progress();
    stream.send_request(create_watch!("a", start_revision: 2));
    let mut ids = Vec::new();
    while !ids.contains(&-1) {
        let message = stream.next().await.unwrap().unwrap().unwrap();
        ids.push(message.watch_id);
    }
}
