//! One client's connection, which is one task.
//!
//! All calls of a connection run in its task, and none has one of its own: a call to a store in
//! memory takes less time than waking another thread, and the answers of calls that were made
//! together leave together, a few in one write: while the client reads them, the next are made.
//! Clients that want two cores open two connections.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use crate::services::Services;

/// How many calls are answered before their answers are sent.
///
/// With as many as there are, client and server take turns in working. With few, each write costs
/// more than it brings.
const TOGETHER: usize = 16;

/// How much a client may send that no call has read yet.
///
/// h2 takes half of it to be what the frames of small messages may cost, at 256 bytes each, and
/// closes the connection when that is used up: with its usual 1 MiB by some two thousand watches
/// that a client asks for in one breath. With this it takes 65,536.
const WINDOW_BYTES: u32 = 32 << 20;

/// Serves a connection until the client closes it, or the server stops and all calls are answered.
pub(crate) async fn serve(socket: TcpStream, services: Services) {
    let mut calls = Calls::default();
    let mut builder = auto::Builder::new(calls.crew());
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

/// A call on its way.
type Call = BoxFuture<'static, ()>;

/// Takes the calls of a connection to the task that runs them.
#[derive(Clone)]
struct Crew {
    /// Weak, for each call has a clone of its own.
    hired: Weak<Mutex<VecDeque<Call>>>,
}

/// The calls of a connection.
#[derive(Default)]
struct Calls {
    /// Those that nobody has begun.
    hired: Arc<Mutex<VecDeque<Call>>>,
    /// Those that wait for something.
    at_work: FuturesUnordered<Call>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Crew {
    fn execute(&self, call: F) {
        // If nobody takes it, the connection is gone, and the call with it.
        if let Some(hired) = self.hired.upgrade() {
            hired.lock().unwrap_or_else(PoisonError::into_inner).push_back(Box::pin(call));
        }
    }
}

impl Calls {
    fn crew(&self) -> Crew {
        Crew { hired: Arc::downgrade(&self.hired) }
    }

    /// Ready when calls were begun or answered, for the connection may have more then.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut at_work = 0;
        while at_work < TOGETHER
            && matches!(self.at_work.poll_next_unpin(cx), Poll::Ready(Some(())))
        {
            at_work += 1;
        }
        let mut begun = 0;
        while begun < TOGETHER
            && let Some(mut call) = self.next()
        {
            // Nearly all are answered at once, and never have to be woken.
            if call.as_mut().poll(cx).is_pending() {
                self.at_work.push(call);
            }
            begun += 1;
        }
        if at_work + begun > 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    fn next(&self) -> Option<Call> {
        self.hired.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
