//! Listening, serving, and stopping.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use coord_core::KvBackend;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connection;
use crate::services::{Limits, Services};

/// How long to leave a listener alone that could not accept: it is out of files, as a rule.
const PAUSE: Duration = Duration::from_millis(100);

/// Chooses what a server takes, and starts it.
///
/// What a server answers is not limited, as it is not by etcd.
#[derive(Debug)]
#[must_use = "call `bind` to have the server"]
pub struct ServerBuilder {
    services: Services,
    limits: Limits,
    grace: Duration,
}

impl ServerBuilder {
    /// How many bytes a change may have, a transaction with all its steps. The backend's own limit
    /// unless set, which is 1.5 MiB for most; more than the backend takes cannot be had. A message
    /// of any kind may have 512 KiB more.
    pub const fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.limits.request_bytes = bytes;
        self
    }

    /// How many calls and streams a connection may have open at a time; further ones wait. 65,536
    /// unless set.
    pub const fn max_streams(mut self, streams: u32) -> Self {
        self.limits.streams = streams;
        self
    }

    /// How many watches may share a stream; further ones are refused, in band. 65,536 unless set.
    pub const fn max_watches_per_stream(mut self, watches: usize) -> Self {
        self.limits.watches = watches;
        self
    }

    /// How often a watch that hears nothing is told how far the store has come, if it wants that:
    /// every ten minutes unless set, as etcd does, and every millisecond at the most.
    pub const fn progress_interval(mut self, interval: Duration) -> Self {
        self.limits.progress_interval = interval;
        self
    }

    /// How long calls that are under way may take after the server is stopped. 5 s unless set.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Listens on `address`, and nowhere else: `127.0.0.1:0` is a free port that only this machine
    /// can reach. Connections are accepted from now on, and answered once the server serves.
    ///
    /// # Errors
    /// What the system says: the address is taken, or not of this machine.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn bind(self, address: impl ToSocketAddrs + Send) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let services = self.services.serving(self.limits, Some(address));
        Ok(Server { listener, address, services, grace: self.grace })
    }
}

/// A server that listens, and serves while its future is polled.
#[must_use = "call `serve_until` to have it serve"]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    services: Services,
    grace: Duration,
}

impl Server {
    /// A server for `backend`.
    pub fn builder(backend: impl KvBackend) -> ServerBuilder {
        let services = Services::new(backend);
        let limits = services.limits();
        ServerBuilder { services, limits, grace: Duration::from_secs(5) }
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is done, then stops: nobody new is let in, watches and whoever waits for
    /// a lock are told `server stopped`, calls under way are answered, and then it returns, at the
    /// latest after the [`grace`](ServerBuilder::grace).
    ///
    /// # Cancel safety
    /// Dropping the future stops the server at once, and closes all connections.
    pub async fn serve_until(self, stop: impl Future<Output = ()> + Send) {
        // Owns the connections: whoever drops the server drops them.
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                // Those that have ended make room.
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        prepare(&socket);
                        connections.spawn(connection::serve(socket, self.services.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        sleep(PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        self.services.stop();
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.grace, all_ended).await.is_err() {
            tracing::warn!(left = connections.len(), "connections are cut off");
        }
    }
}

/// Small answers are not to wait for others.
fn prepare(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a socket without TCP_NODELAY");
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}
