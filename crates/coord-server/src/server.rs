//! The server: its builder, the accept loop, and graceful shutdown.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use coord_core::KvBackend;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connection;
use crate::services::{ServerLimits, Services};

/// How long the accept loop pauses after an error. Usually the process is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Configures a server and binds it to an address.
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
    /// The maximum size of a change in bytes, a transaction with all its operations included.
    /// Default: the limit of the backend, which is 1.5 MiB for most; a higher value than the
    /// backend's has no effect. Any message may have 512 KiB more than this.
    pub const fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.limits.request_bytes = bytes;
        self
    }

    /// The maximum number of concurrent calls and streams per connection; further ones wait.
    /// Default: 65,536.
    pub const fn max_streams(mut self, streams: u32) -> Self {
        self.limits.streams = streams;
        self
    }

    /// The maximum number of watches per stream; further ones are rejected in band. Default:
    /// 65,536.
    pub const fn max_watches_per_stream(mut self, watches: usize) -> Self {
        self.limits.watches = watches;
        self
    }

    /// How often a watch that requested it, and delivered nothing meanwhile, sends a progress
    /// notification. Default: every 10 min, as in etcd; at most every millisecond.
    pub const fn progress_interval(mut self, interval: Duration) -> Self {
        self.limits.progress_interval = interval;
        self
    }

    /// How long calls in progress may take after the server was stopped. Default: 5 s.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Listens on `address` only: `127.0.0.1:0` is a free port that only this machine can reach.
    /// Connections are accepted from now on, and served once [`serve_until`](Server::serve_until)
    /// is polled.
    ///
    /// # Errors
    /// Returns the system's error if the address is in use or not an address of this machine.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener.
    pub async fn bind(self, address: impl ToSocketAddrs + Send) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let services = self.services.serving(self.limits, Some(address));
        Ok(Server { listener, address, services, grace: self.grace })
    }
}

/// A server that listens, and serves while its future is polled.
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

    /// Serves until `stop` completes, then shuts down gracefully: no connection is accepted any
    /// more, watches and waiting lock calls end with the error `server stopped`, and other calls in
    /// progress are completed. Returns when all connections are closed, at the latest after
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
                // Closed connections leave the set.
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        disable_nagle(&socket);
                        connections.spawn(connection::serve(socket, self.services.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed");
                        sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
            }
        }
        drop(self.listener);
        self.services.stop();
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.grace, all_ended).await.is_err() {
            tracing::warn!(open = connections.len(), "grace period over: closing open connections");
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
