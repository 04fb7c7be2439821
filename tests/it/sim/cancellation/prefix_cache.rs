//! Cancellation cases of prefix caches. Each runs once for each await at which its call can be
//! dropped (`cancellation/mod.rs`).

use coord_core::Client;
use coord_core::recipes::PrefixCache;
use tokio::time::sleep;

use super::client::read;
use super::trial::Trial;
use super::{Case, drop_all};
use crate::support::{newest_revision, secs};

#[test]
fn dropped_calls_of_a_prefix_cache_change_nothing() {
    drop_all(&cases());
}

async fn cache(client: &Client) -> PrefixCache {
    PrefixCache::open(client, "data/").await.unwrap()
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        read(&["PrefixCache::open", "PrefixCache::open_with_limit"], |client| async move {
            assert_eq!(cache(&client).await.snapshot().len(), 1);
            Ok(())
        }),
        Case::new(&["PrefixCache::read"], "after a write of another client", consistent_read),
        Case::new(&["PrefixCache::wait_for"], "a key is put after half a second", wait_for),
        Case::new(&["PrefixChanges::next"], "a key is put after half a second", changes_next),
    ]
}

/// Another read contains the write, also if the dropped one has requested progress.
async fn consistent_read(t: Trial) {
    let cache = cache(t.client()).await;
    t.other.client().put("other", "1").await.unwrap();
    t.other.client().delete("other").await.unwrap();
    let newest = newest_revision(t.other.client()).await;
    if let Some(read) = t.drop_at_await(cache.read()).await {
        assert!(read.unwrap().revision() >= newest);
    }
    assert!(t.continues(cache.read()).await.unwrap().revision() >= newest);
    t.messages_arrive().await;
}

async fn wait_for(t: Trial) {
    let cache = cache(t.client()).await;
    let before = cache.revision();
    let other = t.other.client().clone();
    let put = t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        other.put("data/k", "1").await.unwrap();
    });
    t.drop_at_await(cache.wait_for(before.next())).await.transpose().unwrap();
    put.await;
    t.messages_arrive().await;
    assert_eq!(t.proceeds(cache.wait_for(before.next())).await.unwrap().len(), 1);
}

/// No change is lost, and the first one is not yielded twice.
async fn changes_next(t: Trial) {
    let cache = cache(t.client()).await;
    let mut changes = cache.changes();
    let other = t.other.client().clone();
    let puts = t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        other.put("data/k", "1").await.unwrap();
        other.put("data/k", "2").await.unwrap();
    });
    let mut found = Vec::new();
    found.extend(t.drop_at_await(changes.next()).await);
    puts.await;
    t.messages_arrive().await;
    while found.len() < 2 {
        found.push(t.proceeds(changes.next()).await);
    }
    let values: Vec<_> = found
        .into_iter()
        .map(|item| item.unwrap().unwrap().changes()[0].after.clone().unwrap().value)
        .collect();
    assert_eq!(values, ["1", "2"]);
}
