//! Tests of TLS with server and client certificates on a real etcd.

use coord_core::{Client, error::ErrorKind, kv::Watch};
use coord_etcd::{EtcdBackend, Tls};
use coord_etcd_tests::{Authority, Cluster, ClusterBuilder, Release};

use crate::support::{assert_refused, secs, within};

async fn server_with_tls(authority: &Authority) -> Cluster {
    ClusterBuilder::new(Release::newest()).authority(authority).start().await
}

/// TLS options that trust one authority and present a client certificate of another.
fn tls(trusted: &Authority, presented: &Authority) -> Tls {
    let (certificate, key) = &presented.client;
    Tls::new().ca(trusted.certificate.as_str()).identity(certificate.as_str(), key.as_str())
}

/// Connects with these TLS options, and reads a key.
async fn read(endpoint: &str, tls: Option<Tls>) -> coord_core::Result<()> {
    let builder = EtcdBackend::builder([endpoint]).request_timeout(secs(10));
    let builder = if let Some(tls) = tls { builder.tls(tls) } else { builder };
    let reading = async { Client::new(builder.connect().await?).get("a").await.map(drop) };
    within(secs(30), reading).await
}

#[tokio::test]
async fn valid_certificates_allow_calls_and_watches() {
    let authority = Authority::new();
    let server = server_with_tls(&authority).await;
    let builder = EtcdBackend::builder(server.endpoints()).tls(tls(&authority, &authority));
    let kv = Client::new(builder.connect().await.unwrap());
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    let put = kv.put("a", "1").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, put.header.revision);
}

#[tokio::test]
async fn server_of_an_unknown_authority_is_refused_with_the_reason() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = server_with_tls(&authority).await;
    let read = read(server[0].endpoint(), Some(tls(&other, &authority))).await;
    let message = assert_refused(read, ErrorKind::Unavailable).to_lowercase();
    assert!(message.contains("certificate"), "{message}");
}

#[tokio::test]
async fn client_of_an_unknown_authority_is_refused_by_the_server() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = server_with_tls(&authority).await;
    assert_refused(
        read(server[0].endpoint(), Some(tls(&authority, &other))).await,
        ErrorKind::Unavailable,
    );
}

#[tokio::test]
async fn client_without_a_certificate_is_refused_with_the_reason() {
    let authority = Authority::new();
    let server = server_with_tls(&authority).await;
    let without_identity = Tls::new().ca(authority.certificate.as_str());
    let message = assert_refused(
        read(server[0].endpoint(), Some(without_identity)).await,
        ErrorKind::Unavailable,
    );
    assert!(message.to_lowercase().contains("certificate"), "{message}");
}

#[tokio::test]
async fn plain_text_to_a_server_with_tls_is_refused() {
    let authority = Authority::new();
    let server = server_with_tls(&authority).await;
    let plain = server[0].endpoint().replace("https", "http");
    assert_refused(read(&plain, None).await, ErrorKind::Unavailable);
}

#[tokio::test]
async fn server_name_not_in_the_certificate_is_refused() {
    let authority = Authority::new();
    let server = server_with_tls(&authority).await;
    let valid = tls(&authority, &authority);
    let other = valid.clone().server_name("etcd.example");
    let message =
        assert_refused(read(server[0].endpoint(), Some(other)).await, ErrorKind::Unavailable);
    assert!(message.to_lowercase().contains("certificate"), "{message}");
    let local = valid.server_name("localhost");
    read(server[0].endpoint(), Some(local)).await.unwrap();
}
