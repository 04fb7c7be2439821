//! A second connection to a member, for when many requests are under way.
//!
//! A member reads what comes over a connection with one task, and writes its answers with another.
//! Where many share it, they soon march in step: all are answered together, all ask again together,
//! and client and member take turns in working. With two connections the one is worked for while
//! the other is on its way. Few requests gain nothing by it, so the second connection is dialled
//! when it is first wanted, and used for what exceeds a few:
//!
//! ```text
//! under way, 1st  2nd     the next one goes over
//!              3    -     the first
//!              4    -     the first, and the second is dialled
//!              4    0     the second, once it stands
//!              4    4     the first
//! ```
//!
//! Nobody waits for it: whoever comes by while it is dialled helps it along, and takes the first.
//! If it cannot be had, or breaks, the first carries everything, and it is dialled again later.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tower::{BoxError, Service, ServiceExt as _};

#[cfg(test)]
mod tests;

/// How many requests are under way on the first connection before the second is wanted.
const FEW: usize = 4;

/// For how long the second is done without when it could not be had.
const PAUSE: Duration = Duration::from_secs(10);

/// Two connections to one member. Clones share them.
pub(crate) struct Connections<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    first: Connection<S>,
    second: Mutex<Second<S>>,
    dial: Box<dyn Fn() -> Dialling<S> + Send + Sync>,
    /// Where the second connection is to live: whoever helps it along may be of another.
    runtime: Handle,
}

/// A connection, and how many requests are under way on it.
struct Connection<S> {
    service: S,
    under_way: Arc<AtomicUsize>,
}

type Dialling<S> = BoxFuture<'static, Result<S, BoxError>>;

enum Second<S> {
    /// There is none, and it is not dialled before this moment.
    Wanting(Option<Instant>),
    /// It is dialled as it is polled.
    Dialled(Dialling<S>),
    Open(Connection<S>),
}

impl<S> Second<S> {
    fn not_now(&mut self, error: &BoxError) {
        tracing::debug!(error, "done without a second connection for a while");
        *self = Self::Wanting(Some(Instant::now() + PAUSE));
    }
}

impl<S: Clone> Connections<S> {
    /// `first`, and how to dial the second, on the current runtime.
    pub(crate) fn new<E, F>(first: S, dial: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        E: Into<BoxError>,
        F: Future<Output = Result<S, E>> + Send + 'static,
    {
        let dial = move || dial().map(|dialled| dialled.map_err(Into::into)).boxed();
        Self {
            shared: Arc::new(Shared {
                first: Connection::new(first),
                second: Mutex::new(Second::Wanting(None)),
                dial: Box::new(dial),
                runtime: Handle::current(),
            }),
        }
    }

    fn choose(&self) -> Connection<S> {
        let first = &self.shared.first;
        let busy = first.busy();
        if busy < FEW {
            return first.clone();
        }
        self.second().filter(|second| second.busy() < busy).unwrap_or_else(|| first.clone())
    }

    /// The second, if it stands.
    fn second(&self) -> Option<Connection<S>> {
        let mut second = self.shared.lock();
        if let Second::Wanting(from) = &*second
            && from.is_none_or(|from| from <= Instant::now())
        {
            *second = Second::Dialled((self.shared.dial)());
        }
        if let Second::Dialled(dialling) = &mut *second {
            let _here = self.shared.runtime.enter();
            // Nobody is woken for it: the next one who comes by sees how far it is.
            match dialling.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => {}
                Poll::Ready(Ok(service)) => *second = Second::Open(Connection::new(service)),
                Poll::Ready(Err(error)) => second.not_now(&error),
            }
        }
        match &*second {
            Second::Open(connection) => Some(connection.clone()),
            Second::Wanting(_) | Second::Dialled(_) => None,
        }
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Second<S>> {
        self.second.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does without the second if it is this one, which broke.
    fn note_broken(&self, connection: &Counted, error: &BoxError) {
        let mut second = self.lock();
        if let Second::Open(open) = &*second
            && Arc::ptr_eq(&open.under_way, &connection.0)
        {
            second.not_now(error);
        }
    }
}

impl<S> Connection<S> {
    fn new(service: S) -> Self {
        Self { service, under_way: Arc::default() }
    }

    fn busy(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

impl<S: Clone> Clone for Connection<S> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), under_way: Arc::clone(&self.under_way) }
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

    /// Of a stream, only the opening counts as under way.
    fn call(&mut self, request: R) -> Self::Future {
        let Connection { service, under_way } = self.choose();
        let counted = Counted::new(under_way);
        let shared = Arc::clone(&self.shared);
        async move {
            let answer = service.oneshot(request).await.map_err(Into::into);
            answer.inspect_err(|error| shared.note_broken(&counted, error))
        }
        .boxed()
    }
}

/// Counts a request as under way until it is answered, or dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(under_way: Arc<AtomicUsize>) -> Self {
        under_way.fetch_add(1, Ordering::Relaxed);
        Self(under_way)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
