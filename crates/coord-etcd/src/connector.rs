//! The connector: dials a member over TCP or a Unix socket, encrypts the connection if the endpoint
//! requires TLS, and coalesces its writes.
//!
//! The connector encrypts, and not tonic, because tonic supports neither a server certificate that
//! is trusted by itself nor every format of a client certificate.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service, ServiceExt as _};

use crate::coalesce::Coalescing;
use crate::options::Options;

/// A byte stream to a member, encrypted or not.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// Dials one member.
#[derive(Clone)]
pub(crate) struct Connector {
    uri: Uri,
    /// The path of the Unix socket; `None` for TCP.
    path: Option<String>,
    /// The TLS configuration, and the name to expect in the server's certificate; `None` without
    /// encryption.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    tcp: HttpConnector,
}

impl Connector {
    pub(crate) fn new(
        uri: Uri,
        path: Option<String>,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        options: &Options,
    ) -> Self {
        let mut tcp = HttpConnector::new();
        // `enforce_http` would refuse the scheme `https`.
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(options.connect_timeout));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(options.ping_interval));
        tcp.set_keepalive_interval(Some(options.ping_timeout));
        tcp.set_keepalive_retries(Some(2));
        Self { uri, path, tls, tcp }
    }

    async fn connect(self) -> Result<Box<dyn Socket>, BoxError> {
        match &self.path {
            Some(path) => {
                let socket = open_socket(path).await?;
                self.encrypt(socket).await
            }
            None => {
                let socket = self.tcp.clone().oneshot(self.uri.clone()).await?.into_inner();
                self.encrypt(socket).await
            }
        }
    }

    /// Wraps the socket in TLS if that is configured, and then in write coalescing: the handshake
    /// is not coalesced.
    async fn encrypt(self, socket: impl Socket + 'static) -> Result<Box<dyn Socket>, BoxError> {
        let Some((config, name)) = self.tls else { return Ok(Box::new(Coalescing::new(socket))) };
        let encrypted = TlsConnector::from(config).connect(name, socket).await?;
        if encrypted.get_ref().1.alpn_protocol() != Some(b"h2") {
            let reason = "the server accepts TLS, but not HTTP/2 over it, so it is not etcd: check \
                 the address of the endpoint";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason).into());
        }
        Ok(Box::new(Coalescing::new(encrypted)))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Socket>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    /// Dials the member of this connector. The argument from tonic is the same address.
    fn call(&mut self, _: Uri) -> Self::Future {
        self.clone().connect().map(|socket| socket.map(TokioIo::new)).boxed()
    }
}

#[cfg(unix)]
async fn open_socket(path: &str) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(path).await
}

#[cfg(not(unix))]
async fn open_socket(_: &str) -> io::Result<tokio::net::TcpStream> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("uri", &self.uri).field("path", &self.path).finish()
    }
}
