//! Probes: whether a stream on which nothing arrives still has a server.
//!
//! HTTP/2 pings end a connection whose member is frozen, but a proxy between the two answers pings
//! itself. A silent stream is no proof either: a server sends nothing while nothing changes, and no
//! progress while one of its watchers waits for a future revision. So a quiet stream is probed with
//! a request that every server answers at once: a watch of an empty range, which it refuses. A
//! stream without an answer in time is given up, and its watches move to another one, on another
//! member if there is one.
//!
//! | situation | the stream is probed |
//! |---|---|
//! | nothing arrived for 15 s | then |
//! | a requested progress notification is due, and nothing arrived for 2 s | then |
//! | an answer of any kind is outstanding | not now: that answer is the proof |

use std::time::Duration;

use tokio::time::Instant;

use super::lane::Creating;
use super::{Action, LaneName, LaneState, Machine, Request};

/// After how long without any message a stream is probed.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(15);

/// After how long while a requested progress notification is due.
pub(super) const PROBE_WHEN_DUE_AFTER: Duration = Duration::from_secs(2);

impl Machine {
    /// When to probe the stream.
    pub(super) fn probe_at(&self, name: LaneName) -> Option<Instant> {
        let LaneState::Open(open) = &self.lanes[name as usize].state else { return None };
        if open.live.is_empty() || !open.creating.is_empty() {
            return None;
        }
        let quiet = open.heard + PROBE_AFTER;
        let due = open.unanswered.filter(|_| self.is_asked(name));
        let due = due.map(|since| open.heard.max(since) + PROBE_WHEN_DUE_AFTER);
        Some(due.map_or(quiet, |due| due.min(quiet)))
    }

    /// Probes the stream, if it is time.
    pub(super) fn probe(&mut self, name: LaneName, now: Instant) {
        if self.probe_at(name).is_none_or(|at| at > now) {
            return;
        }
        let until = now + self.settings.attempt;
        let id = self.next_id;
        if let Some(open) = self.lane(name).open() {
            open.creating.push_back(Creating { id, key: None, until });
            self.next_id += 1;
            self.actions.push(Action::Send(name, Request::Probe { id }));
        }
    }
}
