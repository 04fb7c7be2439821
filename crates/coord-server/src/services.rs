//! Which service a request is for, and what all services share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coord_core::{Header, KvBackend, LeaseId, LeaseTimeToLive};
use coord_etcd::wire::FromWire;
use etcd_client::Channel;
use etcd_client::proto::{
    PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbWatchServer,
};
use futures_util::future::Map;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Service, StdError, http};
use tonic::{Request, Status};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, service_fn};

use crate::alarm::Alarms;
use crate::call::{Answer, Answered, refuse, split, unknown_method, unserved};
use crate::on_behalf::Places;
use crate::status::{etcds_words, status, stopped};
use crate::{auth, election, health, lock, plain};

/// How much larger than a change a message may be: etcd's `grpcOverheadBytes`.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// What a server takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How large a change may be.
    pub(crate) request_bytes: usize,
    /// How many calls of a connection may be under way.
    pub(crate) streams: u32,
    /// How many watches a stream may have.
    pub(crate) watches: usize,
    /// How often watches that want bookmarks get them.
    pub(crate) progress_interval: Duration,
}

impl Limits {
    /// How large any message may be; and a message to a watch is split from this size on.
    pub(crate) const fn message_bytes(&self) -> usize {
        self.request_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES)
    }
}

/// The services of a backend. Clones share it.
#[derive(Clone)]
pub(crate) struct Services {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<dyn KvBackend>,
    limits: Limits,
    /// Where clients find it.
    address: Option<SocketAddr>,
    /// Whether the server is being stopped.
    stopped: watch::Sender<bool>,
    alarms: Alarms,
    /// Where clients of the Lock and Election services stand.
    places: Places,
}

impl Services {
    /// Serves `backend`, with etcd's limits and nowhere.
    pub(crate) fn new(backend: impl KvBackend) -> Self {
        let limits = Limits {
            request_bytes: backend.limits().max_request_bytes,
            streams: 65_536,
            watches: 65_536,
            progress_interval: Duration::from_secs(600),
        };
        Self::over(Arc::new(backend), limits, None)
    }

    fn over(backend: Arc<dyn KvBackend>, limits: Limits, address: Option<SocketAddr>) -> Self {
        let (stopped, places) = (watch::Sender::new(false), Places::default());
        let alarms = Alarms::default();
        Self { shared: Arc::new(Shared { backend, limits, address, stopped, alarms, places }) }
    }

    /// The same, with these limits, at this address.
    pub(crate) fn serving(self, limits: Limits, address: Option<SocketAddr>) -> Self {
        Self::over(Arc::clone(&self.shared.backend), limits, address)
    }

    pub(crate) fn backend(&self) -> &Arc<dyn KvBackend> {
        &self.shared.backend
    }

    pub(crate) fn limits(&self) -> Limits {
        self.shared.limits
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.shared.address
    }

    pub(crate) fn places(&self) -> &Places {
        &self.shared.places
    }

    pub(crate) fn alarms(&self) -> &Alarms {
        &self.shared.alarms
    }

    /// Ends what would not end by itself.
    pub(crate) fn stop(&self) {
        self.shared.stopped.send_replace(true);
    }

    /// Done when the server is being stopped.
    pub(crate) fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.shared.stopped.subscribe();
        async move {
            if stopped.wait_for(|stopped| *stopped).await.is_err() {
                // Nobody is left who could stop it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The stream, until the server is stopped.
    pub(crate) fn until_stopped<T, S>(
        &self,
        answers: S,
    ) -> impl Stream<Item = Result<T, Status>> + Send + 'static + use<T, S>
    where
        S: Stream<Item = Result<T, Status>> + Send + 'static,
    {
        let state = Some((Box::pin(answers), Box::pin(self.stopping())));
        stream::unfold(state, |state| async {
            let (mut answers, mut stopping) = state?;
            tokio::select! {
                biased;
                () = &mut stopping => Some((Err(stopped()), None)),
                answer = answers.next() => Some((answer?, Some((answers, stopping)))),
            }
        })
    }

    /// Who answers, and the revision at this moment.
    pub(crate) async fn header(&self) -> Result<Header, Status> {
        // The cheapest question there is.
        const ANY: LeaseId = LeaseId::new(1).expect("only zero is no lease");
        let answer = self.backend().lease_time_to_live(LeaseTimeToLive::new(ANY)).await;
        answer.map(|response| response.header).map_err(|error| status(&error))
    }

    /// Answers any request.
    pub(crate) fn call<B>(&self, request: http::Request<B>) -> Map<Answer, fn(Answered) -> Answered>
    where
        B: HttpBody + Send + 'static,
        B::Error: Into<StdError> + Send,
    {
        self.route(request).map(|answered| answered.map(etcds_words))
    }

    fn route<B>(&self, request: http::Request<B>) -> Answer
    where
        B: HttpBody + Send + 'static,
        B::Error: Into<StdError> + Send,
    {
        if plain::is_plain(&request) {
            return plain::call(self, &request);
        }
        let path = request.uri().path().to_owned();
        let Some((service, method)) = split(&path) else { return refuse(unserved(&path)) };
        if methods(service).is_some_and(|methods| !methods.contains(&method)) {
            return refuse(unknown_method(service, method));
        }
        let max = self.limits().message_bytes();
        let this = Arc::new(self.clone());
        match service {
            "etcdserverpb.KV" => {
                PbKvServer::from_arc(this).max_decoding_message_size(max).call(request)
            }
            "etcdserverpb.Watch" => {
                PbWatchServer::from_arc(this).max_decoding_message_size(max).call(request)
            }
            "etcdserverpb.Lease" => {
                PbLeaseServer::from_arc(this).max_decoding_message_size(max).call(request)
            }
            "etcdserverpb.Maintenance" => {
                PbMaintenanceServer::from_arc(this).max_decoding_message_size(max).call(request)
            }
            "etcdserverpb.Cluster" => {
                PbClusterServer::from_arc(this).max_decoding_message_size(max).call(request)
            }
            "etcdserverpb.Auth" => auth::call(self, method, request),
            "v3lockpb.Lock" => lock::call(self, method, request),
            "v3electionpb.Election" => election::call(self, method, request),
            "grpc.health.v1.Health" => health::call(self, method, request),
            _ => refuse(unserved(&path)),
        }
    }
}

/// What can be asked of a service; `None` if there is no such service.
fn methods(service: &str) -> Option<&'static [&'static str]> {
    Some(match service {
        "etcdserverpb.KV" => &["Range", "Put", "DeleteRange", "Txn", "Compact"],
        "etcdserverpb.Watch" => &["Watch"],
        "etcdserverpb.Lease" => {
            &["LeaseGrant", "LeaseRevoke", "LeaseKeepAlive", "LeaseTimeToLive", "LeaseLeases"]
        }
        "etcdserverpb.Maintenance" => &[
            "Alarm",
            "Status",
            "Defragment",
            "Hash",
            "HashKV",
            "Snapshot",
            "MoveLeader",
            "Downgrade",
        ],
        "etcdserverpb.Cluster" => {
            &["MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"]
        }
        "etcdserverpb.Auth" => auth::METHODS,
        "v3lockpb.Lock" => &["Lock", "Unlock"],
        "v3electionpb.Election" => &["Campaign", "Proclaim", "Leader", "Observe", "Resign"],
        "grpc.health.v1.Health" => &["Check", "Watch", "List"],
        _ => return None,
    })
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("limits", &self.limits()).finish_non_exhaustive()
    }
}

/// A channel for etcd-client that leads to `backend`, in this process and without sockets.
///
/// What the client sends is handled by whoever polls the client, so that nothing runs by itself and
/// a paused clock stands still while anything is left to be done.
///
/// ```
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), etcd_client::Error> {
/// let channel = coord_server::in_process(MemBackend::new());
/// let mut client = etcd_client::Client::from_channel(channel, None).await?;
/// client.put("hello", "world", None).await?;
/// assert_eq!(client.get("hello", None).await?.kvs()[0].value(), b"world");
/// # Ok(())
/// # }
/// ```
pub fn in_process(backend: impl KvBackend) -> Channel {
    let services = Services::new(backend);
    let service = service_fn(move |request: http::Request<Body>| {
        let answer = services.call(request);
        async move { answer.await.map_err(|never| -> BoxError { match never {} }) }
    });
    Channel::Custom(BoxCloneSyncService::new(service))
}

/// The message of a request.
pub(crate) fn read<W, T: FromWire<W>>(request: Request<W>) -> Result<T, Status> {
    T::from_wire(request.into_inner()).map_err(|why| Status::invalid_argument(why.to_string()))
}
