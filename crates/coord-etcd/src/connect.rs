//! The builder of an `EtcdBackend`: endpoints, login, TLS, timeouts and connections.

use std::time::Duration;

use coord_core::{Result, kv::Limits};

use crate::EtcdBackend;
use crate::link::Endpoint;
use crate::options::{Login, Options};
use crate::tls::Tls;

/// The builder of an [`EtcdBackend`]. Created by [`EtcdBackend::builder`].
///
/// ```
/// use coord_etcd::{EtcdBackend, Tls};
/// use std::time::Duration;
///
/// # async fn connect(ca: &[u8], certificate: &[u8], key: &[u8]) -> coord_core::Result<()> {
/// let etcd = EtcdBackend::builder(["https://a.example:2379", "https://b.example:2379"])
///     .tls(Tls::new().ca(ca).identity(certificate, key))
///     .login("app", "secret")
///     .request_timeout(Duration::from_secs(3))
///     .connect()
///     .await?;
/// # let _ = etcd;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is connected before `connect`"]
pub struct EtcdBuilder {
    pub(crate) options: Options,
}

impl EtcdBuilder {
    pub(crate) fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self { options: Options::new(endpoints.into_iter().map(Into::into).collect()) }
    }

    /// Logs in with a user and a password, and again when the login has expired.
    ///
    /// A cluster without authentication ignores the login.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.options.login = Some(Login { user: user.into(), password: password.into() });
        self
    }

    /// Configures TLS. Endpoints without a scheme are then `https`.
    ///
    /// Without this call, `https` endpoints are verified against the system's CAs.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.options.tls = Some(tls);
        self
    }

    /// Sets how long a member may take to accept a connection. Default: 2 s.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = cap(timeout);
        self
    }

    /// Sets how long [`connect`](Self::connect) may take, for all endpoints and attempts. Default:
    /// the longer of the connect timeout and the request timeout, 7 s.
    ///
    /// Until then `connect` redials, because the store may be about to start or to elect a leader.
    pub const fn connect_within(mut self, timeout: Duration) -> Self {
        self.options.connect_within = Some(cap(timeout));
        self
    }

    /// Sets how long a request may take, for attempts at all members. Default: 7 s. A registration
    /// of a watch may take three times as long. A registered watch has no such limit.
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = cap(timeout);
        self
    }

    /// Sets the interval of HTTP/2 pings (the keep-alive of gRPC), and the timeout of their
    /// acknowledgement. Default: 8 s and 4 s.
    ///
    /// A member is pinged while a request or a stream is open. A frozen member is detected after
    /// the sum of both durations. etcd closes connections that ping more often than its
    /// `--grpc-keepalive-min-time`, 5 s by default.
    pub const fn ping(mut self, interval: Duration, timeout: Duration) -> Self {
        self.options.ping_interval = cap(interval);
        self.options.ping_timeout = cap(timeout);
        self
    }

    /// Sets the largest number of connections to one member. Default: 1.
    ///
    /// All requests and streams share one connection. With a greater number, another connection is
    /// dialled in the background when every open one has four requests in flight, up to that
    /// number. On two cores this gains nothing (`docs/decisions/0014-connections.md`); it may help
    /// a client with many concurrent requests on a larger machine. The setting has no effect on
    /// channels from [`over_channels`](Self::over_channels).
    ///
    /// [`connect`](Self::connect) and [`over_channels`](Self::over_channels) refuse 0 with
    /// [`ConfigError::Connections`](crate::ConfigError::Connections).
    ///
    /// ```
    /// use coord_etcd::{ConfigError, EtcdBackend};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let builder = EtcdBackend::builder(["a.example:2379"]).connections(0);
    /// let error = builder.connect().await.unwrap_err();
    /// let coord_core::Error::Backend { source, .. } = error else { panic!("{error}") };
    /// assert!(matches!(source.downcast_ref(), Some(ConfigError::Connections { .. })));
    /// # }
    /// ```
    pub const fn connections(mut self, max: usize) -> Self {
        self.options.connections = max;
        self
    }

    /// Sets the limits of the store, if its `--max-txn-ops` or `--max-request-bytes` differ from
    /// etcd's defaults.
    ///
    /// The client refuses a transaction with more operations before it is sent. The store checks
    /// sizes.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// Connects to the first endpoint that responds, in the given order.
    ///
    /// The other endpoints are dialled when they are needed. While no endpoint accepts a
    /// connection, and while the members elect a leader, `connect` retries within the time of
    /// [`connect_within`](Self::connect_within).
    ///
    /// # Errors
    /// - `Unavailable` when no endpoint can be reached. The message names every endpoint.
    /// - `Timeout` when no endpoint responds in time, although one accepts the connection and the
    ///   login.
    /// - `Unauthenticated` when the login is wrong or missing.
    /// - `Backend` before anything is dialled: when there is no endpoint, or with a
    ///   [`ConfigError`](crate::ConfigError) as its source when a setting cannot be used.
    /// - `Backend` when the server at an endpoint is not etcd, and no other endpoint responds.
    ///
    /// The outcome is `NotApplied`, except that of `Timeout`, which is always `Unknown`. `connect`
    /// changes nothing in the store.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn connect(self) -> Result<EtcdBackend> {
        EtcdBackend::open(self.options).await
    }

    /// Builds a backend over channels that the caller has opened, one for each member, in place of
    /// endpoints.
    ///
    /// A channel may lead to services in the same process, so the whole adapter can be tested
    /// without sockets, on a paused clock. No request is sent before the first call.
    ///
    /// # Errors
    /// `Backend` when there is no channel, or with a [`ConfigError`](crate::ConfigError) as its
    /// source when a setting cannot be used.
    pub fn over_channels(
        self,
        channels: impl IntoIterator<Item = etcd_client::Channel>,
    ) -> Result<EtcdBackend> {
        let members = channels.into_iter().enumerate();
        let members =
            members.map(|(number, channel)| Endpoint::over_channel(number, channel)).collect();
        EtcdBackend::over(members, self.options)
    }
}

/// Limits a duration to 100 years, because adding a longer one to the current time can overflow.
const fn cap(duration: Duration) -> Duration {
    const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    if duration.as_secs() < MAX.as_secs() { duration } else { MAX }
}
