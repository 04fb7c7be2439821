//! A client connection, served by one task.
//!
//! All calls of a connection run in its task; no call has a task of its own. A call to an in-memory
//! store takes less time than waking another thread. The responses of calls that arrived together
//! are written together, and while the client reads them, the next calls run. A client uses more
//! than one core of the server by opening several connections.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use coord_core::sync;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::services::Services;

/// The maximum number of calls that are completed, and that are started, before the connection
/// writes responses.
///
/// Without a limit, client and server work alternately instead of at the same time. With a small
/// limit, the writes cost more than the overlap gains.
const MAX_CALLS_PER_WRITE: usize = 16;

/// The connection's flow-control window: how many bytes a client may send before a call reads them.
///
/// h2 allows half of the window for the overhead of small frames, 256 bytes each, and closes the
/// connection when that is exhausted: with the default window of 1 MiB, after about 2,000 watches
/// that a client creates at once. This window allows 65,536.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Serves a connection until the client closes it, or until the server stops and all calls have
/// completed.
pub(crate) async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    services: Services,
) {
    let mut calls = ConnectionCalls::default();
    let mut builder = auto::Builder::new(calls.executor());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        // etcd sends no date header.
        .auto_date_header(false)
        .max_concurrent_streams(services.limits().streams)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // Above hyper's defaults, because clients legitimately cancel many calls at once.
        .max_pending_accept_reset_streams(Some(4096))
        .max_local_error_reset_streams(None);
    let handler = services.clone();
    let service = service_fn(move |request| handler.call(request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut stop = pin!(services.stop_signal());
    let mut shutting_down = false;
    let ended = std::future::poll_fn(|cx| {
        if !shutting_down && stop.as_mut().poll(cx).is_ready() {
            shutting_down = true;
            connection.as_mut().graceful_shutdown();
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            // A started or completed call may have a response to write: poll the connection again.
            if calls.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
    if let Err(error) = ended {
        // The usual cause: the client closed the connection without a GOAWAY.
        tracing::debug!(error, "connection closed with an error");
    }
}

/// The future that runs one call.
type Call = BoxFuture<'static, ()>;

/// The executor through which hyper starts the calls of a connection: it queues them for the
/// connection's task.
#[derive(Clone)]
struct ConnectionExecutor {
    /// Weak, because each call holds a clone of the executor.
    new_calls: Weak<Mutex<VecDeque<Call>>>,
}

/// All calls of a connection.
#[derive(Default)]
struct ConnectionCalls {
    /// Calls that were not polled yet.
    new_calls: Arc<Mutex<VecDeque<Call>>>,
    /// Calls that were polled and have not completed.
    pending: FuturesUnordered<Call>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for ConnectionExecutor {
    fn execute(&self, call: F) {
        // If the connection has ended, the call is dropped.
        if let Some(new_calls) = self.new_calls.upgrade() {
            sync::lock(&new_calls).push_back(Box::pin(call));
        }
    }
}

impl ConnectionCalls {
    fn executor(&self) -> ConnectionExecutor {
        ConnectionExecutor { new_calls: Arc::downgrade(&self.new_calls) }
    }

    /// Polls the calls. Ready if calls were started or completed, because the connection may then
    /// have responses to write.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut completed = 0;
        while completed < MAX_CALLS_PER_WRITE
            && matches!(self.pending.poll_next_unpin(cx), Poll::Ready(Some(())))
        {
            completed += 1;
        }
        let mut started = 0;
        while started < MAX_CALLS_PER_WRITE
            && let Some(mut call) = self.next_new_call()
        {
            // Polled before it enters `pending`, because most calls complete at their first poll.
            if call.as_mut().poll(cx).is_pending() {
                self.pending.push(call);
            }
            started += 1;
        }
        if completed + started > 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    fn next_new_call(&self) -> Option<Call> {
        sync::lock(&self.new_calls).pop_front()
    }
}
