//! The state of one watch stream in the machine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::WatchNumber;
use super::proxied::Proxied;

/// The role of a watch stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StreamRole {
    /// The stream that all watches share.
    Shared,
    /// The stream for watches that start at a future revision, and block the progress notifications
    /// of other watches.
    FutureStart,
}

impl StreamRole {
    /// Both roles.
    pub(crate) const ALL: [Self; 2] = [Self::Shared, Self::FutureStart];
}

/// A stream that stayed open at least this long resets the reopen backoff.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// The longest pause between attempts to open a stream.
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The unit of the reopen backoff. The first pause has two units, and each later one twice as many.
const REOPEN_PAUSE_UNIT: Duration = Duration::from_millis(50);

/// A watch stream, open or not.
#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) phase: StreamPhase,
    /// How many times the stream was lost, or could not be opened, since it was last stable.
    failures: u32,
}

/// The phase of a watch stream.
#[derive(Debug)]
pub(super) enum StreamPhase {
    /// There is no stream. It may be opened at `from` or later; `None` if at any time.
    Closed { from: Option<Instant> },
    /// The driver opens the stream, within the request timeout.
    Opening,
    /// The stream is open.
    Open(OpenStream),
}

/// An open watch stream.
#[derive(Debug)]
pub(super) struct OpenStream {
    /// When the stream was opened.
    since: Instant,
    /// The ids of the proxy if the server is `etcd grpc-proxy`.
    pub(super) proxied: Option<Proxied>,
    /// Whether a progress notification of the server proves that all earlier events were sent.
    /// Unknown until the server confirms the first watch, or responds to a progress request before
    /// that. `false` for `etcd grpc-proxy`.
    pub(super) proves_progress: Option<bool>,
    /// The unconfirmed registrations and probes, in the order of the requests. The responses have
    /// the same order.
    pub(super) creating: VecDeque<PendingCreate>,
    /// The live watches, by the id of the registration.
    pub(super) live: BTreeMap<i64, WatchNumber>,
    /// Since when a requested progress notification is outstanding.
    pub(super) progress_pending_since: Option<Instant>,
    /// When the last progress request was sent. Requests that a watch causes while a response is
    /// outstanding do not count.
    pub(super) last_progress_request: Instant,
    /// When the last message arrived.
    pub(super) last_message: Instant,
    /// When to request progress although no watch has requested it.
    pub(super) next_periodic_progress: Instant,
}

/// An unconfirmed request to create a watch, or a probe, which the server refuses.
#[derive(Debug)]
pub(super) struct PendingCreate {
    pub(super) id: i64,
    /// The watch; `None` for a probe.
    pub(super) number: Option<WatchNumber>,
    /// When the confirmation times out.
    pub(super) until: Instant,
}

impl OpenStream {
    pub(super) fn new(now: Instant, next_periodic_progress: Instant, proxied: bool) -> Self {
        let proxied = proxied.then(Proxied::default);
        Self {
            since: now,
            // A proxy ignores progress requests, and old ones crash on them.
            proves_progress: proxied.as_ref().map(|_| false),
            proxied,
            creating: VecDeque::new(),
            live: BTreeMap::new(),
            progress_pending_since: None,
            last_progress_request: now,
            last_message: now,
            next_periodic_progress,
        }
    }
}

impl StreamState {
    pub(super) const fn new() -> Self {
        Self { phase: StreamPhase::Closed { from: None }, failures: 0 }
    }

    pub(super) const fn open(&mut self) -> Option<&mut OpenStream> {
        match &mut self.phase {
            StreamPhase::Open(open) => Some(open),
            StreamPhase::Closed { .. } | StreamPhase::Opening => None,
        }
    }

    /// Closes a failed stream. A stream that was stable may be reopened at once; otherwise the
    /// pause doubles with each failure.
    pub(super) fn close(&mut self, now: Instant) {
        if let StreamPhase::Open(open) = &self.phase
            && now - open.since >= STABLE_AFTER
        {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => REOPEN_PAUSE_MAX.min(REOPEN_PAUSE_UNIT * (1 << failures.min(16))),
        };
        self.failures += 1;
        self.phase = StreamPhase::Closed { from: Some(now + pause) };
    }
}
