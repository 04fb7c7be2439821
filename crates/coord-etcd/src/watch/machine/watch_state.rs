//! The state of one watch: its next revision, its registrations, and the assembly of batches.
//!
//! A server sends the events of a registration in revision order. The message boundaries have no
//! meaning: a live server sends one revision per message, one that catches up sends up to a
//! thousand revisions in one message, and one that fragments sends parts of a revision. A batch is
//! one revision, and [`WatchState::assemble`] restores that boundary:
//!
//! ```text
//! next = 7, after a lost connection the watch is created again from 6 on
//!   message  6 7 7 8  fragment    6 < next: dropped.  7 7: a batch.  8: held, more may follow
//!   message  8 9      the last    8 8: a batch.  9: a batch.  next = 10
//! ```
//!
//! **Why from 6, when 7 is next?** A server responds to no progress request while a watcher of the
//! stream waits for a revision that does not exist yet, and 7 may not exist yet. So a watch starts
//! again at the newest revision that is known to exist. If that revision is compacted meanwhile,
//! the server reports it although no event is lost, and the watch starts *exactly* at 7.
//!
//! **A watch that moves to another stream is registered twice for a while.** A server sends a
//! registered watch all events, whatever is compacted afterwards, but it may refuse a new
//! registration because of a compaction. So a watch keeps its [current](WatchState::current)
//! registration until the [target](WatchState::target) cannot fail any more. Both receive all
//! events from the next revision on, and events that were already delivered are dropped.

use std::sync::Arc;

use coord_core::{
    Result,
    kv::{Event, Header, Revision, Watch, WatchBatch},
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::buffer::ReaderBuffer;
use super::StreamRole;

/// A watch in the machine.
#[derive(Debug)]
pub(super) struct WatchState {
    pub(super) request: Watch,
    pub(super) buffer: Arc<ReaderBuffer>,
    /// The registration that the watch has.
    pub(super) current: Registration,
    /// The registration to which it moves, if it moves.
    pub(super) target: Option<Registration>,
    /// Whether it cannot move, because another registration would find its start compacted.
    pub(super) is_pinned: bool,
    /// The caller that waits for the first confirmation.
    pub(super) pending_reply: Option<PendingReply>,
    /// When the reader last requested a progress notification that was not delivered yet.
    pub(super) progress_requested: Option<Instant>,
    /// The progress that a server reported without proving it, and when.
    pub(super) unproven_progress: Option<(Revision, Instant)>,
    /// The first revision that was not delivered. Zero until the first confirmation fixes it.
    next: Revision,
    /// The newest revision below `next` that is known to exist.
    newest_known: Revision,
    /// Whether to start at `next`, because the revision before it is compacted.
    starts_at_next: bool,
}

/// A registration of a watch on a stream.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) role: StreamRole,
    pub(super) state: RegistrationState,
    /// The start revision of the last create request.
    pub(super) sent: Revision,
    /// [`WatchState::progress_requested`] when the create request was sent.
    pub(super) progress_requested: Option<Instant>,
    /// When the server confirmed it.
    pub(super) since: Option<Instant>,
    /// Events of one revision whose remaining events may follow.
    held: Vec<Event>,
}

/// The state of a registration, with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegistrationState {
    /// To be created when its stream is open.
    Waiting,
    /// The create request is sent and not confirmed.
    Creating(i64),
    /// Confirmed.
    Live(i64),
    /// Cancelled until the reader makes room in the buffer.
    Paused,
}

/// The result of a registration.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Registered {
    /// The watch is registered.
    At(Header),
    /// The server registers watches only from a given revision on.
    NeedsRevision,
}

/// The caller that waits for the first confirmation.
#[derive(Debug)]
pub(super) struct PendingReply {
    pub(super) reply: oneshot::Sender<Result<Registered>>,
    /// When the registration fails.
    pub(super) until: Instant,
}

impl Registration {
    /// A registration that was not requested yet.
    pub(super) const fn new(role: StreamRole) -> Self {
        let (state, sent) = (RegistrationState::Waiting, Revision::ZERO);
        Self { role, state, sent, progress_requested: None, since: None, held: Vec::new() }
    }

    /// Its id, if a create request was sent.
    pub(super) const fn id(&self) -> Option<i64> {
        match self.state {
            RegistrationState::Creating(id) | RegistrationState::Live(id) => Some(id),
            RegistrationState::Waiting | RegistrationState::Paused => None,
        }
    }

    pub(super) const fn is_live(&self) -> bool {
        matches!(self.state, RegistrationState::Live(_))
    }

    pub(super) fn is_on(&self, role: StreamRole) -> bool {
        self.role == role
    }

    pub(super) fn is_waiting_on(&self, role: StreamRole) -> bool {
        self.is_on(role) && self.state == RegistrationState::Waiting
    }

    pub(super) fn is_live_on(&self, role: StreamRole) -> bool {
        self.is_on(role) && self.is_live()
    }

    /// Whether it may wait for a revision that does not exist yet. Then the server responds to no
    /// progress request on the whole stream.
    pub(super) fn blocks_progress(&self, newest: Revision) -> bool {
        self.is_live() && self.sent > newest
    }
}

impl WatchState {
    pub(super) const fn new(
        request: Watch,
        buffer: Arc<ReaderBuffer>,
        pending_reply: PendingReply,
    ) -> Self {
        Self {
            current: Registration::new(StreamRole::Shared),
            target: None,
            is_pinned: false,
            pending_reply: Some(pending_reply),
            progress_requested: None,
            unproven_progress: None,
            next: match request.start_revision {
                Some(start) => start,
                None => Revision::ZERO,
            },
            newest_known: Revision::ZERO,
            starts_at_next: false,
            request,
            buffer,
        }
    }

    /// The current registration and the target.
    pub(super) fn registrations(&self) -> impl Iterator<Item = &Registration> {
        std::iter::once(&self.current).chain(&self.target)
    }

    /// The registration with this id.
    pub(super) fn registration(&mut self, id: i64) -> Option<&mut Registration> {
        let mut registrations = std::iter::once(&mut self.current).chain(&mut self.target);
        registrations.find(|registration| registration.id() == Some(id))
    }

    /// Whether it has a registration with this id, confirmed or not.
    pub(super) fn is_registered_as(&self, id: i64) -> bool {
        self.registrations().any(|registration| registration.id() == Some(id))
    }

    /// Whether the target has this id.
    pub(super) fn moves_as(&self, id: i64) -> bool {
        self.target.as_ref().is_some_and(|target| target.id() == Some(id))
    }

    /// The requested progress notification was delivered.
    pub(super) fn clear_progress_request(&mut self) {
        self.progress_requested = None;
        if let Some(target) = &mut self.target {
            target.progress_requested = None;
        }
    }

    /// The registration that is to be requested next, and its start revision.
    pub(super) fn unrequested(&mut self) -> Option<(&mut Registration, Revision)> {
        let (start, next) = (self.start(), self.next);
        let waits = |it: &&mut Registration| it.state == RegistrationState::Waiting;
        match self.target.as_mut().filter(waits) {
            // It moves there because `next` does not exist yet.
            Some(target) if target.is_on(StreamRole::FutureStart) => Some((target, next)),
            Some(target) => Some((target, start)),
            None => Some(&mut self.current).filter(waits).map(|current| (current, start)),
        }
    }

    /// The first revision that was not delivered; zero before the first registration.
    pub(super) const fn next(&self) -> Revision {
        self.next
    }

    /// The start revision of the next create request.
    pub(super) fn start(&self) -> Revision {
        let before = self.next.previous();
        if before > Revision::ZERO && self.newest_known >= before && !self.starts_at_next {
            before
        } else {
            self.next
        }
    }

    /// Forgets all registrations, which no server has any more.
    pub(super) fn reset(&mut self, state: RegistrationState) {
        self.current = Registration { state, ..Registration::new(self.current.role) };
        self.target = None;
        self.is_pinned = false;
        self.unproven_progress = None;
    }

    /// The current registration is lost: replaces it by the target if that is live. Returns whether
    /// it did. Events may be lost, but a new registration would not start earlier.
    pub(super) fn fall_back(&mut self) -> bool {
        let target = self.target.take_if(|target| target.is_live());
        target.map(|target| self.current = target).is_some()
    }

    /// The server has confirmed a registration, with its revision.
    ///
    /// A watch from now on starts after that revision. The server may send events from between the
    /// registration and the revision of the confirmation; these are dropped. So the header is the
    /// exact start of the watch, and a later registration starts there too.
    pub(super) fn registered(&mut self, id: i64, header: Header, now: Instant) {
        if let Some(registration) = self.registration(id) {
            registration.state = RegistrationState::Live(id);
            registration.since = Some(now);
        }
        if self.next == Revision::ZERO {
            self.next = header.revision.next();
        }
        self.newest_known = self.newest_known.max(header.revision.min(self.next.previous()));
        if let Some(pending) = self.pending_reply.take() {
            // If the caller has stopped waiting, the watch is about to be removed.
            let _ = pending.reply.send(Ok(Registered::At(header)));
        }
    }

    /// Whether it starts in the future, after the newest known revision of the store.
    pub(super) fn starts_in_future(&self, newest: Revision) -> bool {
        self.next.previous() > newest
    }

    /// The store is compacted at `compact_revision`. Whether all events from `next` on are left.
    pub(super) fn survives_compaction(&mut self, compact_revision: Revision) -> bool {
        self.starts_at_next |= self.start() < compact_revision;
        compact_revision <= self.next
    }

    /// Delivers the complete batches of a message. Returns whether the buffer has room for more. If
    /// not, the rest of the message is dropped, and received again when the watch resumes.
    pub(super) fn assemble(&mut self, id: i64, events: Vec<Event>, fragment: bool) -> bool {
        let held = self.registration(id).map(|it| std::mem::take(&mut it.held));
        let mut held = held.unwrap_or_default();
        for event in events {
            let revision = event.kv.mod_revision;
            let other = held.first().is_some_and(|held: &Event| held.kv.mod_revision != revision);
            if other && !self.deliver(std::mem::take(&mut held)) {
                return false;
            }
            if revision >= self.next {
                held.push(event);
            }
        }
        if !fragment {
            return self.deliver(held);
        }
        if let Some(registration) = self.registration(id) {
            registration.held = held;
        }
        true
    }

    /// Delivers the batch of a revision. Returns whether the buffer has room for more.
    fn deliver(&mut self, events: Vec<Event>) -> bool {
        let revision = events.first().map(|first| first.kv.mod_revision);
        // The other registration may have received them while they were held.
        let Some(revision) = revision.filter(|revision| *revision >= self.next) else {
            return true;
        };
        self.advance(revision);
        self.unproven_progress = None;
        self.buffer.push(WatchBatch { revision, events })
    }

    /// Whether no registration holds a part of a revision.
    fn is_whole(&self) -> bool {
        self.registrations().all(|registration| registration.held.is_empty())
    }

    /// Every event up to `revision` was delivered.
    pub(super) fn advance_to(&mut self, revision: Revision) {
        if self.is_whole() && revision.next() >= self.next {
            self.advance(revision);
        }
    }

    /// Delivers a progress notification, unless it is older than a delivered batch or the buffer is
    /// full. Returns whether it did.
    pub(super) fn deliver_progress(&self, revision: Revision) -> bool {
        let is_current = self.is_whole() && revision.next() >= self.next;
        is_current && self.buffer.push_progress(revision)
    }

    fn advance(&mut self, revision: Revision) {
        self.next = revision.next();
        self.newest_known = revision;
        self.starts_at_next = false;
        self.is_pinned = false;
    }
}
