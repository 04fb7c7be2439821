//! One client's connection, which is one task.
//!
//! All calls of a connection run in its task, and none has one of its own: a call to a store in
//! memory takes less time than waking another thread, and the answers of calls that were made
//! together leave together, a few in one write: while the client reads them, the next are made.
//! Clients that want two cores open two connections.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::services::Services;

/// How many calls are answered before their answers are sent.
///
/// With as many as there are, client and server take turns in working. With few, each write costs
/// more than it brings.
const TOGETHER: usize = 8;

/// How much a client may send that no call has read yet.
///
/// h2 takes half of it to be what the frames of small messages may cost, at 256 bytes each, and
/// closes the connection when that is used up: with its usual 1 MiB by some two thousand watches
/// that a client asks for in one breath. With this it takes 65,536.
const WINDOW_BYTES: u32 = 32 << 20;

/// Serves a connection until the client closes it, or the server stops and all calls are answered.
pub(crate) async fn serve(socket: TcpStream, services: Services) {
    let (hired, mut calls) = Crew::new();
    let mut builder = auto::Builder::new(hired);
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        // etcd's answers have none.
        .auto_date_header(false)
        .max_concurrent_streams(services.limits().streams)
        .initial_connection_window_size(WINDOW_BYTES)
        // Clients cancel calls in great numbers, and may.
        .max_pending_accept_reset_streams(Some(4096))
        .max_local_error_reset_streams(None);
    let answers = services.clone();
    let service = service_fn(move |request| answers.call(request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let mut stopping = pin!(services.stopping());
    let mut told = false;
    let ended = std::future::poll_fn(|cx| {
        if !told && stopping.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            // Calls that get on wake the connection, which then writes what they have to say.
            if calls.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
    if let Err(error) = ended {
        // A client that goes away without a word is the usual case.
        tracing::debug!(error, "a connection was lost");
    }
}

/// Takes the calls of a connection to the task that runs them.
#[derive(Clone)]
struct Crew {
    hired: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
}

/// The calls of a connection.
struct Calls {
    hired: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>,
    at_work: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Crew {
    fn new() -> (Self, Calls) {
        let (sender, hired) = mpsc::unbounded_channel();
        (Self { hired: sender }, Calls { hired, at_work: FuturesUnordered::new() })
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Crew {
    fn execute(&self, call: F) {
        // If nobody takes it, the connection is gone, and the call with it.
        let _ = self.hired.send(Box::pin(call));
    }
}

impl Calls {
    /// Ready when calls were begun, for the connection may have more; or when some were answered
    /// and others can be.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut begun = false;
        while let Poll::Ready(Some(call)) = self.hired.poll_recv(cx) {
            self.at_work.push(call);
            begun = true;
        }
        for _ in 0..TOGETHER {
            match Pin::new(&mut self.at_work).poll_next_unpin(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending if begun => break,
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}
