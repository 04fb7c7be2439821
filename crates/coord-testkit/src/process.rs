//! Simulated processes: crash, network partition and heal.
//!
//! In a test all processes run in one runtime, where dropping a future does not model a crash: a
//! dropped guard still sends the request that deletes its key. A [`Process`] therefore puts a link
//! between the store and everything that belongs to one process. After a crash the link passes
//! nothing, so the requests that dropped futures and guards send do not reach the store.
//!
//! ```text
//!            partition
//! connected -----------> partitioned
//!           <-----------
//!               heal
//!
//!                           crash
//! connected or partitioned -------> crashed (final)
//! ```

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coord_core::{
    Client, Error, KvBackend, Result,
    kv::{WatchBatch, WatchStream, Watcher},
    sync,
};
use futures_util::{Stream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::call::Call;
use crate::forward::forward_calls;

/// How long a request of a partitioned process waits until the process heals before the request
/// fails: the default request timeout of `coord-etcd`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

/// A simulated process that can crash, be partitioned from the store, and heal. Clones share the
/// process.
///
/// Use its [`client`](Self::client) for everything that belongs to the process: sessions, locks,
/// elections, transactions. To let several processes share a store, give each a clone of it.
///
/// ```
/// use coord_core::{Client, Mutex, Session, error::LossReason};
/// use coord_mem::MemBackend;
/// use coord_testkit::Process;
/// use std::time::Duration;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ttl = Duration::from_secs(30);
/// let store = MemBackend::new();
/// let process = Process::new(store.clone());
/// let first = Session::builder(process.client()).ttl(ttl).open().await?;
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
    client: Client,
    link: Arc<Link>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Process {
    /// Creates a process that is connected to `store`.
    #[must_use]
    pub fn new(store: impl KvBackend) -> Self {
        let link = Arc::new(Link { state: watch::Sender::new(LinkState::Connected) });
        let backend = LinkedBackend { inner: Arc::new(store), link: Arc::clone(&link) };
        Self { client: Client::new(backend), link, tasks: Arc::default() }
    }

    /// The client of this process, which reaches the store only while the process is connected.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Spawns a task that is aborted when the process [crashes](Self::crash).
    ///
    /// After a crash, awaiting the handle returns a `JoinError` whose
    /// [`is_cancelled`](tokio::task::JoinError::is_cancelled) is true. A task spawned after the
    /// crash is aborted at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let handle = Handle::current().spawn(task);
        let mut tasks = sync::lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle.abort_handle());
        if self.link.state() == LinkState::Crashed {
            handle.abort();
        }
        handle
    }

    /// Crashes the process: it sends no further request. A crashed process stays crashed.
    ///
    /// The store receives nothing more from the process, including the requests that guards,
    /// sessions and futures send when they are dropped. The keys of the process therefore exist
    /// until their lease expires. A request that was sent before the crash may still be applied.
    ///
    /// In the process, every pending or later call stays pending forever, and watches deliver
    /// nothing. Tasks started with [`spawn`](Self::spawn) are aborted. Everything else that the
    /// test still runs for the process, such as the tasks of its sessions, continues without the
    /// store: sessions are lost at their own deadline.
    pub fn crash(&self) {
        // The link is closed first, so that it does not pass the requests that aborted tasks send.
        self.link.enter(LinkState::Crashed);
        for task in sync::lock(&self.tasks).drain(..) {
            task.abort();
        }
    }

    /// Partitions the process from the store until it [heals](Self::heal).
    ///
    /// The store receives nothing from the process during the partition. A request that was sent
    /// before the partition may still be applied, but the process receives the response only after
    /// it has healed.
    ///
    /// The process continues to run. A pending or later call fails with `Timeout`, and an unknown
    /// outcome, after 7 s, the default timeout of `coord-etcd`. Watches deliver nothing and report
    /// no error. Sessions become suspect, and are lost at their own deadline.
    ///
    /// Has no effect on a crashed process.
    pub fn partition(&self) {
        self.link.enter(LinkState::Partitioned);
    }

    /// Ends a [`partition`](Self::partition).
    ///
    /// The store receives the requests whose callers still wait. Watches deliver the events of the
    /// partition. A session whose deadline has not passed stays alive and keeps its locks. A
    /// session that was lost stays lost.
    ///
    /// Has no effect on a crashed process: create a new process with [`new`](Self::new).
    pub fn heal(&self) {
        self.link.enter(LinkState::Connected);
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("state", &self.link.state()).finish_non_exhaustive()
    }
}

/// Whether the requests of a process reach the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    Connected,
    Partitioned,
    /// Final.
    Crashed,
}

/// The connection between a process and the store, shared by all calls and watches of the process.
#[derive(Debug)]
struct Link {
    state: watch::Sender<LinkState>,
}

impl Link {
    fn state(&self) -> LinkState {
        *self.state.borrow()
    }

    /// Changes the state, unless the process has crashed.
    fn enter(&self, state: LinkState) {
        let enter = |current: &mut LinkState| {
            let changes = *current != LinkState::Crashed && *current != state;
            if changes {
                *current = state;
            }
            changes
        };
        self.state.send_if_modified(enter);
    }

    /// A future that waits until `matches` holds for the state.
    fn wait_for(&self, matches: fn(LinkState) -> bool) -> StateChange {
        let mut states = self.state.subscribe();
        Box::pin(async move {
            // `wait_for` fails only if the link was dropped, but the waiting callers own the link.
            drop(states.wait_for(|state| matches(*state)).await);
        })
    }

    fn wait_connected(&self) -> StateChange {
        self.wait_for(|state| state == LinkState::Connected)
    }

    fn wait_disconnected(&self) -> StateChange {
        self.wait_for(|state| state != LinkState::Connected)
    }
}

/// Completes when a [`Link`] enters the awaited state.
type StateChange = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The backend of a process: its calls and watches pass the [`Link`].
#[derive(Debug)]
struct LinkedBackend<B> {
    inner: Arc<B>,
    link: Arc<Link>,
}

impl<B: KvBackend> LinkedBackend<B> {
    async fn call<T: Send + 'static>(
        &self,
        _: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut request = pin!(request);
        loop {
            tokio::select! {
                biased;
                // This branch comes first, so that a disconnected process does not send the
                // request.
                () = self.link.wait_disconnected() => {}
                response = request.as_mut() => return response,
            }
            if timeout(REQUEST_TIMEOUT, self.link.wait_connected()).await.is_err() {
                break;
            }
        }
        if self.link.state() == LinkState::Crashed {
            std::future::pending::<()>().await;
        }
        Err(Error::Timeout { after: REQUEST_TIMEOUT })
    }

    fn wrap(&self, watch: Watcher) -> Watcher {
        let link = Arc::clone(&self.link);
        Watcher::new(watch.header(), LinkedWatch { watch, link, connected: None })
    }
}

forward_calls!(LinkedBackend);

/// A watch whose batches pass the [`Link`]. While the process is disconnected, the inner watch is
/// not polled and keeps its batches, so that a healed process misses no batch.
struct LinkedWatch {
    watch: Watcher,
    link: Arc<Link>,
    /// Completes when the link is connected again.
    connected: Option<StateChange>,
}

impl Stream for LinkedWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.link.state() != LinkState::Connected {
            let link = Arc::clone(&self.link);
            let connected = self.connected.get_or_insert_with(|| link.wait_connected());
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
