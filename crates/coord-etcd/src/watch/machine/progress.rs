//! Progress notifications on request: which watches have received every event up to a revision.
//!
//! etcd responds to a progress request with one message for the whole stream, and only if every
//! watcher on it has caught up; otherwise it does not respond at all. So the machine repeats the
//! request, and applies the response to every watch whose registration on the stream was confirmed
//! before. Four situations need care:
//!
//! - *A watcher whose revisions are compacted* counts as not caught up until it is cancelled. The
//!   machine cancels it at once.
//! - *A watcher that waits for a future revision* blocks the responses of the whole stream, on
//!   3.4.38, 3.5.22, 3.6.2 and later. The machine moves it to a second stream, the **future-start
//!   stream**. The confirmation there proves that the watcher waits, so no compaction affects it,
//!   and that it has received every event up to the revision of the confirmation: if the watch
//!   itself has requested progress, that is its notification. A watch on the future-start stream
//!   that requests progress and no longer waits moves back, if a waiting watch blocks its
//!   notification.
//! - *Servers before 3.4.25 and 3.5.8* respond at once, although they may not have sent all earlier
//!   events. They respond even to a progress request on a stream without watchers, where later
//!   servers do not. So that is the first request on each stream; the confirmation of the first
//!   watch ends the wait for the response.
//! - *A response of such a server* proves nothing. The machine accepts its revision when a second
//!   response arrived at least [`SETTLE_DELAY`] later and no event of the watch arrived between the
//!   two. That is ten periods of the server's catch-up loop. The notification goes to the watch
//!   that requested it, but the watch does not advance: an earlier event that arrives after all is
//!   delivered.
//!
//! The machine also requests progress periodically. After a lost connection a quiet watch starts
//! again at the newest revision that it knows of. The newer that revision is, the less likely it
//! is compacted by then.

use std::time::Duration;

use coord_core::kv::Revision;
use tokio::time::Instant;

use super::watch_state::{Registration, WatchState};
use super::{Action, Machine, Request, StreamPhase, StreamRole, WatchKey};

/// The delay after which no earlier event of a watch is expected: between two responses of a server
/// that does not prove progress, and between a confirmation and the end of a move.
const SETTLE_DELAY: Duration = Duration::from_secs(1);

/// The interval of the progress requests that no watch has requested.
pub(super) const PROGRESS_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// The first pause before a progress request is repeated: the period of etcd's catch-up loop. Later
/// pauses are as long as the time without a response.
const PROGRESS_RETRY_MIN: Duration = Duration::from_millis(100);

/// The longest pause before a progress request is repeated.
const PROGRESS_RETRY_MAX: Duration = Duration::from_secs(1);

/// The time without a response after which blocking watches are moved.
const BLOCKED_AFTER: Duration = Duration::from_millis(200);

impl Machine {
    /// The reader of a watch requests a progress notification.
    pub(in super::super) fn request_progress(&mut self, key: WatchKey, now: Instant) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        watch.progress_requested = Some(now);
        self.progress_requests.insert(key);
        let live = watch.registrations().filter(|registration| registration.is_live());
        // On other streams it is requested when the registration is confirmed.
        for role in live.map(|registration| registration.role).collect::<Vec<_>>() {
            self.request_progress_on(role, now);
        }
    }

    /// Sends a progress request at once.
    pub(super) fn request_progress_on(&mut self, role: StreamRole, now: Instant) {
        let Some(open) = self.stream(role).open() else { return };
        // Frequent requests must not postpone the move of blocking watches.
        if open.unanswered_since.is_none() {
            open.unanswered_since = Some(now);
            open.last_progress_request = now;
        }
        self.send_progress_request(role);
    }

    fn send_progress_request(&mut self, role: StreamRole) {
        if !self.is_proxied(role) {
            self.actions.push(Action::Send(role, Request::Progress));
        }
    }

    /// A server reports that it has sent every event up to `revision`.
    pub(super) fn on_progress(&mut self, role: StreamRole, revision: Revision, now: Instant) {
        let Some(open) = self.stream(role).open() else { return };
        let Some(is_proof) = open.proves_progress else {
            // A response on a stream without watchers.
            open.proves_progress = Some(false);
            return;
        };
        open.unanswered_since = None;
        for key in open.live.values().copied().collect::<Vec<_>>() {
            let Some(watch) = self.watches.get_mut(&key) else { continue };
            if let Some(requested) = watch.progress_requested {
                // The time of the response counts: a later request needs a later response.
                let (revision, at) = match watch.unproven_progress {
                    _ if is_proof => (revision, now),
                    Some((revision, at)) if now - at >= SETTLE_DELAY => (revision, at),
                    Some(_) => continue,
                    None => {
                        watch.unproven_progress = Some((revision, now));
                        continue;
                    }
                };
                watch.unproven_progress = None;
                if watch.deliver_progress(revision) && at >= requested {
                    watch.clear_progress_request();
                    self.progress_requests.remove(&key);
                }
            }
            if is_proof {
                watch.advance_to(revision);
                // The response to an earlier request may arrive after the confirmation.
                let is_settled = |target: &Registration| {
                    target.is_live_on(role)
                        && target.since.is_some_and(|since| now - since >= SETTLE_DELAY)
                };
                if watch.target.as_ref().is_some_and(is_settled) {
                    self.complete_move(key);
                }
            }
        }
    }

    /// Whether a live watch of the stream has an outstanding progress request.
    pub(super) fn is_progress_requested(&self, role: StreamRole) -> bool {
        let watches = self.progress_requests.iter().filter_map(|key| self.watches.get(key));
        let mut registrations = watches.flat_map(WatchState::registrations);
        registrations.any(|registration| registration.is_live_on(role))
    }

    /// Resets the time without a response on streams without outstanding progress requests, so that
    /// it does not count for the next request.
    pub(super) fn clear_unanswered(&mut self) {
        for role in StreamRole::ALL {
            if !self.is_progress_requested(role)
                && let Some(open) = self.stream(role).open()
            {
                open.unanswered_since = None;
            }
        }
    }

    /// When to send the next progress request.
    pub(super) fn progress_request_due(&self, role: StreamRole) -> Option<Instant> {
        let StreamPhase::Open(open) = &self.streams[role as usize].phase else { return None };
        let last = open.last_progress_request;
        let repeat = self.is_progress_requested(role).then(|| {
            let unanswered = open.unanswered_since.map_or(Duration::ZERO, |since| last - since);
            last + unanswered.clamp(PROGRESS_RETRY_MIN, PROGRESS_RETRY_MAX)
        });
        let refreshes = open.proves_progress == Some(true) && !open.live.is_empty();
        [refreshes.then_some(open.next_refresh), repeat].into_iter().flatten().min()
    }

    /// Sends the next progress request, if it is due.
    pub(super) fn repeat_progress_request(&mut self, role: StreamRole, now: Instant) {
        if self.progress_request_due(role).is_none_or(|at| at > now) {
            return;
        }
        let is_requested = self.is_progress_requested(role);
        let Some(open) = self.stream(role).open() else { return };
        open.last_progress_request = now;
        open.next_refresh = now + PROGRESS_REFRESH_INTERVAL;
        if is_requested {
            let since = *open.unanswered_since.get_or_insert(now);
            if now - since >= BLOCKED_AFTER && open.proves_progress == Some(true) {
                self.move_blocking_watches(role, now);
            }
        }
        self.send_progress_request(role);
    }

    /// Moves the watches that block the progress responses of a stream.
    fn move_blocking_watches(&mut self, role: StreamRole, now: Instant) {
        let newest = self.newest;
        let live = || self.watches.iter().filter(|(_, watch)| watch.current.is_live_on(role));
        let wants_progress = |watch: &WatchState| {
            watch.progress_requested.is_some() && !watch.starts_in_future(newest)
        };
        let is_needed = live().any(|(_, watch)| wants_progress(watch));
        let target = |watch: &WatchState| match (role, watch.current.blocks_progress(newest)) {
            _ if watch.is_pinned || watch.target.is_some() => None,
            // Only if another watch can get its notification then.
            (StreamRole::Shared, true) => is_needed.then_some(StreamRole::FutureStart),
            (StreamRole::Shared, false) => None,
            // Registered again, because the confirmation is its notification.
            (StreamRole::FutureStart, true) => {
                wants_progress(watch).then_some(StreamRole::FutureStart)
            }
            (StreamRole::FutureStart, false) => wants_progress(watch).then_some(StreamRole::Shared),
        };
        let moves: Vec<_> =
            live().filter_map(|(key, watch)| Some((*key, target(watch)?))).collect();
        for (key, target) in moves {
            if let Some(watch) = self.watches.get_mut(&key) {
                watch.target = Some(Registration::new(target));
                self.register(key, now);
            }
        }
    }

    /// The future-start stream has confirmed a watch, on a store that was at `revision` or less.
    ///
    /// If that is before the start of the watch, the server will send it all later events, whatever
    /// is compacted. If not, the server may be catching up on revisions that are being compacted;
    /// but then the watch does not block progress on its current stream, and stays there.
    pub(super) fn confirm_future_start(&mut self, key: WatchKey, revision: Revision, now: Instant) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        let from = watch.current.role;
        let waiting = watch.target.as_ref().filter(|target| target.sent > revision);
        if let Some(requested) = waiting.map(|target| target.progress_requested) {
            // A request since then needs a later response.
            if requested.is_some()
                && watch.deliver_progress(revision)
                && watch.progress_requested == requested
            {
                watch.clear_progress_request();
                self.progress_requests.remove(&key);
            }
            self.complete_move(key);
        } else if let Some(target) = watch.target.take() {
            self.cancel(&target);
            self.close_unused_stream();
        }
        self.clear_unanswered();
        if self.is_progress_requested(from) {
            self.request_progress_on(from, now);
        }
    }

    /// Cancels the current registration, because the target receives every event.
    pub(super) fn complete_move(&mut self, key: WatchKey) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        let Some(target) = watch.target.take() else { return };
        let from = std::mem::replace(&mut watch.current, target);
        self.cancel(&from);
        self.close_unused_stream();
    }
}
