//! How calls are answered, and those refused that lead nowhere.
//!
//! Services that etcd-client has no code for are answered this way. Their messages are few and
//! small, so they are written by hand, with the numbers that etcd's have, and no second run of
//! protoc is needed; what etcd-client does have is used. So is KV, which is called most and so goes
//! the short way, that of `small`.

use std::convert::Infallible;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tonic::body::Body;
use tonic::codegen::{CompressionEncoding, EnabledCompressionEncodings, http};
use tonic::server::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::services::Services;
use crate::small::{self, Incoming};

/// How a call is answered.
pub(crate) type Answer = BoxFuture<'static, Answered>;

/// What fails has a status, so nothing fails.
pub(crate) type Answered = Result<http::Response<Body>, Infallible>;

/// One message, answered with one.
pub(crate) fn unary<Q, A, F>(
    services: &Services,
    request: http::Request<impl Incoming>,
    answer: impl FnOnce(Services, Q) -> F + Send + 'static,
) -> Answer
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let services = services.clone();
    let message = small::read(request, services.limits().message_bytes());
    async move {
        match message.await {
            Ok(message) => match answer(services, message).await {
                Ok(answer) => Ok(small::answer(&answer)),
                Err(status) => Ok(status.into_http()),
            },
            Err(request) => unary_of_any_size(services, request, answer).await,
        }
    }
    .boxed()
}

/// The same, by tonic, in a box of its own: small calls need no room for it.
fn unary_of_any_size<Q, A, F>(
    services: Services,
    request: http::Request<impl Incoming>,
    answer: impl FnOnce(Services, Q) -> F + Send + 'static,
) -> Answer
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let mut grpc = grpc::<Q, A>(&services, &request);
    let mut answer = Some(answer);
    let service = service_fn(move |request: Request<Q>| {
        let answer = answer.take().map(|answer| answer(services.clone(), request.into_inner()));
        async move { answer.expect("a call has one message").await.map(Response::new) }
    });
    async move { Ok(grpc.unary(service, request).await) }.boxed()
}

/// One message, answered with a stream of them, which opens when there is something to say: that is
/// when Go's gRPC sends the headers.
pub(crate) fn server_streaming<Q, A, S>(
    services: &Services,
    request: http::Request<impl Incoming>,
    answer: impl FnOnce(Services, Q) -> S + Send + 'static,
) -> Answer
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    let services = services.clone();
    let mut grpc = grpc::<Q, A>(&services, &request);
    let mut answer = Some(answer);
    let service = service_fn(move |request: Request<Q>| {
        let answer = answer.take().map(|answer| answer(services.clone(), request.into_inner()));
        async move {
            let mut answers = Box::pin(answer.expect("a call has one message"));
            let first = answers.next().await.transpose()?;
            Ok(Response::new(stream::iter(first.map(Ok)).chain(answers)))
        }
    });
    async move { Ok(grpc.server_streaming(service, request).await) }.boxed()
}

/// A call that is not answered, but with a reason.
pub(crate) fn refuse(status: Status) -> Answer {
    std::future::ready(Ok(status.into_http())).boxed()
}

/// A path that leads to no service, in the words of Go's gRPC.
///
/// Source: grpc-go `handleStream` in `server.go`.
pub(crate) fn unserved(path: &str) -> Status {
    match split(path) {
        Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
        None => Status::unimplemented(format!("malformed method name: {path:?}")),
    }
}

/// A method that the service does not have.
pub(crate) fn unknown_method(service: &str, method: &str) -> Status {
    Status::unimplemented(format!("unknown method {method} for service {service}"))
}

/// The service and the method of a path.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/').unwrap_or(path).rsplit_once('/')
}

/// What a client compresses with, if it does: it is answered in kind, and nobody else is, whatever
/// they say that they could read.
pub(crate) fn compressed<B>(request: &http::Request<B>) -> Option<CompressionEncoding> {
    let encoding = request.headers().get("grpc-encoding")?;
    (encoding == "gzip").then_some(CompressionEncoding::Gzip)
}

fn grpc<Q, A>(services: &Services, request: &http::Request<impl Sized>) -> Grpc<ProstCodec<A, Q>>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut encodings = EnabledCompressionEncodings::default();
    if let Some(encoding) = compressed(request) {
        encodings.enable(encoding);
    }
    Grpc::new(ProstCodec::default())
        .apply_max_message_size_config(Some(services.limits().message_bytes()), None)
        .apply_compression_config(encodings, encodings)
}
