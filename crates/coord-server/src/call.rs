//! gRPC calls: unary and server-streaming calls, and the statuses of unknown services and methods.
//!
//! Services that etcd-client has no generated code for are served through these functions. Their
//! few small messages are declared in Rust, with etcd's field numbers, so no second run of protoc
//! is needed; messages that etcd-client exports are reused. The KV service is served this way too,
//! although etcd-client has code for it, because most calls are KV calls and `fast_path` makes them
//! cheaper.

use std::convert::Infallible;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tonic::body::Body;
use tonic::codegen::{CompressionEncoding, EnabledCompressionEncodings, http};
use tonic::server::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::fast_path::{self, RequestBody};
use crate::services::Services;

/// The future of a call's HTTP response.
pub(crate) type CallFuture = BoxFuture<'static, CallResult>;

/// The response of a call. The call never fails: an error is a response with a status.
pub(crate) type CallResult = Result<http::Response<Body>, Infallible>;

/// A call with one request message and one response message.
pub(crate) fn unary<Q, A, F>(
    services: &Services,
    request: http::Request<impl RequestBody>,
    handler: impl FnOnce(Services, Q) -> F + Send + 'static,
) -> CallFuture
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let services = services.clone();
    let message = fast_path::read_message(request, services.limits().message_bytes());
    async move {
        match message.await {
            Ok(message) => match handler(services, message).await {
                Ok(response) => Ok(fast_path::response(&response)),
                Err(status) => Ok(status.into_http()),
            },
            Err(request) => unary_with_tonic(services, request, handler).await,
        }
    }
    .boxed()
}

/// A unary call through tonic. The request may have lost its headers, except `grpc-encoding`.
/// Boxed separately, so that the future of a call on the unary fast path stays small.
fn unary_with_tonic<Q, A, F>(
    services: Services,
    request: http::Request<impl RequestBody>,
    handler: impl FnOnce(Services, Q) -> F + Send + 'static,
) -> CallFuture
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let mut grpc = grpc::<Q, A>(&services, &request);
    let mut handler = Some(handler);
    let service = service_fn(move |request: Request<Q>| {
        let response =
            handler.take().map(|handler| handler(services.clone(), request.into_inner()));
        async move { response.expect("a call has one request message").await.map(Response::new) }
    });
    async move { Ok(grpc.unary(service, request).await) }.boxed()
}

/// A call with one request message and a stream of responses. The headers are sent with the first
/// response, as Go's gRPC does.
pub(crate) fn server_streaming<Q, A, S>(
    services: &Services,
    request: http::Request<impl RequestBody>,
    handler: impl FnOnce(Services, Q) -> S + Send + 'static,
) -> CallFuture
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    let services = services.clone();
    let mut grpc = grpc::<Q, A>(&services, &request);
    let mut handler = Some(handler);
    let service = service_fn(move |request: Request<Q>| {
        let response =
            handler.take().map(|handler| handler(services.clone(), request.into_inner()));
        async move {
            let mut responses = Box::pin(response.expect("a call has one request message"));
            let first = responses.next().await.transpose()?;
            Ok(Response::new(stream::iter(first.map(Ok)).chain(responses)))
        }
    });
    async move { Ok(grpc.server_streaming(service, request).await) }.boxed()
}

/// A call that fails with this status.
pub(crate) fn reject(status: Status) -> CallFuture {
    std::future::ready(Ok(status.into_http())).boxed()
}

/// The status for a path that names no known service, with the message of Go's gRPC.
///
/// Source: grpc-go `handleStream` in `server.go`.
pub(crate) fn unknown_service(path: &str) -> Status {
    match split_path(path) {
        Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
        None => Status::unimplemented(format!("malformed method name: {path:?}")),
    }
}

/// The status for a method that the service does not have, with the message of Go's gRPC.
pub(crate) fn unknown_method(service: &str, method: &str) -> Status {
    Status::unimplemented(format!("unknown method {method} for service {service}"))
}

/// Splits a path into service and method.
pub(crate) fn split_path(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/').unwrap_or(path).rsplit_once('/')
}

/// The compression of a request, which the response uses too. As in etcd, `grpc-accept-encoding`
/// alone does not cause compression.
pub(crate) fn request_encoding<B>(request: &http::Request<B>) -> Option<CompressionEncoding> {
    let encoding = request.headers().get("grpc-encoding")?;
    (encoding == "gzip").then_some(CompressionEncoding::Gzip)
}

/// tonic's handler of a call, with the server's limits and the request's compression.
fn grpc<Q, A>(services: &Services, request: &http::Request<impl Sized>) -> Grpc<ProstCodec<A, Q>>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut encodings = EnabledCompressionEncodings::default();
    if let Some(encoding) = request_encoding(request) {
        encodings.enable(encoding);
    }
    Grpc::new(ProstCodec::default())
        .apply_max_message_size_config(Some(services.limits().message_bytes()), None)
        .apply_compression_config(encodings, encodings)
}
