//! What can be chosen about a connection to a cluster.
//!
//! The defaults are for a cluster in the same data centre. etcd itself gives up on a request after
//! seven seconds, so that is how long an answer is waited for; a member that accepts no connection
//! within two is passed over. HTTP/2 pings find a member that froze, but only while requests or
//! watches are open, for etcd counts pings on an idle connection as abuse and cuts it; below five
//! seconds it counts them as abuse too. Idle connections are left to TCP's own keep-alive.

use std::time::Duration;

use coord_core::Limits;

use crate::tls::Tls;

/// Everything that can be chosen about a connection.
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
    /// The largest number of connections to one member. Not 0 once a link is made.
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
            connections: 2,
        }
    }

    /// How long a connect may take, all in all.
    pub(crate) fn connect_within(&self) -> Duration {
        self.connect_within.unwrap_or_else(|| self.request_timeout.max(self.connect_timeout))
    }
}

/// A user and a password, which is never printed.
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
