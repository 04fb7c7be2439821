//! Progress notifications on request: which watches have received every event up to a revision.
//!
//! etcd responds to a progress request with one message for the whole stream, and only if every
//! watch on it has caught up; otherwise it does not respond at all. So the machine repeats the
//! request, and applies the response to every watch whose registration on the stream was confirmed
//! before. Four situations need care:
//!
//! - *A watch whose revisions are compacted* counts as not caught up until it is cancelled. The
//!   machine cancels it at once.
//! - *A watch that waits for a future revision* blocks the responses of the whole stream, on
//!   3.4.38, 3.5.22, 3.6.2 and later. The machine moves it to a second stream, the **future-start
//!   stream**. The confirmation there proves that the watch waits, so no compaction affects it, and
//!   that it has received every event up to the revision of the confirmation. If the watch itself
//!   has requested progress, that revision is its notification. A watch on the future-start stream
//!   that requests progress and no longer waits moves back, if a waiting watch blocks its
//!   notification.
//! - *Servers before 3.4.25 and 3.5.8* respond at once, although they may not have sent all earlier
//!   events. They respond even to a progress request on a stream without watches, to which later
//!   servers do not respond. So the first request on each stream is a progress request. If the
//!   first watch is confirmed before a response arrives, the server proves progress.
//! - *A response of such a server* proves nothing. The machine accepts its revision when a second
//!   response arrived at least [`SETTLE_DELAY`] later and no event of the watch arrived between the
//!   two. That is ten periods of the server's catch-up loop. The watch that requested progress
//!   receives the notification, but does not advance: if an earlier event still arrives, it is
//!   delivered.
//!
//! The machine also requests progress periodically. After a lost connection, a quiet watch starts
//! again at the newest revision that the client received. The newer that revision is, the less
//! likely it is compacted by then.

use std::time::Duration;

use coord_core::kv::Revision;
use tokio::time::Instant;

use super::watch_state::{Registration, WatchState};
use super::{Action, Machine, Request, StreamPhase, StreamRole, WatchNumber};

/// The delay after which no earlier event of a watch is expected: between two responses of a server
/// that does not prove progress, and between a confirmation and the end of a move.
const SETTLE_DELAY: Duration = Duration::from_secs(1);

/// The interval of the periodic progress requests, which no watch has requested.
pub(super) const PERIODIC_PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// The first pause before a progress request is repeated: the period of etcd's catch-up loop. Later
/// pauses are as long as the time without a response.
const PROGRESS_RETRY_MIN: Duration = Duration::from_millis(100);

/// The longest pause before a progress request is repeated.
const PROGRESS_RETRY_MAX: Duration = Duration::from_secs(1);

/// The time without a response to a progress request after which blocking watches are moved.
const MOVE_BLOCKING_AFTER: Duration = Duration::from_millis(200);

impl Machine {
    /// Requests a progress notification for a watch.
    pub(in super::super) fn request_progress(&mut self, number: WatchNumber, now: Instant) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        watch.progress_requested = Some(now);
        self.progress_requests.insert(number);
        let live = watch.registrations().filter(|registration| registration.is_live());
        // If no registration is live, progress is requested when one is confirmed.
        for role in live.map(|registration| registration.role).collect::<Vec<_>>() {
            self.request_progress_on(role, now);
        }
    }

    /// Sends a progress request at once.
    pub(super) fn request_progress_on(&mut self, role: StreamRole, now: Instant) {
        let Some(open) = self.stream(role).open() else { return };
        // Not reset by further requests, because they must not postpone the move of blocking
        // watches.
        if open.progress_pending_since.is_none() {
            open.progress_pending_since = Some(now);
            open.last_progress_request = now;
        }
        self.send_progress_request(role);
    }

    fn send_progress_request(&mut self, role: StreamRole) {
        if !self.is_proxied(role) {
            self.actions.push(Action::Send(role, Request::Progress));
        }
    }

    /// Handles a progress notification of a stream: the server has sent every event up to
    /// `revision`.
    pub(super) fn on_progress(&mut self, role: StreamRole, revision: Revision, now: Instant) {
        let Some(open) = self.stream(role).open() else { return };
        let Some(is_proof) = open.proves_progress else {
            // A server that responds on a stream without watches does not prove progress.
            open.proves_progress = Some(false);
            return;
        };
        open.progress_pending_since = None;
        for number in open.live.values().copied().collect::<Vec<_>>() {
            let Some(watch) = self.watches.get_mut(&number) else { continue };
            if let Some(requested) = watch.progress_requested {
                // A request after the response needs a later response.
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
                    self.progress_requests.remove(&number);
                }
            }
            if is_proof {
                watch.advance_to(revision);
                // Not at once, because this may be the response to a request before the
                // confirmation.
                let is_settled = |target: &Registration| {
                    target.is_live_on(role)
                        && target.since.is_some_and(|since| now - since >= SETTLE_DELAY)
                };
                if watch.target.as_ref().is_some_and(is_settled) {
                    self.complete_move(number);
                }
            }
        }
    }

    /// Whether a live watch of the stream has an outstanding progress request.
    pub(super) fn is_progress_requested(&self, role: StreamRole) -> bool {
        let watches = self.progress_requests.iter().filter_map(|number| self.watches.get(number));
        let mut registrations = watches.flat_map(WatchState::registrations);
        registrations.any(|registration| registration.is_live_on(role))
    }

    /// Resets [`progress_pending_since`](super::stream::OpenStream::progress_pending_since) on
    /// streams without requested progress, so that it does not count for the next request.
    pub(super) fn clear_progress_pending(&mut self) {
        for role in StreamRole::ALL {
            if !self.is_progress_requested(role)
                && let Some(open) = self.stream(role).open()
            {
                open.progress_pending_since = None;
            }
        }
    }

    /// When to send the next progress request; `None` if none is due.
    pub(super) fn progress_request_at(&self, role: StreamRole) -> Option<Instant> {
        let StreamPhase::Open(open) = &self.streams[role as usize].phase else { return None };
        let last = open.last_progress_request;
        let repeat = self.is_progress_requested(role).then(|| {
            let pending = open.progress_pending_since.map_or(Duration::ZERO, |since| last - since);
            last + pending.clamp(PROGRESS_RETRY_MIN, PROGRESS_RETRY_MAX)
        });
        let is_periodic = open.proves_progress == Some(true) && !open.live.is_empty();
        [is_periodic.then_some(open.next_periodic_progress), repeat].into_iter().flatten().min()
    }

    /// Sends the next progress request, if it is due.
    pub(super) fn repeat_progress_request(&mut self, role: StreamRole, now: Instant) {
        if self.progress_request_at(role).is_none_or(|at| at > now) {
            return;
        }
        let is_requested = self.is_progress_requested(role);
        let Some(open) = self.stream(role).open() else { return };
        open.last_progress_request = now;
        open.next_periodic_progress = now + PERIODIC_PROGRESS_INTERVAL;
        if is_requested {
            let since = *open.progress_pending_since.get_or_insert(now);
            if now - since >= MOVE_BLOCKING_AFTER && open.proves_progress == Some(true) {
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
            // Only if that permits the notification of another watch.
            (StreamRole::Shared, true) => is_needed.then_some(StreamRole::FutureStart),
            (StreamRole::Shared, false) => None,
            // Registered again on the same stream, because the confirmation is its notification.
            (StreamRole::FutureStart, true) => {
                wants_progress(watch).then_some(StreamRole::FutureStart)
            }
            (StreamRole::FutureStart, false) => wants_progress(watch).then_some(StreamRole::Shared),
        };
        let moves: Vec<_> =
            live().filter_map(|(number, watch)| Some((*number, target(watch)?))).collect();
        for (number, target) in moves {
            if let Some(watch) = self.watches.get_mut(&number) {
                watch.target = Some(Registration::new(target));
                self.register(number, now);
            }
        }
    }

    /// Handles the confirmation of a watch on the future-start stream. `revision` is the revision
    /// of the confirmation.
    ///
    /// If `revision` is before the start of the watch, a compaction cannot affect the watch, and it
    /// moves. If not, the server may be catching up on revisions that are being compacted. The
    /// watch then stays on its current stream, where it does not block progress any more.
    pub(super) fn confirm_future_start(
        &mut self,
        number: WatchNumber,
        revision: Revision,
        now: Instant,
    ) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        let from = watch.current.role;
        let waiting = watch.target.as_ref().filter(|target| target.start > revision);
        if let Some(requested) = waiting.map(|target| target.progress_requested) {
            // A request after the create request needs a later response.
            if requested.is_some()
                && watch.deliver_progress(revision)
                && watch.progress_requested == requested
            {
                watch.clear_progress_request();
                self.progress_requests.remove(&number);
            }
            self.complete_move(number);
        } else if let Some(target) = watch.target.take() {
            self.cancel(&target);
            self.close_unused_stream();
        }
        self.clear_progress_pending();
        if self.is_progress_requested(from) {
            self.request_progress_on(from, now);
        }
    }

    /// Completes a move: cancels the current registration, and replaces it by the target, which
    /// receives every event.
    pub(super) fn complete_move(&mut self, number: WatchNumber) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        let Some(target) = watch.target.take() else { return };
        let from = std::mem::replace(&mut watch.current, target);
        self.cancel(&from);
        self.close_unused_stream();
    }
}
