//! A test of a watch whose member is paused behind a proxy, which still acknowledges pings.

use coord_core::kv::Watch;
use coord_etcd_tests::proxy::{Limits, Proxy};
use coord_etcd_tests::{ClusterBuilder, Release};

use crate::support::{client, secs, within};

#[tokio::test]
async fn watch_fails_over_from_a_paused_member_behind_a_proxy() {
    let cluster = ClusterBuilder::new(Release::newest()).members(3).start().await;
    let paused = (cluster.leader().await + 1) % 3;
    let other = cluster[(paused + 1) % 3].endpoint().to_owned();
    let proxy = Proxy::start(cluster[paused].endpoint(), Limits::default()).await;
    let kv = client(&[proxy.endpoint().to_owned(), other.clone()]).await;
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    let writer = client(&[other]).await;
    writer.put("a", "1").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.value, "1");

    cluster[paused].pause();
    writer.put("a", "2").await.unwrap();
    // Until the adapter has probed the silent stream, and replaced it.
    let batch = within(secs(40), watch.next()).await;
    assert_eq!(batch.unwrap().unwrap().events[0].kv.value, "2");
    cluster[paused].resume();
}
