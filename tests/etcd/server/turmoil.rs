//! etcd-client in the network simulator turmoil, against coord's server on a simulated host.
//!
//! The simulator of `coord-testkit` replaces the network between a `Client` and the store. To
//! simulate the other I/O of a service too, or a program that uses etcd-client, run the server of
//! `coord serve` on a host of turmoil: the server accepts any stream of bytes as a connection.

use std::io;
use std::time::Duration;

use coord_mem::MemBackend;
use coord_server::Server;
use etcd_client::{Channel, Client};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream};

const STORE: &str = "store";
const PORT: u16 = 2379;

/// The software of the host `store`: accepts connections, and serves them.
async fn serve(backend: MemBackend) -> turmoil::Result {
    let server = Server::builder(backend).without_listener();
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    // Owns the connections: a crash of the host closes them.
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        let server = server.clone();
        connections.spawn(async move { server.serve_connection(socket).await });
    }
}

/// A client of the host `store`, whose connection crosses the simulated network.
fn connect() -> impl Future<Output = Result<Client, etcd_client::Error>> {
    let dial = service_fn(|_: Uri| async {
        Ok::<_, io::Error>(TokioIo::new(TcpStream::connect((STORE, PORT)).await?))
    });
    let channel = Endpoint::from_static("http://store:2379").connect_with_connector_lazy(dial);
    Client::from_channel(Channel::Tonic(channel), None)
}

#[test]
fn request_succeeds_after_a_simulated_partition_is_healed() {
    let backend = MemBackend::new();
    let mut sim = turmoil::Builder::new().simulation_duration(Duration::from_secs(120)).build();
    sim.host(STORE, move || serve(backend.clone()));
    sim.client("app", async {
        let mut client = connect().await?;
        client.put("hello", "world", None).await?;

        turmoil::partition("app", STORE);
        let put = timeout(Duration::from_secs(5), client.put("hello", "again", None)).await;
        assert!(put.is_err(), "{put:?}");

        turmoil::repair("app", STORE);
        let mut client = connect().await?;
        assert_eq!(client.get("hello", None).await?.kvs()[0].value(), b"world");
        Ok(())
    });
    sim.run().unwrap();
}
