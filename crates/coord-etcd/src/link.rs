//! One endpoint, and the link to it: the connections to the member, and the login.
//!
//! A link is created when it is first needed. tonic redials its connections after the member comes
//! back. The link is discarded when its login has expired, when the runtime that dialled it was
//! shut down, when a response did not arrive in time, because the connection may be dead, or when a
//! caller abandons a request that no connection has taken, because the connection may be full.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use coord_core::{Result, sync};
use etcd_client::{Channel, Client, ConnectOptions, KvClient, LeaseClient, WatchClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tonic::transport;
use tower::util::BoxCloneSyncService;

use crate::address::Address;
use crate::causes::root_cause;
use crate::config::ConfigError;
use crate::connections::Connections;
use crate::connector::Connector;
use crate::delivery::Tracked;
use crate::error::{Failure, RequestContext};
use crate::options::{Login, Options};
use crate::tls::Tls;

/// An endpoint: how its member is dialled, and the current link to the member.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The index of the endpoint in the list of endpoints.
    pub(crate) number: usize,
    /// The name of the endpoint in errors.
    pub(crate) name: String,
    /// Whether the connection is encrypted.
    pub(crate) encrypted: bool,
    source: ChannelSource,
    link: Mutex<Option<Arc<Link>>>,
    /// Locked while a link is created, so that concurrent requests wait for that link.
    dialing: AsyncMutex<()>,
}

/// Where the channel to a member comes from.
#[derive(Debug)]
enum ChannelSource {
    /// The channel is dialled.
    Dial(Box<transport::Endpoint>, Connector),
    /// The caller of `EtcdBuilder::over_channels` has opened the channel.
    Given(Channel),
}

/// The connections to a member and the login. The clients share both, and are cheap to clone.
pub(crate) struct Link {
    /// The number of the endpoint.
    pub(crate) endpoint: usize,
    pub(crate) kv: KvClient,
    pub(crate) lease: LeaseClient,
    pub(crate) watch: WatchClient,
    channel: Channel,
    login: Option<Login>,
    /// See [`kv_without_leader`](Self::kv_without_leader).
    kv_without_leader: OnceCell<KvClient>,
    /// Whether the member has responded over this link.
    has_responded: AtomicBool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The member at `address`. Dials nothing.
    pub(crate) fn network(
        number: usize,
        address: &str,
        options: &Options,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self> {
        let has_password = options.login.is_some();
        let Address { uri, encrypted, socket } =
            Address::parse(address, options.tls.is_some(), has_password)?;
        let malformed = |error: &(dyn std::error::Error + 'static)| {
            let reason = root_cause(error).to_string();
            ConfigError::Endpoint { endpoint: address.to_owned(), reason }
        };
        let uri: http::Uri = uri.parse().map_err(|error| malformed(&error))?;
        let endpoint = tonic_endpoint(&uri, options).map_err(|error| malformed(&error))?;
        let tls = match tls {
            Some(config) if encrypted => {
                let defaults = Tls::new();
                let name = options.tls.as_ref().unwrap_or(&defaults).name(uri.host().unwrap_or(""));
                let name = ServerName::try_from(name.to_owned()).map_err(|e| malformed(&e))?;
                Some((Arc::clone(config), name))
            }
            _ => None,
        };
        let connector = Connector::new(uri, socket, tls, options);
        let source = ChannelSource::Dial(Box::new(endpoint), connector);
        Ok(Self { encrypted, ..Self::new(number, address.to_owned(), source) })
    }

    /// The member behind a channel that the caller has opened.
    pub(crate) fn over_channel(number: usize, channel: Channel) -> Self {
        Self::new(number, format!("channel {number}"), ChannelSource::Given(channel))
    }

    fn new(number: usize, name: String, source: ChannelSource) -> Self {
        let (link, dialing) = (Mutex::default(), AsyncMutex::default());
        Self { number, name, encrypted: false, source, link, dialing }
    }

    /// The current link. Creates one if there is none. If that fails, only a login may have been
    /// sent.
    pub(crate) async fn link(&self, options: &Options) -> Result<Arc<Link>, Failure> {
        if let Some(link) = &*self.current() {
            return Ok(Arc::clone(link));
        }
        // Boxed, because every request has this future in its own, and few of them dial.
        Box::pin(self.make_link(options)).await
    }

    async fn make_link(&self, options: &Options) -> Result<Arc<Link>, Failure> {
        let _dialing = self.dialing.lock().await;
        // A concurrent request may have created the link meanwhile.
        if let Some(link) = &*self.current() {
            return Ok(Arc::clone(link));
        }
        let connected = match &self.source {
            ChannelSource::Given(channel) => Ok(channel.clone()),
            ChannelSource::Dial(endpoint, connector) => {
                dial(endpoint, connector, options.connections).await
            }
        };
        let channel = connected.map_err(|error| Failure::not_connected(&self.name, error))?;
        let channel = Channel::Custom(BoxCloneSyncService::new(Tracked::new(channel)));
        let link = Link::log_in(self.number, channel, options.login.clone()).await;
        let link = link.map_err(|error| {
            Failure::from_client(error, &RequestContext::default(), &self.name)
                .with_tls_hint(self.encrypted)
        })?;
        tracing::debug!(endpoint = self.name, "connected");
        let link = Arc::new(link);
        *self.current() = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Discards a link if it is the current one. Does not wait for a dial.
    pub(crate) fn discard(&self, link: &Arc<Link>) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            *current = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        sync::lock(&self.link)
    }
}

impl Link {
    /// Creates a link over a channel, and logs in.
    async fn log_in(
        endpoint: usize,
        channel: Channel,
        login: Option<Login>,
    ) -> Result<Self, etcd_client::Error> {
        // With `require_leader`, a member without a leader refuses a change at once, and the
        // outcome is known: not applied. Otherwise the change would time out with an unknown
        // outcome.
        let client = new_client(channel.clone(), login.as_ref(), true).await?;
        Ok(Self {
            endpoint,
            kv: without_size_limits(client.kv_client()),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(usize::MAX),
            channel,
            login,
            kv_without_leader: OnceCell::new(),
            has_responded: AtomicBool::new(false),
        })
    }

    /// Notes that the member has responded.
    pub(crate) fn note_response(&self) {
        self.has_responded.store(true, Ordering::Relaxed);
    }

    /// Whether the member has responded over this link.
    pub(crate) fn has_responded(&self) -> bool {
        self.has_responded.load(Ordering::Relaxed)
    }

    /// A client for serializable reads, which a member serves without a leader. It has a login of
    /// its own, created at the first call.
    pub(crate) async fn kv_without_leader(&self) -> Result<KvClient, etcd_client::Error> {
        let log_in = || async {
            let client = new_client(self.channel.clone(), self.login.as_ref(), false).await?;
            Ok(without_size_limits(client.kv_client()))
        };
        self.kv_without_leader.get_or_try_init(log_in).await.cloned()
    }
}

/// The TLS configuration; `None` if no TLS options are set and no endpoint is encrypted.
pub(crate) fn tls_config(options: &Options) -> Result<Option<Arc<ClientConfig>>> {
    let has_tls = options.tls.is_some();
    let mut is_needed = has_tls;
    for address in &options.endpoints {
        is_needed |= Address::parse(address, has_tls, options.login.is_some())?.encrypted;
    }
    if !is_needed {
        return Ok(None);
    }
    let config = options.tls.as_ref().map_or_else(|| Tls::new().config(), Tls::config)?;
    Ok(Some(Arc::new(config)))
}

/// Dials the first connection to a member. The channel dials further connections when they are
/// needed.
async fn dial(
    endpoint: &transport::Endpoint,
    connector: &Connector,
    connections: usize,
) -> Result<Channel, transport::Error> {
    let first = endpoint.connect_with_connector(connector.clone()).await?;
    let max_further = connections.saturating_sub(1);
    if max_further == 0 {
        return Ok(Channel::Tonic(first));
    }
    let (endpoint, connector) = (endpoint.clone(), connector.clone());
    let dial = move || {
        let (endpoint, connector) = (endpoint.clone(), connector.clone());
        async move { endpoint.connect_with_connector(connector).await }
    };
    let connections = Connections::new(first, max_further, dial);
    Ok(Channel::Custom(BoxCloneSyncService::new(connections)))
}

/// The client without tonic's size limits, because etcd does not limit responses.
fn without_size_limits(client: KvClient) -> KvClient {
    client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

/// A client of etcd-client over a channel, logged in if the cluster has authentication.
async fn new_client(
    channel: Channel,
    login: Option<&Login>,
    require_leader: bool,
) -> Result<Client, etcd_client::Error> {
    let options = ConnectOptions::new().with_require_leader(require_leader);
    let Some(Login { user, password }) = login else {
        return Client::from_channel(channel, Some(options)).await;
    };
    let with_login = options.clone().with_user(user, password).with_auto_token_refresh(true);
    match Client::from_channel(channel.clone(), Some(with_login)).await {
        // A cluster without authentication needs no login.
        Err(etcd_client::Error::GRpcStatus(status))
            if status.message() == "etcdserver: authentication is not enabled" =>
        {
            Client::from_channel(channel, Some(options)).await
        }
        result => result,
    }
}

/// tonic's configuration for a member. The connector encrypts the connection, so the address for
/// tonic is unencrypted, and the encrypted address is the origin of requests.
pub(crate) fn tonic_endpoint(
    uri: &http::Uri,
    options: &Options,
) -> Result<transport::Endpoint, transport::Error> {
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let endpoint = transport::Endpoint::from_shared(format!("http://{authority}"))?;
    Ok(endpoint
        .origin(uri.clone())
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.ping_interval)
        .keep_alive_timeout(options.ping_timeout)
        .keep_alive_while_idle(false))
}
