//! Probes: requests that detect whether the server of a quiet stream still responds.
//!
//! HTTP/2 pings end a connection whose member is frozen, but a proxy in front of the member
//! acknowledges pings itself. Silence proves nothing either: a server sends nothing while nothing
//! changes, and no progress while a watch of the stream waits for a future revision. So a quiet
//! stream is probed with a request to which every server responds at once: a watch of an empty
//! range, which it refuses. If no response arrives in time, the stream is closed, and its watches
//! are registered on another stream, to another member if there is one.
//!
//! | situation | when the stream is probed |
//! |---|---|
//! | no progress notification is requested | 15 s after the last message |
//! | such a request is outstanding | 2 s after both the last message and the request |
//! | a confirmation is outstanding | never: the confirmation has a timeout of its own |
//! | no watch is live | never: no watch can miss an event |

use std::time::Duration;

use tokio::time::Instant;

use super::stream::PendingCreate;
use super::{Action, Machine, Request, StreamPhase, StreamRole};

/// The time without a message after which a stream is probed.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(15);

/// The time without a message after which a stream is probed while a requested progress
/// notification is outstanding.
pub(super) const PROBE_FOR_PROGRESS_AFTER: Duration = Duration::from_secs(2);

impl Machine {
    /// When to probe the stream; `None` if it needs no probe.
    pub(super) fn probe_at(&self, role: StreamRole) -> Option<Instant> {
        let StreamPhase::Open(open) = &self.streams[role as usize].phase else { return None };
        if open.live.is_empty() || !open.creating.is_empty() {
            return None;
        }
        let quiet = open.last_message + PROBE_AFTER;
        let pending = open.progress_pending_since.filter(|_| self.is_progress_requested(role));
        let early = pending.map(|since| open.last_message.max(since) + PROBE_FOR_PROGRESS_AFTER);
        Some(early.map_or(quiet, |early| early.min(quiet)))
    }

    /// Probes the stream, if that is due.
    pub(super) fn probe(&mut self, role: StreamRole, now: Instant) {
        if self.probe_at(role).is_none_or(|at| at > now) {
            return;
        }
        let until = now + self.config.registration_timeout;
        let id = self.next_id;
        if let Some(open) = self.stream(role).open() {
            open.creating.push_back(PendingCreate { id, number: None, until });
            self.next_id += 1;
            self.actions.push(Action::Send(role, Request::Probe { id }));
        }
    }
}
