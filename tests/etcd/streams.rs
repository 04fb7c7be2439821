//! Differential test of watch streams: coord's server and real etcd servers, message by message, on
//! the same random scenarios every time. The example `mirror --streams` runs others.

use std::sync::Arc;

use coord_core::{
    Client,
    kv::{Compact, Revision},
};
use coord_etcd_tests::differential::{DifferentialRun, Target};
use coord_etcd_tests::serve::TestServer;
use coord_etcd_tests::{RawClient, Release, create};
use coord_mem::MemBackend;
use coord_server::Server;

/// The number of scenarios on all servers together.
const COUNT: u64 = 384;

#[tokio::test]
async fn watch_streams_send_the_messages_of_etcd() {
    let releases = Release::all().unwrap_or_else(|why| panic!("{why}"));
    let count = COUNT.div_ceil(releases.len() as u64);
    for release in releases {
        let target = Target::Streams;
        let run = DifferentialRun { target, release, seed: 0, count, batch: 24, jobs: 4 };
        run.assert_no_mismatch().await;
    }
}

/// etcd drops a progress request while a watch of the stream has not caught up.
#[tokio::test]
async fn progress_is_reported_beside_a_compacted_watch() {
    let store = Client::new(MemBackend::new());
    for _ in 2..5 {
        store.put("a", "1").await.unwrap();
    }
    store.compact(Compact::new(Revision(3))).await.unwrap();
    let served = TestServer::start(Server::builder(Arc::clone(store.backend()))).await;
    let mut stream = RawClient::connect(served.endpoint()).await.watch().await;
    stream.union(create!("a", start_revision: 3));
    stream.progress();
    stream.union(create!("a", start_revision: 2));
    let mut ids = Vec::new();
    while !ids.contains(&-1) {
        let message = stream.next().await.expect("a message").expect("no error").expect("no end");
        ids.push(message.watch_id);
    }
}
