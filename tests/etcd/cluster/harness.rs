//! Tests of the test harness: clusters start, restart, and are removed when they are dropped.

use std::net::TcpStream;

use coord_etcd_tests::{ClusterBuilder, Pool, Release};
use etcd_client::Client;
use tokio::time::timeout;

use crate::support::{secs, single_member};

/// Whether a server accepts connections at the endpoint.
fn is_up(endpoint: &str) -> bool {
    TcpStream::connect(endpoint.trim_start_matches("http://")).is_ok()
}

#[tokio::test]
async fn dropped_cluster_leaves_no_process_and_no_folder() {
    let cluster = ClusterBuilder::new(Release::newest()).members(3).start().await;
    let (endpoints, folder) = (cluster.endpoints(), cluster.folder().to_owned());
    assert!(endpoints.iter().all(|endpoint| is_up(endpoint)) && folder.exists());
    cluster[0].pause();
    drop(cluster);
    assert!(!endpoints.iter().any(|endpoint| is_up(endpoint)) && !folder.exists());
}

#[tokio::test]
async fn cluster_of_a_failed_test_is_removed_except_its_logs() {
    let cluster = single_member().await;
    let (endpoint, folder) = (cluster[0].endpoint().to_owned(), cluster.folder().to_owned());
    let test = std::thread::spawn(move || {
        let _cluster = cluster;
        std::panic::resume_unwind(Box::new("a test fails"));
    });
    test.join().unwrap_err();
    assert!(!is_up(&endpoint) && !folder.exists());
    let name = folder.file_name().unwrap().display().to_string();
    let kept = std::env::temp_dir().join(format!("{name}-logs"));
    assert!(kept.join("m0.log").exists());
    std::fs::remove_dir_all(kept).unwrap();
}

#[tokio::test]
async fn killed_member_restarts_with_its_data() {
    let mut cluster = ClusterBuilder::new(Release::newest()).members(3).start().await;
    let mut client = Client::connect(cluster.endpoints(), None).await.unwrap();
    client.put("a", "1", None).await.unwrap();
    cluster.members_mut().for_each(|member| member.kill());
    cluster.members_mut().for_each(|member| member.start());
    cluster.wait_until_ready().await;
    let mut client = Client::connect(cluster.endpoints(), None).await.unwrap();
    assert_eq!(client.get("a", None).await.unwrap().kvs()[0].value(), b"1");
    assert!(cluster.leader().await < 3);
}

#[tokio::test]
async fn server_from_the_pool_is_empty() {
    for release in Release::all().unwrap() {
        let pool = Pool::new(release);
        let first = pool.take_empty().await;
        let mut client = Client::connect(first.endpoints(), None).await.unwrap();
        let lease = client.lease_grant(60, None).await.unwrap().id();
        let options = etcd_client::PutOptions::new().with_lease(lease);
        client.put("a", "1", Some(options)).await.unwrap();
        client.put("b", "1", None).await.unwrap();
        let endpoints = first.endpoints();
        drop(first);
        let again = pool.take_empty().await;
        assert_eq!(again.endpoints(), endpoints);
        assert!(client.leases().await.unwrap().leases().is_empty());
        let all = etcd_client::GetOptions::new().with_all_keys();
        assert_eq!(client.get("", Some(all)).await.unwrap().count(), 0);
        assert_ne!(pool.take_empty().await.endpoints(), endpoints, "the server is in use");
        pool.close();
        drop(again);
        assert!(!is_up(&endpoints[0]), "a server that is returned to a closed pool is stopped");
    }
}

#[tokio::test]
async fn paused_member_responds_after_it_resumes() {
    let cluster = single_member().await;
    let mut client = Client::connect(cluster.endpoints(), None).await.unwrap();
    client.put("a", "1", None).await.unwrap();
    cluster[0].pause();
    assert!(timeout(secs(1), client.put("a", "2", None)).await.is_err());
    cluster[0].resume();
    client.put("a", "3", None).await.unwrap();
}
