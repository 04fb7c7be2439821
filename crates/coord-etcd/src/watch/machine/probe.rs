//! Probes: detect that a quiet stream has no server any more.
//!
//! HTTP/2 pings end a connection whose member is frozen, but a proxy in front of the member
//! acknowledges pings itself. Silence proves nothing either: a server sends nothing while nothing
//! changes, and no progress while one of its watchers waits for a future revision. So a quiet
//! stream is probed with a request to which every server responds at once: a watch of an empty
//! range, which it refuses. A stream without a response in time is closed, and its watches are
//! registered on another one, on another member if there is one.
//!
//! | situation | the stream is probed |
//! |---|---|
//! | nothing arrived for 15 s | then |
//! | a requested progress notification is due, and nothing arrived for 2 s | then |
//! | a confirmation is outstanding | not: the confirmation has a timeout of its own |

use std::time::Duration;

use tokio::time::Instant;

use super::stream::PendingCreate;
use super::{Action, Machine, Request, StreamPhase, StreamRole};

/// The time without a message after which a stream is probed.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(15);

/// The same time while a requested progress notification is due.
pub(super) const PROBE_WHEN_DUE_AFTER: Duration = Duration::from_secs(2);

impl Machine {
    /// When to probe the stream.
    pub(super) fn probe_at(&self, role: StreamRole) -> Option<Instant> {
        let StreamPhase::Open(open) = &self.streams[role as usize].phase else { return None };
        if open.live.is_empty() || !open.creating.is_empty() {
            return None;
        }
        let quiet = open.last_message + PROBE_AFTER;
        let due = open.unanswered_since.filter(|_| self.is_progress_requested(role));
        let due = due.map(|since| open.last_message.max(since) + PROBE_WHEN_DUE_AFTER);
        Some(due.map_or(quiet, |due| due.min(quiet)))
    }

    /// Probes the stream, if that is due.
    pub(super) fn probe(&mut self, role: StreamRole, now: Instant) {
        if self.probe_at(role).is_none_or(|at| at > now) {
            return;
        }
        let until = now + self.config.registration_timeout;
        let id = self.next_id;
        if let Some(open) = self.stream(role).open() {
            open.creating.push_back(PendingCreate { id, key: None, until });
            self.next_id += 1;
            self.actions.push(Action::Send(role, Request::Probe { id }));
        }
    }
}
