//! One watch stream to a server, as far as the machine cares.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::WatchKey;
use super::proxied::Proxied;

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LaneName {
    /// The one that watches share.
    Main,
    /// The one to which watches of the future go when they would keep others from progress.
    Aside,
}

impl LaneName {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Main, Self::Aside];
}

/// A stream that lived this long was sound: what it dies of is news.
const STEADY: Duration = Duration::from_secs(5);

/// The longest pause between attempts to open a stream.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The shortest.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A stream, open or not.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) state: LaneState,
    /// How often in a row it was lost soon.
    failures: u32,
}

#[derive(Debug)]
pub(super) enum LaneState {
    /// There is none. It may be opened from the given time on.
    Closed { from: Option<Instant> },
    /// It is being opened, or that fails, in a time that others see to.
    Opening,
    /// It is open.
    Open(Open),
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Open {
    since: Instant,
    /// Whether the server is `etcd grpc-proxy`, and which watch has which id of it.
    pub(super) proxied: Option<Proxied>,
    /// Whether its word about progress can be taken; unknown until the first watch is created.
    pub(super) sound: Option<bool>,
    /// What is being created, in the order of the requests, which is that of the answers.
    pub(super) creating: VecDeque<Creating>,
    /// Which watch has which id of the server.
    pub(super) live: BTreeMap<i64, WatchKey>,
    /// Since when a request for progress has no answer.
    pub(super) unanswered: Option<Instant>,
    /// When it was repeated last.
    pub(super) asked: Instant,
    /// When the last message arrived.
    pub(super) heard: Instant,
    /// When to ask for progress on nobody's behalf.
    pub(super) refresh: Instant,
}

/// A request to create a watch, or a probe, which is to be refused.
#[derive(Debug)]
pub(super) struct Creating {
    pub(super) id: i64,
    /// The watch. A probe has none.
    pub(super) key: Option<WatchKey>,
    pub(super) until: Instant,
}

impl Open {
    pub(super) fn new(now: Instant, refresh: Instant, proxied: bool) -> Self {
        let proxied = proxied.then(Proxied::default);
        Self {
            since: now,
            // It answers no progress request, and older ones end when they are sent one.
            sound: proxied.as_ref().map(|_| false),
            proxied,
            creating: VecDeque::new(),
            live: BTreeMap::new(),
            unanswered: None,
            asked: now,
            heard: now,
            refresh,
        }
    }
}

impl Lane {
    pub(super) const fn new() -> Self {
        Self { state: LaneState::Closed { from: None }, failures: 0 }
    }

    pub(super) const fn open(&mut self) -> Option<&mut Open> {
        match &mut self.state {
            LaneState::Open(open) => Some(open),
            LaneState::Closed { .. } | LaneState::Opening => None,
        }
    }

    /// Closes it after a failure: a stream that had lived for a while is opened again at once, and
    /// the sooner they die in a row the longer is the pause.
    pub(super) fn close(&mut self, now: Instant) {
        if let LaneState::Open(open) = &self.state
            && now - open.since >= STEADY
        {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => PAUSE_MAX.min(PAUSE_MIN * (1 << failures.min(16))),
        };
        self.failures += 1;
        self.state = LaneState::Closed { from: Some(now + pause) };
    }
}
