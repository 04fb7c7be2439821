//! The connection pool of one member, shared by all requests to the member.
//!
//! A member reads a connection with one goroutine and writes to it with another. When many
//! requests share one connection, client and member may fall into step: all responses arrive
//! together, the client sends all next requests together, and each side idles while the other
//! works. A few concurrent requests gain nothing from more connections. So the pool dials a further
//! connection only when every open connection carries [`BUSY_REQUESTS`], up to the configured
//! number of connections. The default is one connection, without this pool. With two:
//!
//! ```text
//! in flight: 1st  2nd     the next request uses
//!              3    -     the first
//!              4    -     the first, and the second is dialled in the background
//!              4    0     the second, once it is open
//!              4    4     the first
//! ```
//!
//! No request waits for a further connection. If a further connection cannot be dialled, or breaks,
//! requests use the other connections, and the pool dials again after [`REDIAL_AFTER`] at the
//! earliest.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use coord_core::sync;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{BoxError, Service, ServiceExt as _};

#[cfg(test)]
mod tests;

/// A connection is busy if at least this many requests are in flight on it.
const BUSY_REQUESTS: usize = 4;

/// The pause before the pool dials again, after a dial has failed or a further connection has
/// broken.
const REDIAL_AFTER: Duration = Duration::from_secs(10);

/// The connections to one member. Clones share them.
pub(crate) struct Connections<S> {
    shared: Arc<SharedConnections<S>>,
}

struct SharedConnections<S> {
    first: Connection<S>,
    further: Mutex<Further<S>>,
    /// The largest number of further connections.
    max_further: usize,
    dial: Box<dyn Fn() -> DialFuture<S> + Send + Sync>,
    /// The runtime of the first connection. Requests may come from another runtime.
    runtime: Handle,
}

/// The connections beside the first.
struct Further<S> {
    open: Vec<Connection<S>>,
    /// The connection that is being dialled, if any. Dropping the set aborts the task.
    dialing: JoinSet<Result<S, BoxError>>,
    /// No connection is dialled before this time.
    redial_at: Option<Instant>,
}

type DialFuture<S> = BoxFuture<'static, Result<S, BoxError>>;

/// A connection, and how many requests are in flight on it.
struct Connection<S> {
    service: S,
    in_flight: Arc<AtomicUsize>,
}

impl<S: Clone + Send + 'static> Connections<S> {
    /// A pool of `first` and of up to `max_further` connections, which `dial` opens on the current
    /// runtime.
    pub(crate) fn new<E, F>(
        first: S,
        max_further: usize,
        dial: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<BoxError>,
        F: Future<Output = Result<S, E>> + Send + 'static,
    {
        let dial = move || dial().map(|dialled| dialled.map_err(Into::into)).boxed();
        let further = Further { open: Vec::new(), dialing: JoinSet::new(), redial_at: None };
        Self {
            shared: Arc::new(SharedConnections {
                first: Connection::new(first),
                further: Mutex::new(further),
                max_further,
                dial: Box::new(dial),
                runtime: Handle::current(),
            }),
        }
    }

    /// The connection for the next request: the first unless it is busy, otherwise the open
    /// connection with the fewest requests in flight.
    fn choose(&self) -> Connection<S> {
        let first = &self.shared.first;
        if !first.is_busy() {
            return first.clone();
        }
        let mut further = self.shared.further();
        further.collect_dialled();
        let open = std::iter::once(first).chain(&further.open);
        let chosen = open.min_by_key(|connection| connection.in_flight());
        let chosen = chosen.unwrap_or(first).clone();
        if chosen.is_busy() && further.may_dial(self.shared.max_further) {
            further.dialing.spawn_on((self.shared.dial)(), &self.shared.runtime);
        }
        chosen
    }
}

impl<S: Send + 'static> Further<S> {
    /// Adds the connection whose dial has ended, or backs off if the dial failed.
    fn collect_dialled(&mut self) {
        match self.dialing.try_join_next() {
            None => {}
            Some(Ok(Ok(service))) => self.open.push(Connection::new(service)),
            Some(Ok(Err(error))) => self.back_off(&*error),
            Some(Err(error)) => self.back_off(&error),
        }
    }

    fn may_dial(&self, max: usize) -> bool {
        self.open.len() < max
            && self.dialing.is_empty()
            && self.redial_at.is_none_or(|at| at <= Instant::now())
    }
}

impl<S> Further<S> {
    fn back_off(&mut self, error: &(dyn std::error::Error + 'static)) {
        tracing::debug!(error, "further connection lost or not dialled");
        self.redial_at = Some(Instant::now() + REDIAL_AFTER);
    }
}

impl<S> SharedConnections<S> {
    fn further(&self) -> MutexGuard<'_, Further<S>> {
        sync::lock(&self.further)
    }

    /// Drops a broken connection if it is a further one. The first stays, because tonic redials it.
    fn note_broken(&self, broken: &InFlight, error: &BoxError) {
        let mut further = self.further();
        let before = further.open.len();
        further.open.retain(|connection| !Arc::ptr_eq(&connection.in_flight, &broken.0));
        if further.open.len() < before {
            further.back_off(&**error);
        }
    }
}

impl<S> Connection<S> {
    fn new(service: S) -> Self {
        Self { service, in_flight: Arc::default() }
    }

    fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.in_flight() >= BUSY_REQUESTS
    }
}

impl<S: Clone> Clone for Connection<S> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), in_flight: Arc::clone(&self.in_flight) }
    }
}

impl<S> Clone for Connections<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S, R> Service<R> for Connections<S>
where
    S: Service<R, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    /// A stream counts as in flight until its response headers arrive.
    fn call(&mut self, request: R) -> Self::Future {
        let Connection { service, in_flight } = self.choose();
        let in_flight = InFlight::new(in_flight);
        let shared = Arc::clone(&self.shared);
        async move {
            let response = service.oneshot(request).await.map_err(Into::into);
            response.inspect_err(|error| shared.note_broken(&in_flight, error))
        }
        .boxed()
    }
}

/// RAII guard that counts a request as in flight until its response arrives or its future is
/// dropped.
struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn new(in_flight: Arc<AtomicUsize>) -> Self {
        in_flight.fetch_add(1, Ordering::Relaxed);
        Self(in_flight)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
