//! Watches: many on one stream, and none of them notices when a connection breaks.
//!
//! All watches of a backend share one watch stream to one member, as Go's clients do: ten thousand
//! of them cost one HTTP/2 stream. One task, the [driver](driver::Driver), owns the streams, and
//! ends when the backend and all its watches are gone. What the protocol demands is decided in
//! the [machine], which does no I/O; what has arrived waits in a [slot] for its reader.
//!
//! ```text
//!  watch()  ── commands ──▶  driver ── requests ──▶  lane Main   ◀──▶  a member
//!                            machine ◀── replies ──  lane Aside  ◀──▶  (only when needed)
//!  reader   ◀──── slot ────────┘
//! ```
//!
//! **What breaks, and what is done.** A lost stream is opened again, on whatever member answers,
//! and each watch is created again where it stands. A frozen member is found out by HTTP/2 pings,
//! which kill the stream, or because it does not confirm a registration in time. A member without a
//! leader ends its streams, for they ask for a leader. A reader who does not read loses nothing and
//! holds up nobody: see [`slot`].
//!
//! **A second stream** is opened in one case. etcd tells how far a *stream* has come, not a watch,
//! and nothing at all while any watcher on it waits for a revision that does not exist yet. When a
//! bookmark is asked for and that is in the way, the watches that wait for the future move to the
//! second stream, where they keep nobody from anything; each stays where it was until it is known
//! that no compaction can come in between. See [`machine`].
//!
//! **What is not promised.** A bookmark may be a little older than the request for it, when the
//! answer to an earlier request arrives just then; everything up to it has been delivered in any
//! case. On servers before 3.4.25 and 3.5.8 that too is not proven but very likely.

mod driver;
mod lane;
mod machine;
mod slot;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use coord_core::{
    Error, Result,
    error::Outcome,
    kv::{Header, KeyRange, Revision, Watch, Watcher},
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::endpoints::Endpoints;
use driver::Driver;
use machine::{Registered, WatchKey};
use slot::{Bounds, Slot};
use stream::EtcdWatch;

/// How much waits for a reader before its watch is paused.
const BOUNDS: Bounds = Bounds { batches: 8192, size_bytes: 32 << 20 };

/// All watches of one backend.
#[derive(Debug)]
pub(crate) struct Watches {
    endpoints: Arc<Endpoints>,
    bounds: Bounds,
    next_key: AtomicU64,
    /// How to reach the driver, once there is one.
    driver: Mutex<Option<UnboundedSender<Command>>>,
}

/// What the driver is told. When nobody can tell it anything any more, it ends.
#[derive(Debug)]
enum Command {
    Add {
        key: WatchKey,
        request: Watch,
        slot: Arc<Slot>,
        reply: oneshot::Sender<Result<Registered>>,
    },
    Remove(WatchKey),
    GoOn(WatchKey),
    Progress(WatchKey),
    /// The history that the watches follow is gone.
    EndAll(Error),
}

impl Watches {
    pub(crate) const fn new(endpoints: Arc<Endpoints>) -> Self {
        Self::with_bounds(endpoints, BOUNDS)
    }

    const fn with_bounds(endpoints: Arc<Endpoints>, bounds: Bounds) -> Self {
        Self { endpoints, bounds, next_key: AtomicU64::new(0), driver: Mutex::new(None) }
    }

    /// Registers a watch.
    ///
    /// # Errors
    /// `Compacted` for a negative start and `EmptyWatchRange`, before anything is sent;
    /// `PermissionDenied`, `Unauthenticated`; `Unavailable` when no member can be reached;
    /// `Timeout` when none confirms it.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the watch.
    pub(crate) async fn watch(&self, request: Watch) -> Result<Watcher> {
        let request = normalize(request)?;
        if let Some((header, stream)) = self.register(request.clone()).await? {
            return Ok(Watcher::new(header, stream));
        }
        // Behind a proxy "from now on" has to be a revision.
        let header = lane::now(&self.endpoints).await?;
        let request = request.start_at(header.revision.next());
        match self.register(request).await? {
            Some((_, stream)) => Ok(Watcher::new(header, stream)),
            None => Err(stream_failed("a watch from a revision on was not registered")),
        }
    }

    /// Registers a watch, unless the server needs to be given a revision.
    async fn register(&self, request: Watch) -> Result<Option<(Header, EtcdWatch)>> {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(Slot::new(self.bounds));
        let (reply, registered) = oneshot::channel();
        let commands = self.commands();
        let endpoints = Arc::clone(&self.endpoints);
        let stream = EtcdWatch::new(key, Arc::clone(&slot), commands, endpoints, request.clone());
        stream.tell(Command::Add { key, request, slot, reply });
        match registered.await.map_err(|_| driver_is_gone())?? {
            Registered::At(header) => Ok(Some((header, stream))),
            Registered::NeedsRevision => Ok(None),
        }
    }

    /// Ends all watches that are registered, with an error.
    pub(crate) fn end_all(&self, error: Error) {
        let driver = self.driver.lock().expect("no holder of the lock panics");
        if let Some(commands) = &*driver {
            // Without a driver there are no watches.
            let _ = commands.send(Command::EndAll(error));
        }
    }

    /// How to tell the driver something. It is started by the first watch; and again when the
    /// runtime that it ran on is gone, for a backend may outlive that.
    fn commands(&self) -> UnboundedSender<Command> {
        let mut driver = self.driver.lock().expect("no holder of the lock panics");
        match &*driver {
            Some(commands) if !commands.is_closed() => commands.clone(),
            _ => {
                let (commands, inbox) = unbounded_channel();
                let task = Driver::new(Arc::clone(&self.endpoints)).run(inbox);
                #[expect(clippy::disallowed_methods, reason = "its owners hold `commands`")]
                tokio::spawn(task);
                *driver = Some(commands.clone());
                commands
            }
        }
    }
}

/// Gives an empty key the meaning that it has in a watch, and refuses what can never happen.
fn normalize(mut request: Watch) -> Result<Watch> {
    if let Some(start) = request.start_revision.filter(|start| *start < Revision::ZERO) {
        return Err(Error::Compacted { requested: Some(start), compact_revision: None });
    }
    if request.keys.start().is_empty() {
        request.keys = KeyRange::from_wire("\0", request.keys.range_end());
    }
    if request.keys.is_empty() {
        return Err(Error::EmptyWatchRange { keys: request.keys });
    }
    Ok(request)
}

/// Something is wrong with a stream. A watch changes nothing.
fn stream_failed(reason: &str) -> Error {
    let reason = format!("watch stream: {reason}");
    Error::Unavailable { outcome: Outcome::NotApplied, reason, source: None }
}

fn driver_is_gone() -> Error {
    stream_failed("the runtime that it ran on is gone")
}
