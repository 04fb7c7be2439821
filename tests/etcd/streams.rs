//! Watch streams of our server against those of real etcd servers, message by message, on random
//! scripts, the same every time. For others there is the example `mirror`, told `--streams`.

use std::sync::Arc;

use coord_core::{
    Client,
    kv::{Compact, Revision},
};
use coord_etcd_tests::hunt::{Hunt, Quarry};
use coord_etcd_tests::serve::Served;
use coord_etcd_tests::{Bare, Release, create};
use coord_mem::MemBackend;
use coord_server::Server;

/// How many scripts to play, to all servers together.
const COUNT: u64 = 384;

#[tokio::test]
async fn watch_streams_say_what_etcds_say() {
    let releases = Release::all().unwrap_or_else(|why| panic!("{why}"));
    let count = COUNT.div_ceil(releases.len() as u64);
    for release in releases {
        let quarry = Quarry::Streams;
        let hunt = Hunt { quarry, release, seed: 0, count, batch: 24, jobs: 4 };
        hunt.finds_nothing().await;
    }
}

/// etcd drops a request that finds a watch which has not caught up.
#[tokio::test]
async fn bookmark_comes_though_a_watch_beside_is_compacted() {
    let store = Client::new(MemBackend::new());
    for _ in 2..5 {
        store.put("a", "1").await.unwrap();
    }
    store.compact(Compact::new(Revision(3))).await.unwrap();
    let served = Served::start(Server::builder(Arc::clone(store.backend()))).await;
    let mut talk = Bare::at(served.endpoint()).await.watch().await;
    talk.union(create!("a", start_revision: 3));
    talk.progress();
    talk.union(create!("a", start_revision: 2));
    let mut ids = Vec::new();
    while !ids.contains(&-1) {
        let message = talk.next().await.expect("a message").expect("no error").expect("no end");
        ids.push(message.watch_id);
    }
}
