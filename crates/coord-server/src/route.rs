//! Which service a request is for.

use std::sync::Arc;

use coord_core::KvBackend;
use etcd_client::Channel;
use etcd_client::proto::{PbClusterServer, PbLeaseServer, PbMaintenanceServer, PbWatchServer};
use futures_util::FutureExt;
use futures_util::future::Map;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, service_fn};

use crate::call::{Answer, Answered, compressed, refuse, split, unknown_method, unserved};
use crate::services::Services;
use crate::small::Incoming;
use crate::status::etcds_words;
use crate::{auth, election, health, kv, lock, plain};

/// A call of a service that etcd-client has code for.
macro_rules! serve {
    ($server:ident, $services:expr, $request:expr) => {{
        let server = $server::from_arc(Arc::new($services.clone()))
            .max_decoding_message_size($services.limits().message_bytes());
        match compressed(&$request) {
            Some(encoding) => server.accept_compressed(encoding).send_compressed(encoding),
            None => server,
        }
        .call($request)
    }};
}

impl Services {
    /// Answers any request.
    pub(crate) fn call(
        &self,
        request: http::Request<impl Incoming>,
    ) -> Map<Answer, fn(Answered) -> Answered> {
        self.route(request).map(|answered| answered.map(etcds_words))
    }

    fn route(&self, request: http::Request<impl Incoming>) -> Answer {
        if plain::is_plain(&request) {
            return plain::call(self, &request);
        }
        let uri = request.uri().clone();
        let path = uri.path();
        let Some((service, method)) = split(path) else { return refuse(unserved(path)) };
        if methods(service).is_some_and(|methods| !methods.contains(&method)) {
            return refuse(unknown_method(service, method));
        }
        match service {
            "etcdserverpb.KV" => kv::call(self, method, request),
            "etcdserverpb.Watch" => serve!(PbWatchServer, self, request),
            "etcdserverpb.Lease" => serve!(PbLeaseServer, self, request),
            "etcdserverpb.Maintenance" => serve!(PbMaintenanceServer, self, request),
            "etcdserverpb.Cluster" => serve!(PbClusterServer, self, request),
            "etcdserverpb.Auth" => auth::call(self, method, request),
            "v3lockpb.Lock" => lock::call(self, method, request),
            "v3electionpb.Election" => election::call(self, method, request),
            "grpc.health.v1.Health" => health::call(self, method, request),
            _ => refuse(unserved(path)),
        }
    }
}

/// What can be asked of a service that etcd-client has code for, which refuses the rest in words
/// that are not etcd's; `None` if it has none.
fn methods(service: &str) -> Option<&'static [&'static str]> {
    Some(match service {
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
        _ => return None,
    })
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
