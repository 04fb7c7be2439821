//! Tests that the adapter accepts every kind of certificate that `etcdctl` accepts, one row per
//! kind.

use std::path::Path;

use coord_core::{Client, error::ErrorKind};
use coord_etcd::{EtcdBackend, Tls};
use coord_etcd_tests::{Authority, ClusterBuilder, Release};

use crate::support::{assert_refused, secs};

const CA: &str = include_str!("data/ca.pem");
const CA_TRUSTED: &str = include_str!("data/ca-trusted.pem");
const CLIENT_V1: [&str; 2] =
    [include_str!("data/client-v1.pem"), include_str!("data/client-v1.key")];
const SERVER_SHA512: [&str; 2] =
    [include_str!("data/server-sha512.pem"), include_str!("data/server-sha512.key")];

/// Asserts that a client with each of the TLS options connects to a server of this authority.
async fn assert_accepted(authority: &Authority, rows: &[(&str, Tls)]) {
    let server = ClusterBuilder::new(Release::newest()).authority(authority).start().await;
    for (name, tls) in rows {
        let builder = EtcdBackend::builder(server.endpoints()).tls(tls.clone());
        let kv = builder.connect().await.map(Client::new);
        let kv = kv.unwrap_or_else(|error| panic!("{name}: {error}"));
        kv.put("a", *name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// TLS options that trust `ca`, with the client certificate of `authority`.
fn tls_with_ca(ca: impl Into<Vec<u8>>, authority: &Authority) -> Tls {
    let (certificate, key) = &authority.client;
    Tls::new().ca(ca).identity(certificate.as_str(), key.as_str())
}

#[tokio::test]
async fn ca_file_of_each_kind_is_accepted() {
    let authority = Authority::new().trust_client_ca(CA);
    let good = &authority.certificate;
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let broken = CA.replace("MII", "AAA");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, good).unwrap();
    let (certificate, key) = &authority.client;
    let by_file = Tls::new().ca_file(&file).identity(certificate.as_str(), key.as_str());
    let [v1, v1_key] = CLIENT_V1;
    let rows = [
        ("a CA", tls_with_ca(good.as_str(), &authority)),
        ("a file", by_file),
        ("a leaf as its CA", tls_with_ca(authority.server_certificate(), &authority)),
        ("a byte order mark", tls_with_ca(format!("\u{feff}{good}"), &authority)),
        ("UTF-16", tls_with_ca([&[0xff, 0xfe], &utf16[..]].concat(), &authority)),
        ("a broken entry first", tls_with_ca(format!("{broken}{good}"), &authority)),
        ("X.509 v1 of a client", Tls::new().ca(good.as_str()).identity(v1, v1_key)),
    ];
    assert_accepted(&authority, &rows).await;
}

#[tokio::test]
async fn self_signed_server_certificate_is_its_own_ca() {
    let authority = Authority::new().self_signed_server();
    let own = tls_with_ca(authority.server_certificate(), &authority);
    assert_accepted(&authority, &[("self-signed", own.clone())]).await;

    // Only that certificate is trusted, and only for its own names.
    let server = ClusterBuilder::new(Release::newest()).authority(&authority).start().await;
    let another = Authority::new().self_signed_server();
    for (tls, reason) in [
        (tls_with_ca(another.server_certificate(), &authority), "configure the CA that issued it"),
        (
            tls_with_ca(authority.certificate.as_str(), &authority),
            "configure the CA that issued it",
        ),
        (own.server_name("etcd.example"), "not valid for name"),
    ] {
        let builder = EtcdBackend::builder(server.endpoints()).tls(tls);
        let message = assert_refused(builder.connect().await, ErrorKind::Unavailable);
        assert!(message.contains(reason), "{message}");
    }
}

#[tokio::test]
async fn p521_certificate_is_accepted() {
    let authority = Authority::p521();
    let tls = tls_with_ca(authority.certificate.as_str(), &authority);
    assert_accepted(&authority, &[("P-521", tls)]).await;
}

#[tokio::test]
async fn server_certificate_signed_with_sha512_is_accepted() {
    let [certificate, key] = SERVER_SHA512;
    let authority = Authority::new().server_identity(certificate, key);
    let rows = [
        ("ECDSA with SHA-512", tls_with_ca(CA, &authority)),
        ("TRUSTED CERTIFICATE", tls_with_ca(CA_TRUSTED, &authority)),
    ];
    assert_accepted(&authority, &rows).await;
}

/// The error names the file, the reason and the remedy.
#[tokio::test]
async fn unusable_certificate_is_named_with_the_reason() {
    let authority = Authority::new();
    let (certificate, key) = &authority.client;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let missing = folder.path().join("missing.pem");
    let ca = path("ca.pem", "nonsense");
    let client = path("client.pem", certificate);
    let other_key = path("other.key", &Authority::new().client.1);
    let locked = path("locked.key", &key.replace("PRIVATE", "ENCRYPTED PRIVATE"));
    let garbage = path("garbage.pem", &certificate.replace("MII", "AAA"));
    let own_key = path("client.key", key);
    let rows: [(Tls, &Path, &str); 7] = [
        (Tls::new().ca_file(&missing), &missing, "No such file"),
        (Tls::new().ca_file(&ca), &ca, "no certificate"),
        (Tls::new().identity_files(&missing, &other_key), &missing, "No such file"),
        (Tls::new().identity_files(&other_key, &other_key), &other_key, "only PRIVATE KEY"),
        (Tls::new().identity_files(&garbage, &own_key), &garbage, "not a certificate"),
        (Tls::new().identity_files(&client, &other_key), &other_key, "belong together"),
        (Tls::new().identity_files(&client, &locked), &locked, "openssl pkey"),
    ];
    for (tls, file, reason) in rows {
        let builder = EtcdBackend::builder(["https://127.0.0.1:1"]).tls(tls);
        let message =
            assert_refused(builder.connect_within(secs(1)).connect().await, ErrorKind::Backend);
        assert!(message.contains(&file.display().to_string()), "{message}");
        assert!(message.contains(reason), "{message}");
    }
}
