//! Tests of connecting to a server that has not started, has no leader, or rejects the client.

use std::time::Duration;

use coord_core::{Client, error::ErrorKind};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Authority, ClusterBuilder, Release};
use tokio::time::{Instant, sleep};

use crate::support::{assert_refused, secs, single_member, wait_until};

#[tokio::test]
async fn connect_waits_for_a_server_that_starts() {
    let mut server = single_member().await;
    server[0].kill();
    let endpoint = server[0].endpoint().to_owned();
    let connecting =
        async { Client::new(EtcdBackend::connect([endpoint]).await?).put("a", "1").await };
    let starting = async {
        sleep(secs(2)).await;
        server[0].start();
    };
    let (put, ()) = tokio::join!(connecting, starting);
    put.unwrap();
}

#[tokio::test]
async fn connect_waits_for_a_quorum() {
    let mut cluster = ClusterBuilder::new(Release::newest()).members(3).start().await;
    cluster[1].kill();
    cluster[2].kill();
    let endpoint = cluster[0].endpoint().to_owned();
    let builder = EtcdBackend::builder([endpoint]);
    wait_until("the member has no leader", async || {
        builder.clone().connect_within(Duration::from_millis(200)).connect().await.is_err()
    })
    .await;
    let builder = builder.connect_within(secs(60));
    let connecting = async { Client::new(builder.connect().await?).put("a", "1").await };
    let starting = async {
        // Longer than the request timeout.
        sleep(secs(9)).await;
        cluster[1].start();
    };
    let (put, ()) = tokio::join!(connecting, starting);
    put.unwrap();
}

#[tokio::test]
async fn connect_takes_its_configured_time() {
    let mut server = single_member().await;
    server[0].kill();
    let builder = EtcdBackend::builder([server[0].endpoint()]);
    for within in [Duration::from_millis(500), secs(3)] {
        let start = Instant::now();
        let connected = builder.clone().connect_within(within).connect().await;
        let message = assert_refused(connected, ErrorKind::Unavailable);
        assert!(message.contains("refused"), "{message}");
        let took = start.elapsed();
        let nearly = took + Duration::from_millis(100);
        assert!(nearly >= within && took < within + secs(1), "{took:?} of {within:?}");
    }
}

/// A failed handshake is not retried, because it would fail again with the same certificates.
#[tokio::test]
async fn connect_reports_a_failed_handshake_at_once() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = ClusterBuilder::new(Release::newest()).authority(&authority).start().await;
    let tls = coord_etcd::Tls::new().ca(other.certificate.as_str());
    let builder = EtcdBackend::builder(server.endpoints()).tls(tls).connect_within(secs(60));
    let start = Instant::now();
    assert_refused(builder.connect().await, ErrorKind::Unavailable);
    assert!(start.elapsed() < secs(5));
}

/// In TLS 1.3 a server rejects a client after the client has finished its handshake.
#[tokio::test]
async fn connect_reports_a_missing_client_certificate_at_once() {
    let authority = Authority::new();
    let server = ClusterBuilder::new(Release::newest()).authority(&authority).start().await;
    let tls = coord_etcd::Tls::new().ca(authority.certificate.as_str());
    let builder = EtcdBackend::builder(server.endpoints()).tls(tls).connect_within(secs(20));
    let start = Instant::now();
    let message = assert_refused(builder.connect().await, ErrorKind::Unavailable);
    assert!(start.elapsed() < secs(10), "{message}");
    assert!(message.contains("certificate"), "{message}");
}
