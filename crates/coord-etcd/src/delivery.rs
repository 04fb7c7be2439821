//! Delivery tracking: whether a connection took a request, and responses that are not gRPC.
//!
//! An error of the transport does not state whether the member processed the request. For a change,
//! that decides between a retry and an unknown outcome. So the tower service [`Tracked`] tracks the
//! message of each request to a member, and classifies the errors of the transport:
//!
//! ```text
//! the connection never took the request's message     not processed
//! GOAWAY without an error, to a stream above its id   not processed (RFC 9113, section 6.8)
//! REFUSED_STREAM, from the member                     not processed (RFC 9113, section 8.7)
//! an HTTP response that is not gRPC                   the gRPC status that its HTTP status maps to
//! any other error                                     unchanged
//! ```
//!
//! The first row covers a connection that broke before its next request, a request that waits for
//! one of the streams that the member permits, and a runtime that was shut down. A caller that
//! stops waiting calls [`Attempt::withdraw`]. After that the connection cannot take the message.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use coord_core::sync;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{BoxError, Service};

use crate::causes::find_cause;

tokio::task_local! {
    /// The attempt of the current task. A task-local, because etcd-client builds its requests
    /// itself and has no field to pass the attempt in.
    static CURRENT_ATTEMPT: Attempt;
}

/// One attempt at a call: the states of the messages of its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempt(Arc<Mutex<Vec<MessageState>>>);

impl Attempt {
    /// Runs `call`, and tracks the requests that it makes.
    pub(crate) fn track<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT_ATTEMPT.scope(self.clone(), call)
    }

    /// Withdraws the messages if no connection has taken any of them. Returns whether it did: if
    /// so, the member cannot have processed any request. If a message was taken, nothing changes,
    /// and the attempt may still make another request.
    pub(crate) fn withdraw(&self) -> bool {
        let mut states = self.states();
        let taken = states.contains(&MessageState::Taken);
        if !taken {
            states.fill(MessageState::Withdrawn);
        }
        !taken
    }

    fn add_message(&self) -> RequestMessage {
        let mut states = self.states();
        states.push(MessageState::Held);
        RequestMessage { attempt: self.clone(), number: states.len() - 1 }
    }

    fn states(&self) -> MutexGuard<'_, Vec<MessageState>> {
        sync::lock(&self.0)
    }
}

/// The state of a request's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageState {
    /// The message is in the request body.
    Held,
    /// The connection has taken the message.
    Taken,
    /// No connection can take the message any more.
    Withdrawn,
}

/// The message of one request of an attempt.
#[derive(Clone, Debug)]
struct RequestMessage {
    attempt: Attempt,
    number: usize,
}

impl RequestMessage {
    /// Marks the message as taken, unless it was withdrawn. Returns whether it is taken.
    fn take(&self) -> bool {
        self.move_to(MessageState::Taken)
    }

    /// Withdraws the message, unless the connection has taken it. Returns whether it is withdrawn.
    fn withdraw(&self) -> bool {
        self.move_to(MessageState::Withdrawn)
    }

    /// Changes the state if the message is held. Returns whether the message is in state `to` now.
    fn move_to(&self, to: MessageState) -> bool {
        let state = &mut self.attempt.states()[self.number];
        if *state == MessageState::Held {
            *state = to;
        }
        *state == to
    }
}

/// The body of a request, whose first message is tracked.
struct TrackedBody {
    body: Body,
    message: RequestMessage,
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() && !self.message.take() {
            return Poll::Ready(Some(Err(Status::cancelled("the caller withdrew the request"))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A service that tracks the requests to the inner service, and checks that responses are gRPC.
#[derive(Clone)]
pub(crate) struct Tracked<S> {
    service: S,
}

impl<S> Tracked<S> {
    pub(crate) const fn new(service: S) -> Self {
        Self { service }
    }
}

impl<S> Service<Request<Body>> for Tracked<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error: Into<BoxError>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // A request outside of an attempt is tracked on its own.
        let message = CURRENT_ATTEMPT
            .try_with(Attempt::add_message)
            .unwrap_or_else(|_| Attempt::default().add_message());
        let tracked = message.clone();
        let request = request.map(|body| Body::new(TrackedBody { body, message: tracked }));
        let response = self.service.call(request);
        async move {
            match response.await {
                Ok(response) => {
                    check_grpc(response).map_err(|status| mark_unprocessed(status.into(), &message))
                }
                Err(error) => Err(mark_unprocessed(error.into(), &message)),
            }
        }
        .boxed()
    }
}

/// The error of a request that the member surely did not process.
#[derive(Debug)]
pub(crate) struct Unprocessed(BoxError);

impl fmt::Display for Unprocessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request was not processed")
    }
}

impl StdError for Unprocessed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// Wraps the error in [`Unprocessed`] if the member surely did not process the request.
fn mark_unprocessed(error: BoxError, message: &RequestMessage) -> BoxError {
    let is_unprocessed = |error: &h2::Error| {
        let graceful = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // h2 ends the streams up to the id of a graceful GOAWAY with another error. A GOAWAY with
        // an error ends all streams alike, so it proves nothing.
        error.is_remote() && (graceful || refused)
    };
    if message.withdraw() || find_cause::<h2::Error>(&*error).is_some_and(is_unprocessed) {
        return Box::new(Unprocessed(error));
    }
    error
}

/// The end of the message of a status that [`check_grpc`] returns.
pub(crate) const NOT_GRPC_MESSAGE: &str = "in place of a gRPC response";

/// Returns the response if it is gRPC, and otherwise the gRPC status that its HTTP status maps to.
///
/// tonic would read the body of any response as gRPC, and report the first byte of a proxy's error
/// page as an invalid compression flag.
fn check_grpc(response: Response<Body>) -> Result<Response<Body>, Status> {
    let headers = response.headers();
    let http = response.status();
    let is_grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if headers.contains_key(Status::GRPC_STATUS) || (http == StatusCode::OK && is_grpc) {
        return Ok(response);
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.map_or_else(String::new, |kind| format!(" with content type {kind:?}"));
    Err(Status::new(grpc_code(http), format!("HTTP status {http}{kind} {NOT_GRPC_MESSAGE}")))
}

/// The gRPC code for an HTTP status, by gRPC's mapping
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
const fn grpc_code(http: StatusCode) -> Code {
    match http.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn withdraw_changes_nothing_when_a_message_was_taken() {
        let attempt = Attempt::default();
        let (first, second) = (attempt.add_message(), attempt.add_message());
        assert!(first.take());
        assert!(!attempt.withdraw(), "the member may have processed the first request");
        assert!(second.take(), "the connection can still take the second");
    }

    #[test]
    fn withdrawn_messages_are_not_taken() {
        let attempt = Attempt::default();
        let message = attempt.add_message();
        assert!(attempt.withdraw() && !message.take());
    }
}
