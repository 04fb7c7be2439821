//! The state of one watch: its next revision, its registrations, and the assembly of batches.
//!
//! A server sends the events of a registration in revision order, but not one revision per message.
//! While it catches up, it sends up to a thousand revisions in one message; and it may split a
//! revision into fragments. A batch is one revision, so [`WatchState::assemble`] regroups the
//! events:
//!
//! ```text
//! next = 7, after a lost connection the watch is created again from 6 on
//!   message  6 7 7 8  fragment    6 < next: dropped.  7 7: a batch.  8: held, more may follow
//!   message  8 9      the last    8 8: a batch.  9: a batch.  next = 10
//! ```
//!
//! **Start at 6 although 7 is next.** A server responds to no progress request while a watch of the
//! stream waits for a revision that does not exist yet, and 7 may not exist yet. So a watch starts
//! again at the newest revision that is known to exist. If that revision is compacted meanwhile,
//! the server reports the compaction although no event is lost, and the watch starts *exactly* at
//! 7.
//!
//! **Two registrations while a watch moves to another stream.** A later compaction does not affect
//! a registered watch, but a server may refuse a new registration because of a compaction. So a
//! watch keeps its [current](WatchState::current) registration until the
//! [target](WatchState::target) cannot fail any more. Both receive all events from the next
//! revision on, and events that were already delivered are dropped.

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
    /// The current registration.
    pub(super) current: Registration,
    /// The registration to which the watch moves; `None` if it does not move.
    pub(super) target: Option<Registration>,
    /// Whether the watch cannot move, because a new registration was refused: its start is
    /// compacted, for example.
    pub(super) is_pinned: bool,
    /// The caller that waits for the first confirmation.
    pub(super) pending_reply: Option<PendingReply>,
    /// When the reader last requested a progress notification that was not delivered yet.
    pub(super) progress_requested: Option<Instant>,
    /// The progress that a server reported without proving it, and the time of the report.
    pub(super) unproven_progress: Option<(Revision, Instant)>,
    /// The first revision that was not delivered. Of a watch from now on, zero until the first
    /// confirmation fixes it.
    next: Revision,
    /// The newest revision below `next` that is known to exist.
    newest_known: Revision,
    /// Whether the next registration starts at `next`, because the revision before it is compacted.
    starts_at_next: bool,
}

/// A registration of a watch on a stream.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) role: StreamRole,
    pub(super) state: RegistrationState,
    /// The start revision of the create request; zero before that is sent.
    pub(super) start: Revision,
    /// [`WatchState::progress_requested`] when the create request was sent.
    pub(super) progress_requested: Option<Instant>,
    /// When the server confirmed the registration.
    pub(super) since: Option<Instant>,
    /// Events of one revision. The next message may contain the rest of that revision.
    held: Vec<Event>,
}

/// The state of a registration, with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegistrationState {
    /// The registration waits until its stream is open.
    Waiting,
    /// The create request is sent and not confirmed.
    Creating(i64),
    /// The server has confirmed the registration.
    Live(i64),
    /// The registration is cancelled until the reader makes room in the buffer.
    Paused,
}

/// The result of a registration.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Registered {
    /// The watch is registered.
    At(Header),
    /// The server registers a watch only with a start revision.
    NeedsRevision,
}

/// The caller that waits for the first confirmation.
#[derive(Debug)]
pub(super) struct PendingReply {
    pub(super) reply: oneshot::Sender<Result<Registered>>,
    /// When the registration times out.
    pub(super) until: Instant,
}

impl Registration {
    /// A registration whose create request is not sent yet.
    pub(super) const fn new(role: StreamRole) -> Self {
        let (state, start) = (RegistrationState::Waiting, Revision::ZERO);
        Self { role, state, start, progress_requested: None, since: None, held: Vec::new() }
    }

    /// The id, if a create request was sent.
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

    /// Whether the watch may wait for a revision that does not exist yet. The server then responds
    /// to no progress request on the whole stream.
    pub(super) fn blocks_progress(&self, newest: Revision) -> bool {
        self.is_live() && self.start > newest
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

    /// Whether the watch has a registration with this id, confirmed or not.
    pub(super) fn is_registered_as(&self, id: i64) -> bool {
        self.registrations().any(|registration| registration.id() == Some(id))
    }

    /// Whether a registration waits for the stream with this role.
    pub(super) fn is_waiting_on(&self, role: StreamRole) -> bool {
        self.registrations().any(|registration| registration.is_waiting_on(role))
    }

    /// Whether the target has this id.
    pub(super) fn moves_as(&self, id: i64) -> bool {
        self.target.as_ref().is_some_and(|target| target.id() == Some(id))
    }

    /// Clears the progress request, because its notification was delivered.
    pub(super) fn clear_progress_request(&mut self) {
        self.progress_requested = None;
        if let Some(target) = &mut self.target {
            target.progress_requested = None;
        }
    }

    /// The registration whose create request is sent next, and its start revision.
    pub(super) fn next_to_create(&mut self) -> Option<(&mut Registration, Revision)> {
        let (start, next) = (self.start(), self.next);
        let waits =
            |registration: &&mut Registration| registration.state == RegistrationState::Waiting;
        match self.target.as_mut().filter(waits) {
            // The watch moves to the future-start stream because `next` does not exist yet.
            Some(target) if target.is_on(StreamRole::FutureStart) => Some((target, next)),
            Some(target) => Some((target, start)),
            None => Some(&mut self.current).filter(waits).map(|current| (current, start)),
        }
    }

    /// The first revision that was not delivered; zero before the first confirmation of a watch
    /// from now on.
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

    /// Drops all registrations, which are lost or which the caller cancels. The current
    /// registration is then in `state`.
    pub(super) fn reset(&mut self, state: RegistrationState) {
        self.current = Registration { state, ..Registration::new(self.current.role) };
        self.target = None;
        self.is_pinned = false;
        self.unproven_progress = None;
    }

    /// Replaces a lost current registration by the target if that is live. Returns whether it did.
    /// A compaction may then end the watch, as it may with a new registration, which would not
    /// start earlier.
    pub(super) fn fall_back(&mut self) -> bool {
        let target = self.target.take_if(|target| target.is_live());
        target.map(|target| self.current = target).is_some()
    }

    /// Records that the server has confirmed a registration. The header contains its revision.
    ///
    /// A watch from now on starts after that revision. The server may send events from between the
    /// registration and the revision of the confirmation; these are dropped. So the header is the
    /// exact start of the watch, and a later registration starts there too.
    pub(super) fn confirm(&mut self, id: i64, header: Header, now: Instant) {
        if let Some(registration) = self.registration(id) {
            registration.state = RegistrationState::Live(id);
            registration.since = Some(now);
        }
        if self.next == Revision::ZERO {
            self.next = header.revision.next();
        }
        self.newest_known = self.newest_known.max(header.revision.min(self.next.previous()));
        if let Some(pending) = self.pending_reply.take() {
            // Fails if the caller has stopped waiting. Its watch is then removed soon.
            let _ = pending.reply.send(Ok(Registered::At(header)));
        }
    }

    /// Whether the watch starts in the future: after the revision that follows `newest`.
    pub(super) fn starts_in_future(&self, newest: Revision) -> bool {
        self.next.previous() > newest
    }

    /// Handles a compaction at `compact_revision`. Returns whether no undelivered event was
    /// removed.
    pub(super) fn survives_compaction(&mut self, compact_revision: Revision) -> bool {
        self.starts_at_next |= self.start() < compact_revision;
        compact_revision <= self.next
    }

    /// Delivers the complete batches of a message. Returns whether the buffer has room for more. If
    /// not, the rest of the message is dropped, and the server sends it again when the watch
    /// resumes.
    pub(super) fn assemble(&mut self, id: i64, events: Vec<Event>, fragment: bool) -> bool {
        let registration = self.registration(id);
        let mut held = registration
            .map(|registration| std::mem::take(&mut registration.held))
            .unwrap_or_default();
        for event in events {
            let revision = event.kv.mod_revision;
            let is_next = held.first().is_some_and(|held: &Event| held.kv.mod_revision != revision);
            if is_next && !self.deliver(std::mem::take(&mut held)) {
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
        // While events are held, the other registration may deliver their revision.
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

    /// Advances the next revision, because every event up to `revision` was delivered.
    pub(super) fn advance_to(&mut self, revision: Revision) {
        if self.is_whole() && revision.next() >= self.next {
            self.advance(revision);
        }
    }

    /// Delivers a progress notification, unless it is older than a delivered batch, a registration
    /// holds a part of a revision, or the buffer is full. Returns whether it was delivered.
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
