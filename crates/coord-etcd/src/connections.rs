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
//! If it cannot be had, the first carries everything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tower::{BoxError, Service, ServiceExt as _};

#[cfg(test)]
mod tests;

/// How many requests are under way on the first connection before the second is wanted.
const FEW: usize = 4;

/// Two connections to one member. Clones share them.
pub(crate) struct Connections<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    first: Connection<S>,
    second: Mutex<Second<S>>,
    /// Where the second connection is to live: whoever helps it along may be of another.
    runtime: Handle,
}

/// A connection, and how many requests are under way on it.
struct Connection<S> {
    service: S,
    under_way: Arc<AtomicUsize>,
}

enum Second<S> {
    /// It is dialled as it is polled, which is not before it is wanted.
    Dialled(BoxFuture<'static, Result<S, BoxError>>),
    Open(Connection<S>),
    NotToBeHad,
}

impl<S: Clone> Connections<S> {
    /// `first`, and what dials the second, on the current runtime.
    pub(crate) fn new<E: Into<BoxError>>(
        first: S,
        second: impl Future<Output = Result<S, E>> + Send + 'static,
    ) -> Self {
        let second = second.map(|dialled| dialled.map_err(Into::into)).boxed();
        Self {
            shared: Arc::new(Shared {
                first: Connection::new(first),
                second: Mutex::new(Second::Dialled(second)),
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
        let mut second = self.shared.second.lock().unwrap_or_else(PoisonError::into_inner);
        if let Second::Dialled(dialling) = &mut *second {
            let _here = self.shared.runtime.enter();
            // Nobody is woken for it: the next one who comes by sees how far it is.
            match dialling.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => {}
                Poll::Ready(Ok(service)) => *second = Second::Open(Connection::new(service)),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(error, "done without a second connection");
                    *second = Second::NotToBeHad;
                }
            }
        }
        match &*second {
            Second::Open(connection) => Some(connection.clone()),
            Second::Dialled(_) | Second::NotToBeHad => None,
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
    S: Service<R, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
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
        async move {
            let answer = service.oneshot(request).await;
            drop(counted);
            answer.map_err(Into::into)
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
