//! Certificates, of the server and of the client.

use coord_core::{Client, error::ErrorKind, kv::Watch};
use coord_etcd::{EtcdBackend, Tls};
use coord_etcd_tests::{Authority, Cluster, Release, Setup};
use tokio::time::timeout;

use crate::support::{refused, secs};

async fn with_certificates(authority: &Authority) -> Cluster {
    Setup::new(Release::newest()).authority(authority).start().await
}

/// Trusts the one authority, and shows a certificate of the other.
fn tls(trusted: &Authority, shown: &Authority) -> Tls {
    let (certificate, key) = &shown.client;
    Tls::new().ca(trusted.certificate.as_str()).identity(certificate.as_str(), key.as_str())
}

/// Connects with these certificates, and reads.
async fn read(endpoint: &str, tls: Option<Tls>) -> coord_core::Result<()> {
    let builder = EtcdBackend::builder([endpoint]).request_timeout(secs(10));
    let builder = if let Some(tls) = tls { builder.tls(tls) } else { builder };
    let reading = async { Client::new(builder.connect().await?).get("a").await.map(drop) };
    timeout(secs(30), reading).await.expect("an answer in time")
}

#[tokio::test]
async fn right_certificates_open_calls_and_watches() {
    let authority = Authority::new();
    let server = with_certificates(&authority).await;
    let builder = EtcdBackend::builder(server.endpoints()).tls(tls(&authority, &authority));
    let kv = Client::new(builder.connect().await.unwrap());
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    let put = kv.put("a", "1").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, put.header.revision);
}

#[tokio::test]
async fn server_of_an_unknown_authority_is_refused_with_the_reason() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = with_certificates(&authority).await;
    let read = read(server[0].endpoint(), Some(tls(&other, &authority))).await;
    let said = refused(read, ErrorKind::Unavailable).to_lowercase();
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test]
async fn client_of_an_unknown_authority_is_refused_by_the_server() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = with_certificates(&authority).await;
    refused(
        read(server[0].endpoint(), Some(tls(&authority, &other))).await,
        ErrorKind::Unavailable,
    );
}

#[tokio::test]
async fn client_without_a_certificate_is_refused_with_the_reason() {
    let authority = Authority::new();
    let server = with_certificates(&authority).await;
    let nameless = Tls::new().ca(authority.certificate.as_str());
    let said = refused(read(server[0].endpoint(), Some(nameless)).await, ErrorKind::Unavailable);
    assert!(said.to_lowercase().contains("certificate"), "{said}");
}

#[tokio::test]
async fn plain_text_to_a_server_with_tls_is_refused() {
    let authority = Authority::new();
    let server = with_certificates(&authority).await;
    let plain = server[0].endpoint().replace("https", "http");
    refused(read(&plain, None).await, ErrorKind::Unavailable);
}

#[tokio::test]
async fn name_that_is_not_in_the_certificate_is_refused() {
    let authority = Authority::new();
    let server = with_certificates(&authority).await;
    let named = tls(&authority, &authority);
    let other = named.clone().server_name("etcd.example");
    let said = refused(read(server[0].endpoint(), Some(other)).await, ErrorKind::Unavailable);
    assert!(said.to_lowercase().contains("certificate"), "{said}");
    let local = named.server_name("localhost");
    read(server[0].endpoint(), Some(local)).await.unwrap();
}
