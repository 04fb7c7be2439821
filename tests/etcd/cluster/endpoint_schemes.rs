//! Tests of endpoint schemes: how each scheme is dialled, and which schemes are rejected.

use std::io::ErrorKind::WouldBlock;
use std::net::TcpListener;
use std::path::Path;

use coord_core::{Client, Error, error::ErrorKind};
use coord_etcd::{ConfigError, EtcdBackend, Tls};
use coord_etcd_tests::test_server::TestServer;
use coord_etcd_tests::{Authority, ClusterBuilder, Release};
use coord_mem::MemBackend;
use coord_server::Server;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;

use crate::support::assert_refused;

/// Forwards connections from a Unix socket to the server at a URL, until the task set is dropped.
fn forward(socket: &Path, url: &str) -> JoinSet<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let server = url.split_once("://").unwrap().1.to_owned();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let server = server.clone();
            open.spawn(async move {
                let mut server = TcpStream::connect(server).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    accepting
}

fn tls(authority: &Authority) -> Tls {
    let (certificate, key) = &authority.client;
    Tls::new().ca(authority.certificate.as_str()).identity(certificate.as_str(), key.as_str())
}

#[tokio::test]
async fn unknown_scheme_is_refused_before_dialling() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Authority::new();
    for scheme in ["htps", "tls", "grpcs", "etcd"] {
        let endpoint = format!("{scheme}://{address}");
        let builder = EtcdBackend::builder([&endpoint]).tls(tls(&authority)).login("a", "secret");
        let error = builder.connect().await.unwrap_err();
        let Error::Backend { source, .. } = &error else { panic!("{error:?}") };
        let config = source.downcast_ref::<ConfigError>();
        assert!(matches!(config, Some(ConfigError::Scheme { .. })), "{error}");
        let message = assert_refused::<()>(Err(error), ErrorKind::Backend);
        assert!(message.contains(&endpoint) && message.contains("https"), "{message}");
    }
    let endpoint = format!("http://{address}");
    let builder = EtcdBackend::builder([&endpoint]).tls(tls(&authority)).login("a", "secret");
    let message = assert_refused(builder.connect().await, ErrorKind::Backend);
    assert!(message.contains(&endpoint) && message.contains("clear text"), "{message}");
    let dialled = listener.accept().unwrap_err();
    assert_eq!(dialled.kind(), WouldBlock);
}

#[tokio::test]
async fn scheme_in_capitals_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let store = TestServer::start(Server::builder(MemBackend::new())).await;
    let socket = folder.path().join("plain");
    let _forwarding = forward(&socket, store.endpoint());
    let capitals = store.endpoint().replace("http", "HTTP");
    let socket = socket.display();
    for endpoint in [capitals, format!("UNIX://{socket}"), format!("unix:{socket}")] {
        let kv = Client::new(EtcdBackend::connect([&endpoint]).await.unwrap());
        kv.put("a", endpoint).await.unwrap();
    }

    let authority = Authority::new();
    let cluster = ClusterBuilder::new(Release::newest()).authority(&authority).start().await;
    let socket = folder.path().join("encrypted");
    let _forwarding = forward(&socket, cluster[0].endpoint());
    let capitals = cluster[0].endpoint().replace("https", "HTTPS");
    let socket = socket.display();
    for endpoint in [capitals, format!("unixs://{socket}"), format!("UNIXS:{socket}")] {
        let builder = EtcdBackend::builder([&endpoint]).tls(tls(&authority));
        let kv = Client::new(builder.connect().await.unwrap());
        kv.put("a", endpoint).await.unwrap();
    }
}
