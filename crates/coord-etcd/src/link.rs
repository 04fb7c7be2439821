//! One endpoint, and the link to it: the connections to the member, and the login.
//!
//! A link is made when it is first needed. tonic redials its connections after the member comes
//! back. The link is discarded when its login has expired, or when a response did not arrive in
//! time and the connection may be dead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coord_core::Result;
use etcd_client::{Channel, Client, ConnectOptions, KvClient, LeaseClient, WatchClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tonic::transport;
use tower::util::BoxCloneSyncService;

use crate::address::Address;
use crate::causes::root;
use crate::config::ConfigError;
use crate::connections::Connections;
use crate::connector::Connector;
use crate::delivery::Tracked;
use crate::error::{Failure, RequestContext};
use crate::options::{Login, Options};
use crate::tls::Tls;

/// A member of the cluster.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Its index in the list of endpoints.
    pub(crate) number: usize,
    /// Its name in errors.
    pub(crate) name: String,
    /// Whether the connection is encrypted.
    pub(crate) encrypted: bool,
    dial: Dial,
    link: Mutex<Option<Arc<Link>>>,
    /// Held while a link is made, so that concurrent requests wait for that link.
    dialing: AsyncMutex<()>,
}

/// How to get a channel to a member.
#[derive(Debug)]
enum Dial {
    Network(Box<transport::Endpoint>, Connector),
    Channel(Channel),
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
    local: OnceCell<KvClient>,
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
            let reason = root(error).to_string();
            ConfigError::Endpoint { endpoint: address.to_owned(), reason }
        };
        let uri: http::Uri = uri.parse().map_err(|error| malformed(&error))?;
        let endpoint = configured(&uri, options).map_err(|error| malformed(&error))?;
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
        let dial = Dial::Network(Box::new(endpoint), connector);
        Ok(Self { encrypted, ..Self::new(number, address.to_owned(), dial) })
    }

    /// The member behind a channel that the caller has made.
    pub(crate) fn over_channel(number: usize, channel: Channel) -> Self {
        Self::new(number, format!("channel {number}"), Dial::Channel(channel))
    }

    fn new(number: usize, name: String, dial: Dial) -> Self {
        let (link, dialing) = (Mutex::default(), AsyncMutex::default());
        Self { number, name, encrypted: false, dial, link, dialing }
    }

    /// The link. Makes it if there is none. If that fails, no request was sent.
    pub(crate) async fn link(&self, options: &Options) -> Result<Arc<Link>, Failure> {
        if let Some(link) = &*self.current() {
            return Ok(Arc::clone(link));
        }
        // Boxed, because every request has this future in its own, and few of them dial.
        Box::pin(self.make_link(options)).await
    }

    async fn make_link(&self, options: &Options) -> Result<Arc<Link>, Failure> {
        let _dialing = self.dialing.lock().await;
        // A concurrent request may have made it meanwhile.
        if let Some(link) = &*self.current() {
            return Ok(Arc::clone(link));
        }
        let connected = match &self.dial {
            Dial::Channel(channel) => Ok(channel.clone()),
            Dial::Network(endpoint, connector) => {
                dial(endpoint, connector, options.connections).await
            }
        };
        let channel = connected.map_err(|error| Failure::not_connected(&self.name, error))?;
        let channel = Channel::Custom(BoxCloneSyncService::new(Tracked::new(channel)));
        let link = Link::log_in(self.number, channel, options.login.clone()).await;
        let link = link.map_err(|error| {
            Failure::from_client(error, &RequestContext::default(), &self.name)
                .at_first(self.encrypted)
        })?;
        tracing::debug!(endpoint = self.name, "connected");
        let link = Arc::new(link);
        *self.current() = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Discards a link, unless it is no longer the current one. Does not wait for a dial.
    pub(crate) fn discard(&self, link: &Arc<Link>) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            *current = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    async fn log_in(
        endpoint: usize,
        channel: Channel,
        login: Option<Login>,
    ) -> Result<Self, etcd_client::Error> {
        // A member without a leader then refuses a change at once, and the outcome is known: not
        // applied. Otherwise the change would time out with an unknown outcome.
        let client = client(channel.clone(), login.as_ref(), true).await?;
        Ok(Self {
            endpoint,
            kv: unlimited(client.kv_client()),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(usize::MAX),
            channel,
            login,
            local: OnceCell::new(),
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

    /// A client for serializable reads, which a member serves without a leader.
    pub(crate) async fn local(&self) -> Result<KvClient, etcd_client::Error> {
        let make = || async {
            let client = client(self.channel.clone(), self.login.as_ref(), false).await?;
            Ok(unlimited(client.kv_client()))
        };
        self.local.get_or_try_init(make).await.cloned()
    }
}

/// The TLS configuration, if one was given or an endpoint needs one.
pub(crate) fn tls(options: &Options) -> Result<Option<Arc<ClientConfig>>> {
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

/// Dials the first connection to a member; the channel dials the others when they are needed.
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

/// Lifts tonic's limits: etcd has no limit for responses.
fn unlimited(client: KvClient) -> KvClient {
    client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

async fn client(
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

/// The configuration of tonic for a member. The connector encrypts, so tonic gets an unencrypted
/// address, with the encrypted one as the origin of requests.
pub(crate) fn configured(
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
