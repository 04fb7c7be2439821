//! The options of a connection to a cluster, and their defaults.
//!
//! The defaults suit a cluster in the same data centre. etcd ends a request after 7 s, so the
//! client waits as long. A member that accepts no connection within 2 s is skipped. HTTP/2 pings
//! detect a frozen member, but only while requests or watches are open: etcd closes a connection on
//! which it receives pings while the connection is idle, or more than one ping in 5 s. TCP
//! keep-alive covers idle connections.

use std::time::Duration;

use coord_core::kv::Limits;

use crate::tls::Tls;

/// The options of a connection to a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) endpoints: Vec<String>,
    pub(crate) login: Option<Login>,
    pub(crate) tls: Option<Tls>,
    pub(crate) connect_timeout: Duration,
    pub(crate) connect_within: Option<Duration>,
    pub(crate) request_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    pub(crate) limits: Limits,
    /// The largest number of connections to one member. `EtcdBackend::over` refuses 0.
    pub(crate) connections: usize,
}

impl Options {
    /// The defaults.
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            login: None,
            tls: None,
            connect_timeout: Duration::from_secs(2),
            connect_within: None,
            request_timeout: Duration::from_secs(7),
            ping_interval: Duration::from_secs(8),
            ping_timeout: Duration::from_secs(4),
            limits: Limits::default(),
            connections: 1,
        }
    }

    /// How long `connect` may take, all attempts included.
    pub(crate) fn connect_within(&self) -> Duration {
        self.connect_within.unwrap_or_else(|| self.request_timeout.max(self.connect_timeout))
    }
}

/// A user and a password. `Debug` does not print the password.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}
