//! Request routing: dispatches each request to the service that its path names.

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

use crate::call::{
    CallFuture, CallResult, reject, request_encoding, split_path, unknown_method, unknown_service,
};
use crate::fast_path::RequestBody;
use crate::services::Services;
use crate::status::translate_tonic_status;
use crate::{auth, election, health, http_endpoints, kv, lock};

/// Calls a service that etcd-client has generated code for.
macro_rules! serve {
    ($server:ident, $services:expr, $request:expr) => {{
        let server = $server::from_arc(Arc::new($services.clone()))
            .max_decoding_message_size($services.limits().message_bytes());
        match request_encoding(&$request) {
            Some(encoding) => server.accept_compressed(encoding).send_compressed(encoding),
            None => server,
        }
        .call($request)
    }};
}

impl Services {
    /// Handles a request of any service, or a plain HTTP request.
    pub(crate) fn call(
        &self,
        request: http::Request<impl RequestBody>,
    ) -> Map<CallFuture, fn(CallResult) -> CallResult> {
        self.route(request).map(|result| result.map(translate_tonic_status))
    }

    /// Dispatches a request by its path.
    fn route(&self, request: http::Request<impl RequestBody>) -> CallFuture {
        if http_endpoints::is_plain_http(&request) {
            return http_endpoints::call(self, &request);
        }
        let uri = request.uri().clone();
        let path = uri.path();
        let Some((service, method)) = split_path(path) else {
            return reject(unknown_service(path));
        };
        if methods(service).is_some_and(|methods| !methods.contains(&method)) {
            return reject(unknown_method(service, method));
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
            _ => reject(unknown_service(path)),
        }
    }
}

/// The methods of a service that etcd-client has generated code for; `None` for other services.
/// Checked here, because the generated code does not reject unknown methods with etcd's message.
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

/// An in-process channel for etcd-client that leads to `backend`, without sockets.
///
/// The task that polls the client handles the requests; only the contender and the session of a
/// Lock or Campaign call run in tasks of their own. No task waits for a socket, so a paused clock
/// does not advance while there is work to do.
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
        let response = services.call(request);
        async move { response.await.map_err(|never| -> BoxError { match never {} }) }
    });
    Channel::Custom(BoxCloneSyncService::new(service))
}
