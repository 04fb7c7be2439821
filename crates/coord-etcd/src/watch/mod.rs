//! Watches: all watches of a backend share one stream, and resume after a broken connection.
//!
//! All watches of a backend share one watch stream to one member, as in Go's clients, so ten
//! thousand of them cost one HTTP/2 stream. One task, the [driver](driver::Driver), owns the
//! streams, and ends when the backend and all its watches are dropped. The [machine] implements the
//! protocol without I/O. Batches wait for their reader in a [buffer].
//!
//! ```text
//!  watch()  ── commands ──▶  driver ── requests ──▶  stream Shared       ◀──▶  a member
//!                            machine ◀── events ───  stream FutureStart  ◀──▶  (only when needed)
//!  reader   ◀─── buffer ───────┘
//! ```
//!
//! **Failures.** A lost stream is reopened on a member that responds, and each watch is registered
//! again from its next revision. HTTP/2 pings detect a frozen member, as does a confirmation that
//! does not arrive in time. Streams require a leader, so a member without one ends them. A reader
//! that does not read loses no event and delays no other watch: see [`buffer`].
//!
//! **The future-start stream** is opened in one case. etcd reports the progress of a *stream*, not
//! of a watch, and reports none while a watcher on the stream waits for a revision that does not
//! exist yet. When such a watcher blocks a requested progress notification, it moves to the
//! future-start stream. It keeps its current registration until no compaction can cause a gap. See
//! [`machine`].
//!
//! **Limits of the guarantee.** A progress notification may be slightly older than the request for
//! it, when the response to an earlier request arrives just then. Every event up to its revision
//! has been delivered. On servers before 3.4.25 and 3.5.8 that is very likely, but not proven.

mod buffer;
mod driver;
mod machine;
mod reader;
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
use buffer::{BufferLimits, ReaderBuffer};
use driver::Driver;
use machine::{Registered, WatchKey};
use reader::EtcdWatch;

/// The limits of a reader's buffer. A watch is paused while its buffer is full.
const BUFFER_LIMITS: BufferLimits = BufferLimits { batches: 8192, size_bytes: 32 << 20 };

/// All watches of one backend.
#[derive(Debug)]
pub(crate) struct Watches {
    endpoints: Arc<Endpoints>,
    limits: BufferLimits,
    next_key: AtomicU64,
    /// The command channel of the driver, once it was started.
    driver: Mutex<Option<UnboundedSender<Command>>>,
}

/// A command for the driver. The driver ends when all senders are dropped.
#[derive(Debug)]
enum Command {
    Add {
        key: WatchKey,
        request: Watch,
        buffer: Arc<ReaderBuffer>,
        reply: oneshot::Sender<Result<Registered>>,
    },
    Remove(WatchKey),
    Resume(WatchKey),
    Progress(WatchKey),
    /// The history of the store was replaced.
    EndAll(Error),
}

impl Watches {
    pub(crate) const fn new(endpoints: Arc<Endpoints>) -> Self {
        Self::with_limits(endpoints, BUFFER_LIMITS)
    }

    const fn with_limits(endpoints: Arc<Endpoints>, limits: BufferLimits) -> Self {
        Self { endpoints, limits, next_key: AtomicU64::new(0), driver: Mutex::new(None) }
    }

    /// Registers a watch.
    ///
    /// # Errors
    /// `Compacted` for a negative start and `EmptyWatchRange`, before anything is sent;
    /// `PermissionDenied`, `Unauthenticated`; `Unavailable` when no member can be reached;
    /// `Timeout` when no member confirms the registration.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the watch.
    pub(crate) async fn watch(&self, request: Watch) -> Result<Watcher> {
        let request = normalize(request)?;
        if let Some((header, stream)) = self.register(request.clone()).await? {
            return Ok(Watcher::new(header, stream));
        }
        // A proxy needs a revision in place of "from now on".
        let header = stream::now(&self.endpoints).await?;
        let request = request.start_at(header.revision.next());
        match self.register(request).await? {
            Some((_, stream)) => Ok(Watcher::new(header, stream)),
            None => Err(stream_failed("a watch from a revision on was not registered")),
        }
    }

    /// Registers a watch. Returns `None` if the server needs a start revision.
    async fn register(&self, request: Watch) -> Result<Option<(Header, EtcdWatch)>> {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let buffer = Arc::new(ReaderBuffer::new(self.limits));
        let (reply, registered) = oneshot::channel();
        let commands = self.commands();
        let endpoints = Arc::clone(&self.endpoints);
        let reader = EtcdWatch::new(key, Arc::clone(&buffer), commands, endpoints, request.clone());
        reader.send(Command::Add { key, request, buffer, reply });
        match registered.await.map_err(|_| driver_is_gone())?? {
            Registered::At(header) => Ok(Some((header, reader))),
            Registered::NeedsRevision => Ok(None),
        }
    }

    /// Ends all registered watches with an error.
    pub(crate) fn end_all(&self, error: Error) {
        let driver = self.driver.lock().expect("no holder of the lock panics");
        if let Some(commands) = &*driver {
            // Without a driver there are no watches.
            let _ = commands.send(Command::EndAll(error));
        }
    }

    /// The command channel of the driver. The first watch starts the driver; a later watch starts
    /// it again if its runtime was shut down, because a backend may outlive a runtime.
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

/// Gives an empty key its meaning in a watch, and refuses a watch that can receive no events.
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

/// The error of a failed stream. A watch changes nothing, so the outcome is known.
fn stream_failed(reason: &str) -> Error {
    let reason = format!("watch stream: {reason}");
    Error::Unavailable { outcome: Outcome::NotApplied, reason, source: None }
}

fn driver_is_gone() -> Error {
    stream_failed("the runtime that it ran on is gone")
}
