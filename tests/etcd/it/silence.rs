//! Members that freeze behind a proxy, which continues to answer pings.

use coord_core::kv::Watch;
use coord_etcd_tests::proxy::{Limits, Proxy};
use coord_etcd_tests::{Release, Setup};
use tokio::time::timeout;

use crate::support::{client, secs};

#[tokio::test]
async fn watch_leaves_a_member_that_freezes_behind_a_proxy() {
    let cluster = Setup::new(Release::newest()).members(3).start().await;
    let frozen = (cluster.leader().await + 1) % 3;
    let other = cluster[(frozen + 1) % 3].endpoint().to_owned();
    let proxy = Proxy::start(cluster[frozen].endpoint(), Limits::default()).await;
    let kv = client(&[proxy.endpoint().to_owned(), other.clone()]).await;
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    let writer = client(&[other]).await;
    writer.put("a", "1").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.value, "1");

    cluster[frozen].pause();
    writer.put("a", "2").await.unwrap();
    let batch = timeout(secs(40), watch.next()).await.expect("the stream is probed and given up");
    assert_eq!(batch.unwrap().unwrap().events[0].kv.value, "2");
    cluster[frozen].resume();
}
