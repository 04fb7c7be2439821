//! Processes that crash, are cut off from the store, and are connected again.
//!
//! In a test all processes run in one runtime, and dropping a future there is no crash: the drop of
//! a guard sends a request that deletes its key. A [`Process`] puts a link between the store and
//! everything that belongs to one process. Once the process has crashed, nothing passes the link,
//! whatever its futures and guards do when they are dropped.
//!
//! ```text
//!             cut_off                       crash
//! connected ----------> cut off      either ------> crashed, for good
//!           <----------
//!              heal
//! ```

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coord_core::{
    Error, KvBackend, Result,
    kv::{WatchBatch, WatchStream, Watcher},
};
use futures_util::{Stream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::call::Call;
use crate::forward::forward_calls;

/// How long a request of a process that is cut off waits for the connection before it fails. It is
/// the default of `coord-etcd`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

/// A process of a test, which can crash, be cut off from the store, and heal. Clones are handles to
/// the same process.
///
/// Everything that belongs to the process uses its [`backend`](Self::backend): sessions, locks,
/// elections, transactions. Several processes share a store: give each a clone of it.
///
/// ```
/// use coord_core::{Mutex, Session, error::LossReason};
/// use coord_mem::MemBackend;
/// use coord_testkit::Process;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ttl = Duration::from_secs(30);
/// let store = MemBackend::new();
/// let process = Process::new(store.clone());
/// let first = Session::builder(process.backend()).ttl(ttl).open().await?;
/// let second = Session::builder(&Client::new(store)).ttl(ttl).open().await?;
/// let held = Mutex::new(&first, "service").lock().await?;
///
/// let crashed = Instant::now();
/// process.crash();
/// drop(held); // sends nothing
/// let guard = Mutex::new(&second, "service").lock().await?;
/// assert!(crashed.elapsed() >= ttl);
/// # guard.unlock().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Process {
    backend: Arc<dyn KvBackend>,
    link: Arc<Link>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Process {
    /// A process that is connected to `store`.
    #[must_use]
    pub fn new(store: impl KvBackend) -> Self {
        let link = Arc::new(Link { state: watch::Sender::new(State::Connected) });
        let backend = Linked { inner: Arc::new(store), link: Arc::clone(&link) };
        Self { backend: Arc::new(backend), link, tasks: Arc::default() }
    }

    /// The store as this process reaches it. Every call returns the same `Arc`, because clones of
    /// one `Arc` are one process to coord: within it a lock changes hands without a watch.
    #[must_use]
    pub fn backend(&self) -> Arc<dyn KvBackend> {
        Arc::clone(&self.backend)
    }

    /// Runs a task that ends when the process [crashes](Self::crash); awaiting it then returns a
    /// `JoinError` that [is cancelled](tokio::task::JoinError::is_cancelled). A task that is
    /// spawned after the crash ends at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let handle = Handle::current().spawn(task);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle.abort_handle());
        if self.link.state() == State::Crashed {
            handle.abort();
        }
        handle
    }

    /// Ends the process without any of its last requests. A crashed process stays crashed.
    ///
    /// The store receives nothing more from it, also not what guards, sessions and futures send
    /// when they are dropped; so its keys stay until their lease expires. A request that is on its
    /// way to the store may be applied yet.
    ///
    /// In the process every call, under way or made later, stays pending forever, and watches
    /// deliver nothing. Tasks that [`spawn`](Self::spawn) started end. Whatever else the test still
    /// runs of the process, such as the tasks of its sessions, continues without the store: its
    /// sessions are lost by their own deadline.
    pub fn crash(&self) {
        // The link first: what the tasks send when they are dropped must not pass.
        self.link.enter(State::Crashed);
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    /// Cuts the process off from the store, until it [heals](Self::heal).
    ///
    /// The store receives nothing from it meanwhile. A request that is on its way to the store may
    /// be applied yet; its response does not arrive before the process heals.
    ///
    /// The process continues. A call, under way or made later, fails with `Timeout` after seven
    /// seconds, which is the default of `coord-etcd`; its outcome is unknown. Watches deliver
    /// nothing and report no error. Sessions become suspect, and are lost by their own deadline.
    ///
    /// Does nothing to a process that has crashed.
    pub fn cut_off(&self) {
        self.link.enter(State::CutOff);
    }

    /// Connects the process again after [`cut_off`](Self::cut_off).
    ///
    /// The store receives the requests whose callers still wait. Watches continue where they were
    /// cut off: they deliver what has happened meanwhile. A session whose deadline has not passed
    /// lives on with what is held on it; one that is lost stays lost.
    ///
    /// Does nothing to a process that has crashed: start another one with [`new`](Self::new).
    pub fn heal(&self) {
        self.link.enter(State::Connected);
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("state", &self.link.state()).finish_non_exhaustive()
    }
}

/// Whether a process reaches the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connected,
    CutOff,
    /// Final.
    Crashed,
}

/// The connection between a process and the store.
struct Link {
    state: watch::Sender<State>,
}

impl Link {
    fn state(&self) -> State {
        *self.state.borrow()
    }

    fn enter(&self, state: State) {
        let enter = |now: &mut State| {
            let changes = *now != State::Crashed && *now != state;
            if changes {
                *now = state;
            }
            changes
        };
        self.state.send_if_modified(enter);
    }

    /// Waits until the process is in a state that `fits`.
    fn wait_for(&self, fits: fn(State) -> bool) -> Waiting {
        let mut states = self.state.subscribe();
        Box::pin(async move {
            // An error would mean that the link is dropped, and its owners are the waiting tasks.
            drop(states.wait_for(|state| fits(*state)).await);
        })
    }

    fn connected(&self) -> Waiting {
        self.wait_for(|state| state == State::Connected)
    }

    fn disconnected(&self) -> Waiting {
        self.wait_for(|state| state != State::Connected)
    }
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A backend behind a [`Link`].
struct Linked<B> {
    inner: Arc<B>,
    link: Arc<Link>,
}

impl<B: KvBackend> Linked<B> {
    async fn call<T: Send + 'static>(
        &self,
        _: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut request = pin!(request);
        loop {
            tokio::select! {
                biased;
                // First, so that a request of a process without a connection is not sent.
                () = self.link.disconnected() => {}
                answer = request.as_mut() => return answer,
            }
            if timeout(REQUEST_TIMEOUT, self.link.connected()).await.is_err() {
                break;
            }
        }
        if self.link.state() == State::Crashed {
            std::future::pending::<()>().await;
        }
        Err(Error::Timeout { after: REQUEST_TIMEOUT })
    }

    fn wrap(&self, watch: Watcher) -> Watcher {
        let link = Arc::clone(&self.link);
        Watcher::new(watch.header(), LinkedWatch { watch, link, connected: None })
    }
}

forward_calls!(Linked);

/// A watch behind a [`Link`]. While the process has no connection the watch keeps its batches, so
/// that a process that heals misses none.
struct LinkedWatch {
    watch: Watcher,
    link: Arc<Link>,
    connected: Option<Waiting>,
}

impl Stream for LinkedWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.link.state() != State::Connected {
            let link = Arc::clone(&self.link);
            let connected = self.connected.get_or_insert_with(|| link.connected());
            ready!(connected.as_mut().poll(cx));
            self.connected = None;
        }
        self.watch.poll_next_unpin(cx)
    }
}

impl WatchStream for LinkedWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}
