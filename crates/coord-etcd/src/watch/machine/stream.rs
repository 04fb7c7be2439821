//! The state of one watch stream in the machine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::WatchKey;
use super::proxied::Proxied;

/// The role of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StreamRole {
    /// The stream that all watches share.
    Shared,
    /// The stream for watches that start in the future, when they would block the progress
    /// notifications of the others.
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

/// The unit of the reopen backoff: the first pause is twice as long.
const REOPEN_PAUSE_MIN: Duration = Duration::from_millis(50);

/// A stream, open or not.
#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) phase: StreamPhase,
    /// How many times in a row the stream was lost before it was stable.
    failures: u32,
}

/// The phase of a stream.
#[derive(Debug)]
pub(super) enum StreamPhase {
    /// There is no stream. It may be opened from the given time on.
    Closed { from: Option<Instant> },
    /// The driver opens it, within the request timeout.
    Opening,
    /// It is open.
    Open(OpenStream),
}

/// An open stream.
#[derive(Debug)]
pub(super) struct OpenStream {
    since: Instant,
    /// The ids of the proxy if the server is `etcd grpc-proxy`.
    pub(super) proxied: Option<Proxied>,
    /// Whether a progress notification of the server proves that all earlier events were sent.
    /// Unknown until the server confirms the first watch.
    pub(super) proves_progress: Option<bool>,
    /// The unconfirmed registrations in the order of the requests, which is that of the responses.
    pub(super) creating: VecDeque<PendingCreate>,
    /// The live watches, by the id of the registration.
    pub(super) live: BTreeMap<i64, WatchKey>,
    /// Since when a progress request has no response.
    pub(super) unanswered_since: Option<Instant>,
    /// When the last progress request was sent.
    pub(super) last_progress_request: Instant,
    /// When the last message arrived.
    pub(super) last_message: Instant,
    /// When to request progress although no watch wants a notification.
    pub(super) next_refresh: Instant,
}

/// An unconfirmed request to create a watch, or a probe, which the server refuses.
#[derive(Debug)]
pub(super) struct PendingCreate {
    pub(super) id: i64,
    /// The watch; `None` for a probe.
    pub(super) key: Option<WatchKey>,
    pub(super) until: Instant,
}

impl OpenStream {
    pub(super) fn new(now: Instant, next_refresh: Instant, proxied: bool) -> Self {
        let proxied = proxied.then(Proxied::default);
        Self {
            since: now,
            // A proxy ignores progress requests, and old ones crash on them.
            proves_progress: proxied.as_ref().map(|_| false),
            proxied,
            creating: VecDeque::new(),
            live: BTreeMap::new(),
            unanswered_since: None,
            last_progress_request: now,
            last_message: now,
            next_refresh,
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

    /// Closes a failed stream. A stable stream may be reopened at once; otherwise the pause doubles
    /// with each failure.
    pub(super) fn close(&mut self, now: Instant) {
        if let StreamPhase::Open(open) = &self.phase
            && now - open.since >= STABLE_AFTER
        {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => REOPEN_PAUSE_MAX.min(REOPEN_PAUSE_MIN * (1 << failures.min(16))),
        };
        self.failures += 1;
        self.phase = StreamPhase::Closed { from: Some(now + pause) };
    }
}
