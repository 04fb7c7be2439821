//! Watches: all watches of a backend share one watch stream, and resume after a lost connection.
//!
//! The shared stream leads to one member, as in Go's clients, so ten thousand watches cost one
//! HTTP/2 stream. One task, the [driver](driver::Driver), owns the streams, and ends when the
//! backend and all its watches are dropped. The [machine] implements the protocol without I/O.
//! Batches wait for their reader in a [buffer].
//!
//! ```text
//!  watch()  ── commands ──▶  driver ── requests ──▶  stream Shared       ◀──▶  a member
//!                            machine ◀── events ───  stream FutureStart  ◀──▶  (only when needed)
//!  reader   ◀─── buffer ───────┘
//! ```
//!
//! **Failures.** A lost stream is reopened on a member that responds, and each watch is registered
//! again from its next revision. A frozen member is detected by HTTP/2 pings, by a confirmation
//! that does not arrive in time, and by probes. Streams require a leader, so a member without a
//! leader ends them. A reader that does not read loses no event and delays no other watch: see
//! [`buffer`].
//!
//! **The future-start stream** is opened in one case. etcd reports the progress of a *stream*, not
//! of a watch, and reports none while a watch on the stream waits for a revision that does not
//! exist yet. When such a watch blocks a requested progress notification, it moves to the
//! future-start stream. It keeps its current registration until no compaction can cause a gap. See
//! [`machine`].
//!
//! **Limits of the guarantee.** A progress notification means that every event up to its revision
//! has been delivered. On servers before 3.4.25 and 3.5.8 that is very likely, but not proven. A
//! notification may be slightly older than the request for it, if the response to an earlier
//! request arrives just after the request.

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
use machine::{Registered, WatchNumber};
use reader::EtcdWatch;

/// The limits of a reader's buffer. A watch is paused when its buffer is full.
const BUFFER_LIMITS: BufferLimits = BufferLimits { batches: 8192, size_bytes: 32 << 20 };

/// All watches of one backend.
#[derive(Debug)]
pub(crate) struct Watches {
    endpoints: Arc<Endpoints>,
    limits: BufferLimits,
    next_number: AtomicU64,
    /// The command channel of the driver; `None` before the first watch.
    driver: Mutex<Option<UnboundedSender<Command>>>,
}

/// A command for the driver. The driver ends when all senders are dropped.
#[derive(Debug)]
enum Command {
    /// Registers a watch, and sends the result to `reply`.
    Add {
        number: WatchNumber,
        request: Watch,
        buffer: Arc<ReaderBuffer>,
        reply: oneshot::Sender<Result<Registered>>,
    },
    /// The watch was dropped.
    Remove(WatchNumber),
    /// The reader of a paused watch has made room in its buffer.
    Resume(WatchNumber),
    /// The reader requests a progress notification.
    Progress(WatchNumber),
    /// The history of the store was replaced: all registered watches end with this error.
    EndAll(Error),
}

impl Watches {
    pub(crate) const fn new(endpoints: Arc<Endpoints>) -> Self {
        Self::with_limits(endpoints, BUFFER_LIMITS)
    }

    const fn with_limits(endpoints: Arc<Endpoints>, limits: BufferLimits) -> Self {
        Self { endpoints, limits, next_number: AtomicU64::new(0), driver: Mutex::new(None) }
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
        // A proxy registers a watch from now on only with an explicit start revision.
        let header = stream::current_header(&self.endpoints).await?;
        let request = request.start_at(header.revision.next());
        match self.register(request).await? {
            Some((_, stream)) => Ok(Watcher::new(header, stream)),
            None => Err(stream_error("a watch with a start revision was not registered")),
        }
    }

    /// Registers a watch. Returns `None` if the server needs a start revision.
    async fn register(&self, request: Watch) -> Result<Option<(Header, EtcdWatch)>> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let buffer = Arc::new(ReaderBuffer::new(self.limits));
        let (reply, registered) = oneshot::channel();
        let commands = self.commands();
        let endpoints = Arc::clone(&self.endpoints);
        let reader =
            EtcdWatch::new(number, Arc::clone(&buffer), commands, endpoints, request.clone());
        reader.send(Command::Add { number, request, buffer, reply });
        match registered.await.map_err(|_| driver_gone_error())?? {
            Registered::At(header) => Ok(Some((header, reader))),
            Registered::NeedsRevision => Ok(None),
        }
    }

    /// Ends all registered watches with an error. Without a driver there are none.
    pub(crate) fn end_all(&self, error: Error) {
        let driver = self.driver.lock().expect("no holder of the lock panics");
        if let Some(commands) = &*driver {
            // Fails if the driver has ended. Then no watch is left.
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

/// Replaces an empty key by the first possible key, as etcd does in a watch, and refuses a watch
/// that can receive no events.
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

/// The error of a failed stream. The outcome is `NotApplied`, because a watch changes nothing.
fn stream_error(reason: &str) -> Error {
    let reason = format!("watch stream: {reason}");
    Error::Unavailable { outcome: Outcome::NotApplied, reason, source: None }
}

/// The error of a watch whose driver has ended with its runtime.
fn driver_gone_error() -> Error {
    stream_error("the runtime that it ran on was shut down: register the watch again")
}
