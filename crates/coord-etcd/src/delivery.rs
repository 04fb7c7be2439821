//! Delivery tracking: whether a request was handed to a connection, and responses that are not
//! gRPC.
//!
//! An error of the transport does not state whether the member processed the request. For a change
//! that is the difference between a retry and an unknown outcome. So the layer [`Tracked`] wraps
//! each request to a member, and adds what the transport leaves out:
//!
//! ```text
//! the connection never took the request's message     not processed: no message, no call
//! GOAWAY without an error, to a stream above its id   not processed (RFC 9113, section 6.8)
//! REFUSED_STREAM, from the member                     not processed (RFC 9113, section 8.7)
//! an HTTP response that is not gRPC                   the status that gRPC's mapping gives it
//! anything else                                       as it is
//! ```
//!
//! The first row covers a connection that broke before its next request, a request that waits for
//! one of the streams that the member permits, and a runtime that is gone. A caller that stops
//! waiting calls [`Attempt::withdraw`]. After that the connection cannot take the message.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{BoxError, Service};

use crate::causes::cause;

tokio::task_local! {
    /// The attempt that the current task is making. etcd-client builds its requests itself and
    /// offers no field to attach anything to them.
    static CURRENT: Attempt;
}

/// The requests of one attempt at a call, with the state of each message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempt(Arc<Mutex<Vec<MessageState>>>);

impl Attempt {
    /// Runs `call`, and tracks the requests that it makes.
    pub(crate) fn track<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.clone(), call)
    }

    /// Withdraws the messages if no connection has taken any of them. Returns whether it did, so
    /// that the member cannot have processed any request. When one was taken, the attempt continues
    /// unchanged, and may make another request.
    pub(crate) fn withdraw(&self) -> bool {
        let mut states = self.states();
        let taken = states.contains(&MessageState::Taken);
        if !taken {
            states.fill(MessageState::Withdrawn);
        }
        !taken
    }

    fn add(&self) -> Message {
        let mut states = self.states();
        states.push(MessageState::Held);
        Message { attempt: self.clone(), number: states.len() - 1 }
    }

    fn states(&self) -> MutexGuard<'_, Vec<MessageState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a request's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageState {
    /// In the request body.
    Held,
    /// Given to the connection.
    Taken,
    /// Never to be given to a connection.
    Withdrawn,
}

/// The message of one request of an attempt.
#[derive(Clone, Debug)]
struct Message {
    attempt: Attempt,
    number: usize,
}

impl Message {
    /// Lets the connection take the message, unless it was withdrawn.
    fn take(&self) -> bool {
        self.move_to(MessageState::Taken)
    }

    /// Withdraws the message, unless the connection has taken it.
    fn withdraw(&self) -> bool {
        self.move_to(MessageState::Withdrawn)
    }

    /// Changes the state of a held message. Returns whether the message is in that state now.
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
    message: Message,
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

/// The layer that tracks requests and checks that responses are gRPC.
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
        let message = CURRENT.try_with(Attempt::add).unwrap_or_else(|_| Attempt::default().add());
        let tracked = message.clone();
        let request = request.map(|body| Body::new(TrackedBody { body, message: tracked }));
        let response = self.service.call(request);
        async move {
            match response.await {
                Ok(response) => {
                    grpc(response).map_err(|status| classified(status.into(), &message))
                }
                Err(error) => Err(classified(error.into(), &message)),
            }
        }
        .boxed()
    }
}

/// An error of a request that the member surely did not process.
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

/// Marks an error whose request was surely not processed.
fn classified(error: BoxError, message: &Message) -> BoxError {
    let refused = |error: &h2::Error| {
        let graceful = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // h2 ends the streams up to the id of a graceful GOAWAY with another error. With one that
        // carries an error, it ends all of them alike.
        error.is_remote() && (graceful || refused)
    };
    if message.withdraw() || cause::<h2::Error>(&*error).is_some_and(refused) {
        return Box::new(Unprocessed(error));
    }
    error
}

/// Part of the message of a status that stands for an HTTP response that is not gRPC.
pub(crate) const NOT_GRPC: &str = "in place of a gRPC response";

/// Returns the response if it is gRPC, and otherwise the status that it stands for.
///
/// tonic reads the body of any response as gRPC first, and reports the first byte of a proxy's
/// error page as a compression flag.
fn grpc(response: Response<Body>) -> Result<Response<Body>, Status> {
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
    Err(Status::new(code(http), format!("HTTP status {http}{kind} {NOT_GRPC}")))
}

/// The code that gRPC gives an HTTP status without one
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
const fn code(http: StatusCode) -> Code {
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
        let (first, second) = (attempt.add(), attempt.add());
        assert!(first.take());
        assert!(!attempt.withdraw(), "the member may have processed the first request");
        assert!(second.take(), "the connection can still take the second");
    }

    #[test]
    fn withdrawn_messages_are_not_taken() {
        let attempt = Attempt::default();
        let message = attempt.add();
        assert!(attempt.withdraw() && !message.take());
    }
}
