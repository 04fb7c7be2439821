//! What all services share: the backend, the limits, and that the server is being stopped.

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
use crate::counts::Counts;
use crate::places::Places;
use crate::status::{status, stopped};

/// How much larger than a change a message may be: etcd's `grpcOverheadBytes`.
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

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
    /// How many watch.
    watching: Counts,
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
        let stopped = watch::Sender::new(false);
        let (alarms, places, watching) = Default::default();
        let shared = Shared { backend, limits, address, stopped, alarms, places, watching };
        Self { shared: Arc::new(shared) }
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

    pub(crate) fn watching(&self) -> &Counts {
        &self.shared.watching
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
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("limits", &self.limits()).finish_non_exhaustive()
    }
}

/// The message of a request.
pub(crate) fn read<W, T: FromWire<W>>(request: W) -> Result<T, Status> {
    T::from_wire(request).map_err(|why| Status::invalid_argument(why.to_string()))
}
