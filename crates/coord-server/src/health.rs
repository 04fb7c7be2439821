//! The gRPC Health service, for load balancers and probes.
//!
//! As in etcd, the only service name is the empty one, and its status is always `SERVING`.
//!
//! Source: grpc-go `health/server.go`, `grpc.health.v1` in `health.proto`.

use futures_util::{Stream, StreamExt, stream};
use tonic::Status;
use tonic::codegen::http;

use crate::call::{CallFuture, reject, server_streaming, unary, unknown_method};
use crate::fast_path::RequestBody;
use crate::services::Services;

const SERVING: i32 = 1;
const SERVICE_UNKNOWN: i32 = 3;

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct ListResponse {
    #[prost(btree_map = "string, message", tag = "1")]
    statuses: std::collections::BTreeMap<String, CheckResponse>,
}

/// Handles a call of the health service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl RequestBody>,
) -> CallFuture {
    match method {
        "Check" => unary(services, request, check),
        "Watch" => server_streaming(services, request, watch),
        "List" => unary(services, request, list),
        _ => reject(unknown_method("grpc.health.v1.Health", method)),
    }
}

async fn check(_: Services, request: CheckRequest) -> Result<CheckResponse, Status> {
    if request.service.is_empty() {
        Ok(CheckResponse { status: SERVING })
    } else {
        Err(Status::not_found("unknown service"))
    }
}

/// Streams the status. It does not change until the server is stopped.
fn watch(
    services: Services,
    request: CheckRequest,
) -> impl Stream<Item = Result<CheckResponse, Status>> + Send + 'static {
    let status = if request.service.is_empty() { SERVING } else { SERVICE_UNKNOWN };
    let now = stream::iter([Ok(CheckResponse { status })]);
    services.until_stopped(now.chain(stream::pending()))
}

async fn list(_: Services, _: ListRequest) -> Result<ListResponse, Status> {
    let statuses = [(String::new(), CheckResponse { status: SERVING })].into();
    Ok(ListResponse { statuses })
}
