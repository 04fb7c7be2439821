//! Any [`KvBackend`] behind etcd's own gRPC services.
//!
//! A client of etcd's cannot tell the difference: status codes and messages are etcd's to the
//! letter, watches are created, cancelled and refused in band, and a lease that is gone is
//! refreshed to a time of zero. Three services are served: KV, Watch and Lease.
//!
//! ```text
//! etcd's client -> protobuf -> kv, lease, watch -> KvBackend
//!                                     |
//!                                  status: what an error is called on the wire
//! ```
//!
//! [`in_process`] gives a client's channel to it without sockets: what the client sends is handled
//! by whoever polls the client, so that nothing runs by itself and a paused clock stands still
//! while anything is left to be done.
//!
//! What etcd does and this does not: logins, more than one member, and splitting answers to
//! watches that are too large for one message.

mod kv;
mod lease;
mod status;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use coord_core::{Header, KvBackend, LeaseId, LeaseTimeToLive};
use coord_etcd::EtcdBackend;
use etcd_client::Channel;
use etcd_client::proto::{PbKvServer, PbLeaseServer, PbWatchServer};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::service::Routes;
use tonic::{Request, Status};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};

use status::status;

/// The services of a backend. Clones share it.
#[derive(Clone)]
pub struct Services {
    backend: Arc<dyn KvBackend>,
}

impl Services {
    /// Serves `backend`.
    pub fn new(backend: impl KvBackend) -> Self {
        Self { backend: Arc::new(backend) }
    }

    /// The services, by the paths of etcd's protocol.
    #[must_use]
    pub fn routes(self) -> Routes {
        // What is too large is for the backend to say: it knows the limits.
        Routes::new(PbKvServer::new(self.clone()).max_decoding_message_size(usize::MAX))
            .add_service(PbWatchServer::new(self.clone()).max_decoding_message_size(usize::MAX))
            .add_service(PbLeaseServer::new(self).max_decoding_message_size(usize::MAX))
    }

    /// Who answers, and the revision at this moment.
    async fn header(&self) -> Result<Header, Status> {
        // The cheapest question there is.
        const ANY: LeaseId = LeaseId::new(1).expect("only zero is no lease");
        let answer = self.backend.lease_time_to_live(LeaseTimeToLive::new(ANY)).await;
        answer.map(|response| response.header).map_err(|error| status(&error))
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// A channel for etcd's client that leads to `backend`, in this process and without sockets.
pub fn in_process(backend: impl KvBackend) -> Channel {
    let routes = Services::new(backend).routes().prepare();
    let never_fails = |never: Infallible| -> BoxError { match never {} };
    let service = ServiceExt::<http::Request<Body>>::map_err(routes, never_fails);
    Channel::Custom(BoxCloneSyncService::new(service))
}

/// The adapter over `backend`: between the two lies everything but the wires.
///
/// # Panics
/// Never: there is a channel.
pub fn adapter(backend: impl KvBackend) -> EtcdBackend {
    let nowhere: [&str; 0] = [];
    let builder = EtcdBackend::builder(nowhere).limits(backend.limits());
    builder.over_channels([in_process(backend)]).expect("one channel is enough")
}

/// The message of a request.
fn read<W, T: coord_etcd::wire::FromWire<W>>(request: Request<W>) -> Result<T, Status> {
    T::from_wire(request.into_inner()).map_err(|why| Status::invalid_argument(why.to_string()))
}
