//! The state that all services share: the backend, the limits, and whether the server is being
//! stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coord_core::{
    KvBackend,
    kv::{Header, LeaseId, LeaseTimeToLive},
};
use coord_etcd::wire::FromWire;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tonic::Status;

use crate::alarm::Alarms;
use crate::call_groups::CallGroups;
use crate::gauges::WatchGauges;
use crate::status::{server_stopped, status};

/// How many bytes a message may exceed the limit of a change by: etcd's `grpcOverheadBytes`.
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLimits {
    /// Maximum size of a change, in bytes.
    pub(crate) request_bytes: usize,
    /// Maximum number of concurrent calls per connection.
    pub(crate) streams: u32,
    /// Maximum number of watches per stream.
    pub(crate) watches: usize,
    /// Interval of progress notifications for watches that requested them.
    pub(crate) progress_interval: Duration,
}

impl ServerLimits {
    /// Maximum size of any message of a client, in bytes. Watch responses of this size or more are
    /// split into fragments, if the client has requested that.
    pub(crate) const fn message_bytes(&self) -> usize {
        self.request_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES)
    }
}

/// All services of a backend. Clones share their state.
#[derive(Clone)]
pub(crate) struct Services {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<dyn KvBackend>,
    limits: ServerLimits,
    /// The address that clients connect to, if the server listens.
    address: Option<SocketAddr>,
    /// Whether the server is being stopped.
    stopped: watch::Sender<bool>,
    alarms: Alarms,
    /// Groups of concurrent calls to the Lock and Election services.
    call_groups: CallGroups,
    /// Numbers of open watches and watch streams.
    watch_gauges: WatchGauges,
}

impl Services {
    /// Services for `backend`, with the default limits and without an address.
    pub(crate) fn new(backend: impl KvBackend) -> Self {
        let limits = ServerLimits {
            request_bytes: backend.limits().max_request_bytes,
            streams: 65_536,
            watches: 65_536,
            progress_interval: Duration::from_secs(600),
        };
        Self::from_parts(Arc::new(backend), limits, None)
    }

    fn from_parts(
        backend: Arc<dyn KvBackend>,
        limits: ServerLimits,
        address: Option<SocketAddr>,
    ) -> Self {
        let stopped = watch::Sender::new(false);
        let (alarms, call_groups, watch_gauges) = Default::default();
        let shared =
            Shared { backend, limits, address, stopped, alarms, call_groups, watch_gauges };
        Self { shared: Arc::new(shared) }
    }

    /// Services for the same backend, with these limits and this address.
    pub(crate) fn with_limits(self, limits: ServerLimits, address: Option<SocketAddr>) -> Self {
        Self::from_parts(Arc::clone(&self.shared.backend), limits, address)
    }

    pub(crate) fn backend(&self) -> &Arc<dyn KvBackend> {
        &self.shared.backend
    }

    pub(crate) fn limits(&self) -> ServerLimits {
        self.shared.limits
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.shared.address
    }

    pub(crate) fn call_groups(&self) -> &CallGroups {
        &self.shared.call_groups
    }

    pub(crate) fn alarms(&self) -> &Alarms {
        &self.shared.alarms
    }

    pub(crate) fn watch_gauges(&self) -> &WatchGauges {
        &self.shared.watch_gauges
    }

    /// Stops the services: ends streams and waiting calls, which would not end by themselves.
    pub(crate) fn stop(&self) {
        self.shared.stopped.send_replace(true);
    }

    /// Completes when the server is being stopped.
    pub(crate) fn stop_signal(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.shared.stopped.subscribe();
        async move {
            if stopped.wait_for(|stopped| *stopped).await.is_err() {
                // The services were dropped, so they can no longer be stopped.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Forwards the stream until the server is stopped, then ends it with an error.
    pub(crate) fn until_stopped<T, S>(
        &self,
        responses: S,
    ) -> impl Stream<Item = Result<T, Status>> + Send + 'static + use<T, S>
    where
        S: Stream<Item = Result<T, Status>> + Send + 'static,
    {
        let state = Some((Box::pin(responses), Box::pin(self.stop_signal())));
        stream::unfold(state, |state| async {
            let (mut responses, mut stop) = state?;
            tokio::select! {
                biased;
                () = &mut stop => Some((Err(server_stopped()), None)),
                response = responses.next() => Some((response?, Some((responses, stop)))),
            }
        })
    }

    /// The backend's current header: its ids and its current revision.
    pub(crate) async fn header(&self) -> Result<Header, Status> {
        // The state of any lease, because that is the cheapest request of a backend.
        const ANY_LEASE: LeaseId = LeaseId::new(1).expect("1 is a valid lease id");
        let response = self.backend().lease_time_to_live(LeaseTimeToLive::new(ANY_LEASE)).await;
        response.map(|response| response.header).map_err(|error| status(&error))
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("limits", &self.limits()).finish_non_exhaustive()
    }
}

/// Translates a request from etcd's message.
pub(crate) fn read_request<W, T: FromWire<W>>(request: W) -> Result<T, Status> {
    T::from_wire(request).map_err(|error| Status::invalid_argument(error.to_string()))
}
