//! A gRPC proxy with limits. It forwards single requests between two HTTP/2 connections, like nginx
//! and Envoy.
//!
//! The proxy acknowledges the pings of a client itself, so a client cannot detect by pings that the
//! server behind the proxy is paused. When the server is unreachable, the response has HTTP status
//! 502.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderValue};
use tonic::codegen::http::{Request, Response, StatusCode};
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt as _;

/// The limits of a proxy.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "tests construct it")]
pub struct Limits {
    /// The number of requests after which the proxy ends a connection with GOAWAY, like nginx's
    /// `keepalive_requests`.
    pub requests_per_connection: Option<usize>,
    /// The maximum number of concurrent streams of a connection.
    pub streams_per_connection: Option<u32>,
}

/// A proxy on a port of this machine. Dropping it closes its connections.
#[derive(Debug)]
#[must_use = "the proxy stops when it is dropped"]
pub struct Proxy {
    endpoint: String,
    connections: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Starts a proxy in front of the server at `target`.
    ///
    /// # Panics
    /// If there is no free port, or `target` is not a URL.
    pub async fn start(target: &str, limits: Limits) -> Self {
        let target = Endpoint::new(target.to_owned()).expect("`target` is a URL");
        let target = target.connect_timeout(Duration::from_secs(1));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the machine has free ports");
        let endpoint = format!("http://{}", listener.local_addr().expect("the listener is bound"));
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(socket, target.connect_lazy(), limits));
            }
        });
        Self { endpoint, connections, _accepting: accepting }
    }

    /// The URL of the proxy.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The number of connections that the proxy has accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(socket: TcpStream, target: Channel, limits: Limits) -> hyper::Result<()> {
    let requests = Arc::new(AtomicUsize::new(0));
    let limit_reached = Arc::new(Notify::new());
    let reached = Arc::clone(&limit_reached);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
        if limits.requests_per_connection.is_some_and(|limit| number == limit) {
            reached.notify_one();
        }
        forward(target.clone(), request)
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(limits.streams_per_connection);
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = limit_reached.notified() => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

async fn forward(target: Channel, request: Request<Incoming>) -> io::Result<Response<Body>> {
    match target.oneshot(request.map(Body::new)).await {
        Ok(response) => Ok(response),
        Err(_) => {
            let mut page = Response::new(Body::new("<html>502 Bad Gateway</html>".to_owned()));
            *page.status_mut() = StatusCode::BAD_GATEWAY;
            page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            Ok(page)
        }
    }
}
