//! The server: its builder, the accept loop, and graceful shutdown.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use coord_core::KvBackend;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connection;
use crate::services::{ServerLimits, Services};

/// How long the accept loop pauses after an error. Usually the process is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The builder of a [`Server`]: its limits, and the address that it listens on.
///
/// The size of responses is not limited, as in etcd.
#[derive(Debug)]
#[must_use = "call `bind` to start listening"]
pub struct ServerBuilder {
    services: Services,
    limits: ServerLimits,
    grace: Duration,
}

impl ServerBuilder {
    /// The maximum size of a change in bytes, for a transaction with all its operations. Default:
    /// the limit of the backend, 1.5 MiB for most. A value above the backend's limit does not
    /// permit larger changes. Any message may be 512 KiB larger than this value.
    pub const fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.limits.request_bytes = bytes;
        self
    }

    /// The maximum number of concurrent calls and streams per connection. Further calls wait.
    /// Default: 65,536.
    pub const fn max_streams(mut self, streams: u32) -> Self {
        self.limits.streams = streams;
        self
    }

    /// The maximum number of watches per stream. Further watches are rejected in band. Default:
    /// 65,536.
    pub const fn max_watches_per_stream(mut self, watches: usize) -> Self {
        self.limits.watches = watches;
        self
    }

    /// The interval of progress notifications for a watch that requested them and had no events
    /// during the interval. Default: 10 min, as in etcd. Minimum: 1 ms.
    pub const fn progress_interval(mut self, interval: Duration) -> Self {
        self.limits.progress_interval = interval;
        self
    }

    /// The grace period: how long calls in progress may take after the server was stopped.
    /// Default: 5 s.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Binds the server to `address` only. `127.0.0.1:0` is a free port that only this machine can
    /// reach. From now on clients can connect, and the server serves them once
    /// [`serve_until`](Server::serve_until) is polled.
    ///
    /// # Errors
    /// The system's error if the address is in use, or not an address of this machine.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener.
    pub async fn bind(self, address: impl ToSocketAddrs + Send) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let services = self.services.with_limits(self.limits, Some(address));
        Ok(Server { listener, address, services, grace: self.grace })
    }

    /// A server without a listener: the caller accepts the connections, for example on the network
    /// of a simulator.
    pub fn without_listener(self) -> ConnectionServer {
        ConnectionServer { services: self.services.with_limits(self.limits, None) }
    }
}

/// A server that serves the connections that it is given. Clones share the backend and all state.
///
/// ```
/// use coord_mem::MemBackend;
/// use coord_server::Server;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let server = Server::builder(MemBackend::new()).without_listener();
/// let (mut client, io) = duplex(64 * 1024);
/// let request = async {
///     client.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
///     let mut response = String::new();
///     client.read_to_string(&mut response).await?;
///     Ok::<_, std::io::Error>(response)
/// };
/// let ((), response) = tokio::join!(server.serve_connection(io), request);
/// assert!(response?.ends_with(r#"{"health":"true","reason":""}"#));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConnectionServer {
    services: Services,
}

impl ConnectionServer {
    /// Serves one connection until the client closes it. Any stream of bytes will do.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn serve_connection(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        connection::serve(io, self.services.clone()).await;
    }
}

impl fmt::Debug for ConnectionServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionServer").finish_non_exhaustive()
    }
}

/// A server that is bound to an address, and serves while [`serve_until`](Self::serve_until) is
/// polled.
#[must_use = "call `serve_until` to serve"]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    services: Services,
    grace: Duration,
}

impl Server {
    /// Configures a server for `backend`.
    pub fn builder(backend: impl KvBackend) -> ServerBuilder {
        let services = Services::new(backend);
        let limits = services.limits();
        ServerBuilder { services, limits, grace: Duration::from_secs(5) }
    }

    /// The address that the server listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` completes, then shuts down gracefully.
    ///
    /// During the shutdown the server accepts no connection, ends streams and waiting Lock and
    /// Campaign calls with the error `server stopped`, and completes other calls in progress.
    /// Returns when all connections are closed, at the latest after
    /// [`grace`](ServerBuilder::grace).
    ///
    /// # Cancel safety
    /// Dropping the future stops the server immediately and closes all connections.
    pub async fn serve_until(self, stop: impl Future<Output = ()> + Send) {
        // Owns the connections, so that dropping the server drops them.
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                // Removes a closed connection from the set.
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        disable_nagle(&socket);
                        connections.spawn(connection::serve(socket, self.services.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error,
                            next = format_args!("retrying in {ACCEPT_RETRY_DELAY:?}"),
                            "accepting a connection failed");
                        sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
            }
        }
        drop(self.listener);
        self.services.stop();
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.grace, all_ended).await.is_err() {
            let open = connections.len();
            tracing::warn!(open, "grace period has passed: closing open connections");
        }
    }
}

/// Disables Nagle's algorithm, so that a small response is not delayed.
fn disable_nagle(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY failed");
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}
