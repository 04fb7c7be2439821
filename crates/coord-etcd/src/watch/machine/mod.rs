//! The watch protocol as a state machine: events in, actions out.
//!
//! The machine has no I/O, no task and no clock. The driver passes commands of watches, events of
//! streams and the time to it. The machine returns [`Action`]s, and adds batches to the buffers of
//! their readers. So a test can act as the server, and simulate a thousand broken connections
//! without waiting.
//!
//! Each registration of a watch is in one of four states. A watch that is registered again
//! continues at its next revision:
//!
//! ```text
//!              stream open             created                  buffer full
//!   Waiting ───────────────▶ Creating ─────────▶ Live ──────────────────────────▶ Paused
//!      ▲                        │                 │ │ ▲ a message: batches          │
//!      │      stream lost       │   stream lost   │ └─┘                             │
//!      ├────────────────────────┴─────────────────┘              reader resumes     │
//!      └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One example. A watch from now on is created on a store at revision 10, and reads 11 and 12:
//!
//! ```text
//! out  Open(Shared)
//! in   opened           out  Progress                  tests whether the server proves progress
//!                       out  Create 1 from 0
//! in   created 1 @10                                   next = 11, fixed before any event
//! in   events 1: 11 12                                 two batches, next = 13
//! in   lost             out  Open(Shared)
//! in   opened           out  Progress, Create 2 from 12
//! in   created 2 @14
//! in   events 2: 12 13 14                              12 is dropped, two batches, next = 15
//! ```
//!
//! The client chooses the ids of registrations, and uses no id twice. An etcd server buffers events
//! for an id that it has not confirmed yet, and keeps them when the id is cancelled meanwhile. The
//! next watch with that id would receive them.

mod probe;
mod progress;
mod proxied;
mod stream;
#[cfg(test)]
mod tests;
mod watch_state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coord_core::{
    Error, Result,
    kv::{Header, Revision, Watch},
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::buffer::ReaderBuffer;
use super::driver_gone_error;
use super::wire::{NO_WATCH_ID, Refusal, Request, ServerMessage, classify_refusal};
pub(crate) use stream::StreamRole;
use stream::{OpenStream, PendingCreate, StreamPhase, StreamState};
pub(super) use watch_state::Registered;
use watch_state::{PendingReply, Registration, RegistrationState, WatchState};

/// The number of a watch within its backend. A watch keeps it when its registrations, and their
/// ids, change.
pub(super) type WatchNumber = u64;

/// How long the first registration of a watch may take, in confirmation timeouts.
const FIRST_REGISTRATION_TIMEOUTS: u32 = 3;

/// An action for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Open a stream.
    Open(StreamRole),
    /// Close the stream, open or opening. The machine then expects no events from it.
    Close(StreamRole),
    /// Close the stream, and prefer another member for the next one.
    FailOver(StreamRole),
    /// Send a request on the stream.
    Send(StreamRole, Request),
}

/// The options of the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineConfig {
    /// How long a server has for the confirmation of a registration.
    pub(super) registration_timeout: Duration,
    /// Whether the backend logs in, so that a new stream may have a valid login.
    pub(super) has_login: bool,
}

/// The state of all watches of a backend, and of their streams.
#[derive(Debug)]
pub(super) struct Machine {
    config: MachineConfig,
    streams: [StreamState; 2],
    watches: BTreeMap<WatchNumber, WatchState>,
    /// The watches whose first registration is not confirmed yet, by deadline.
    registration_deadlines: BTreeSet<(Instant, WatchNumber)>,
    /// The watches with an outstanding request for a progress notification.
    progress_requests: BTreeSet<WatchNumber>,
    /// The newest revision in any message of a server.
    newest: Revision,
    /// The id of the next registration or probe.
    next_id: i64,
    /// The actions that the driver has not taken yet.
    actions: Vec<Action>,
}

impl Machine {
    pub(super) const fn new(config: MachineConfig) -> Self {
        Self {
            config,
            streams: [StreamState::new(), StreamState::new()],
            watches: BTreeMap::new(),
            registration_deadlines: BTreeSet::new(),
            progress_requests: BTreeSet::new(),
            newest: Revision::ZERO,
            next_id: 1,
            actions: Vec::new(),
        }
    }

    /// Takes the actions. The driver executes them in order.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Adds a watch, and registers it. The result of the first registration is sent to `reply`.
    pub(super) fn add(
        &mut self,
        number: WatchNumber,
        request: Watch,
        buffer: Arc<ReaderBuffer>,
        reply: oneshot::Sender<Result<Registered>>,
        now: Instant,
    ) {
        let until = now + self.config.registration_timeout * FIRST_REGISTRATION_TIMEOUTS;
        self.registration_deadlines.insert((until, number));
        self.watches
            .insert(number, WatchState::new(request, buffer, PendingReply { reply, until }));
        self.register(number, now);
    }

    /// Removes a watch that was dropped.
    pub(super) fn remove(&mut self, number: WatchNumber) {
        self.progress_requests.remove(&number);
        self.unregister(number, RegistrationState::Waiting);
        let Some(watch) = self.watches.remove(&number) else { return };
        if let Some(pending) = watch.pending_reply {
            self.registration_deadlines.remove(&(pending.until, number));
        }
        self.close_unused_stream();
    }

    /// Closes the future-start stream if no watch uses it. The shared stream stays open.
    fn close_unused_stream(&mut self) {
        let role = StreamRole::FutureStart;
        let closed = matches!(self.stream(role).phase, StreamPhase::Closed { .. });
        let used = self
            .watches
            .values()
            .flat_map(WatchState::registrations)
            .any(|registration| registration.is_on(role));
        if !closed && !used {
            self.actions.push(Action::Close(role));
            self.stream(role).phase = StreamPhase::Closed { from: None };
        }
    }

    /// Registers a paused watch again, because its reader has made room in the buffer.
    pub(super) fn resume(&mut self, number: WatchNumber, now: Instant) {
        if let Some(watch) = self.watches.get_mut(&number)
            && watch.current.state == RegistrationState::Paused
        {
            watch.current.state = RegistrationState::Waiting;
            self.register(number, now);
        }
    }

    /// Handles the event that a stream is open. Registers the watches that wait for it.
    pub(super) fn on_opened(
        &mut self,
        role: StreamRole,
        header: Header,
        proxied: bool,
        now: Instant,
    ) {
        self.newest = self.newest.max(header.revision);
        let first = now + progress::PERIODIC_PROGRESS_INTERVAL;
        self.stream(role).phase = StreamPhase::Open(OpenStream::new(now, first, proxied));
        if !proxied {
            // Before the first watch, so that the response shows whether the server proves
            // progress.
            self.actions.push(Action::Send(role, Request::Progress));
        }
        for number in self.waiting_watches(role) {
            self.register(number, now);
        }
    }

    /// Handles the event that a stream was lost, or could not be opened.
    pub(super) fn on_lost(&mut self, role: StreamRole, error: &Error, now: Instant) {
        let opening = matches!(self.stream(role).phase, StreamPhase::Opening);
        self.close(role, opening.then_some(error), now);
    }

    /// Closes a stream, and registers its watches again.
    ///
    /// `open_error` is the error if the stream could not be opened. It ends the watches whose first
    /// registration is outstanding. A confirmed watch is registered again until that succeeds,
    /// because the error may come from a proxy in front of the member. An error about the login
    /// ends it too, because no attempt can succeed.
    fn close(&mut self, role: StreamRole, open_error: Option<&Error>, now: Instant) {
        self.stream(role).close(now);
        let numbers = self.watches.iter().filter(|(_, watch)| {
            watch.registrations().any(|registration| registration.is_on(role))
        });
        for number in numbers.map(|(number, _)| *number).collect::<Vec<_>>() {
            let Some(watch) = self.watches.get_mut(&number) else { continue };
            // A target that is not live is requested anew when progress is blocked again.
            let is_lost = |target: &mut Registration| target.is_on(role) || !target.is_live();
            if let Some(target) = watch.target.take_if(is_lost) {
                self.cancel(&target);
            }
            let Some(watch) = self.watches.get_mut(&number) else { continue };
            if !watch.current.is_on(role) || watch.fall_back() {
                continue;
            }
            if watch.current.state != RegistrationState::Paused {
                watch.reset(RegistrationState::Waiting);
            }
            if let Some(error) = open_error
                && (watch.pending_reply.is_some() || is_about_login(error))
            {
                self.end(number, error.clone());
            }
        }
        self.close_unused_stream();
        self.reopen(role, now);
    }

    /// Handles a message from a server.
    pub(super) fn on_message(
        &mut self,
        role: StreamRole,
        mut message: ServerMessage,
        now: Instant,
    ) {
        // A proxy may confirm a watch with its start revision, which may be in the future.
        if !(message.created && self.is_proxied(role)) {
            self.newest = self.newest.max(message.header.revision).max(message.compact_revision);
        }
        let Some(open) = self.stream(role).open() else { return };
        open.last_message = now;
        if let Some(proxied) = &mut open.proxied
            && message.id != NO_WATCH_ID
        {
            let front = open.creating.front().filter(|_| message.created);
            if let Some(PendingCreate { id, number: Some(_), .. }) = front {
                proxied.insert(message.id, *id);
            }
            message.id = match proxied.client_id(message.id) {
                Some(client_id) => client_id,
                None if message.created => NO_WATCH_ID,
                // The message is for a cancelled watch. It proves no progress of other watches.
                None => return,
            };
        }
        if message.created {
            let canceled = message.canceled;
            let creating = loop {
                match open.creating.pop_front() {
                    Some(creating) if canceled || creating.id == message.id => break creating,
                    Some(_) => {}
                    None => {
                        return self.fail_over(role, "the server confirmed an unknown watch", now);
                    }
                }
            };
            open.proves_progress.get_or_insert(true);
            if canceled {
                self.on_refused(role, &creating, &message.reason, now);
            } else {
                self.on_created(role, &creating, message.header, now);
            }
            if self.is_proxied(role)
                && let Some(&next) = self.waiting_watches(role).first()
            {
                self.register(next, now);
            }
        } else if message.id == NO_WATCH_ID {
            self.on_progress(role, message.header.revision, now);
        } else if let Some(&number) = open.live.get(&message.id) {
            self.deliver_message(role, number, message, now);
        }
    }

    /// Executes what is due at `now`: timeouts, reopening, progress requests and probes.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(&(until, number)) = self.registration_deadlines.first() {
            if until > now {
                break;
            }
            let after = self.config.registration_timeout * FIRST_REGISTRATION_TIMEOUTS;
            self.end(number, Error::Timeout { after });
        }
        for role in StreamRole::ALL {
            let late = match &self.stream(role).phase {
                StreamPhase::Closed { .. } => {
                    self.reopen(role, now);
                    false
                }
                StreamPhase::Opening => false,
                StreamPhase::Open(open) => {
                    open.creating.front().is_some_and(|creating| creating.until <= now)
                }
            };
            if late {
                self.fail_over(role, "no confirmation in time", now);
            }
            self.repeat_progress_request(role, now);
            self.probe(role, now);
        }
    }

    /// When the driver must call [`tick`](Self::tick); `None` if nothing is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let streams = StreamRole::ALL.into_iter().flat_map(|role| {
            let of_phase = match &self.streams[role as usize].phase {
                StreamPhase::Closed { from } => from.filter(|_| self.is_wanted(role)),
                StreamPhase::Opening => None,
                StreamPhase::Open(open) => open.creating.front().map(|creating| creating.until),
            };
            [of_phase, self.progress_request_at(role), self.probe_at(role)]
        });
        let pending = self.registration_deadlines.first().map(|(until, _)| *until);
        streams.chain([pending]).flatten().min()
    }

    const fn stream(&mut self, role: StreamRole) -> &mut StreamState {
        &mut self.streams[role as usize]
    }

    /// Whether a watch waits for the stream.
    fn is_wanted(&self, role: StreamRole) -> bool {
        self.watches.values().any(|watch| watch.is_waiting_on(role))
    }

    /// The watches that wait for the stream.
    fn waiting_watches(&self, role: StreamRole) -> Vec<WatchNumber> {
        let waiting = self.watches.iter().filter(|(_, watch)| watch.is_waiting_on(role));
        waiting.map(|(number, _)| *number).collect()
    }

    /// Opens a closed stream if watches wait for it and its reopen pause is over.
    fn reopen(&mut self, role: StreamRole, now: Instant) {
        if let StreamPhase::Closed { from } = self.stream(role).phase
            && from.is_none_or(|from| from <= now)
            && self.is_wanted(role)
        {
            self.stream(role).phase = StreamPhase::Opening;
            self.actions.push(Action::Open(role));
        }
    }

    /// Registers a waiting watch on its stream, or opens the stream.
    fn register(&mut self, number: WatchNumber, now: Instant) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        let progress_requested = watch.progress_requested;
        let Some((registration, start)) = watch.next_to_create() else { return };
        let role = registration.role;
        let Some(open) = self.streams[role as usize].open() else {
            return self.reopen(role, now);
        };
        if open.proxied.is_some() {
            if start == Revision::ZERO {
                return self.reply_needs_revision(number);
            }
            if !open.creating.is_empty() {
                return;
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        registration.state = RegistrationState::Creating(id);
        registration.start = start;
        registration.progress_requested = progress_requested;
        open.creating.push_back(PendingCreate {
            id,
            number: Some(number),
            until: now + self.config.registration_timeout,
        });
        let create = Request::Create { id, start, watch: watch.request.clone() };
        self.actions.push(Action::Send(role, create));
    }

    /// Cancels the registrations of a watch: the current one, and the target of a move. The current
    /// registration is then in `state`.
    fn unregister(&mut self, number: WatchNumber, state: RegistrationState) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        let (role, target) = (watch.current.role, watch.target.take());
        let current = std::mem::replace(&mut watch.current, Registration::new(role));
        watch.reset(state);
        for registration in [Some(current), target].into_iter().flatten() {
            self.cancel(&registration);
        }
        self.clear_progress_pending();
    }

    /// Cancels a registration.
    ///
    /// If its confirmation is outstanding, the cancel request follows the create request, and
    /// `on_created` ignores the confirmation.
    fn cancel(&mut self, registration: &Registration) {
        let Some(id) = registration.id() else { return };
        let cancel = self.cancel_request(registration.role, id);
        if let Some(open) = self.streams[registration.role as usize].open() {
            open.live.remove(&id);
            self.actions.extend(cancel.map(|cancel| Action::Send(registration.role, cancel)));
        }
    }

    /// Replaces a failed stream by a stream to another member.
    fn fail_over(&mut self, role: StreamRole, reason: &str, now: Instant) {
        tracing::debug!(?role, reason, "watch stream abandoned");
        self.actions.push(Action::FailOver(role));
        self.close(role, None, now);
    }

    /// Removes a watch that the server registers only with a start revision. The caller reads a
    /// revision, and adds the watch again.
    fn reply_needs_revision(&mut self, number: WatchNumber) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        if let Some(pending) = watch.pending_reply.take() {
            self.registration_deadlines.remove(&(pending.until, number));
            let _ = pending.reply.send(Ok(Registered::NeedsRevision));
        }
        self.remove(number);
    }

    /// Ends a watch with an error. The caller of an unconfirmed watch receives the error, otherwise
    /// the reader.
    fn end(&mut self, number: WatchNumber, error: Error) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        match watch.pending_reply.take() {
            Some(pending) => {
                self.registration_deadlines.remove(&(pending.until, number));
                // Fails if the caller has stopped waiting.
                let _ = pending.reply.send(Err(error));
            }
            None => watch.buffer.end(error),
        }
        self.remove(number);
    }

    /// Ends all registered watches with an error, because the history of the store was replaced.
    pub(super) fn end_all(&mut self, error: &Error) {
        self.newest = Revision::ZERO;
        let registered = self.watches.iter().filter(|(_, watch)| watch.pending_reply.is_none());
        for number in registered.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.end(number, error.clone());
        }
    }

    /// Handles the confirmation of a registration.
    fn on_created(
        &mut self,
        role: StreamRole,
        creating: &PendingCreate,
        header: Header,
        now: Instant,
    ) {
        let PendingCreate { id, number: Some(number), .. } = *creating else { return };
        let Some(watch) = self.watches.get_mut(&number).filter(|watch| watch.is_registered_as(id))
        else {
            // The watch was cancelled. A proxied one is cancelled now, because its id is known now.
            if self.is_proxied(role) {
                let cancel = self.cancel_request(role, id);
                self.actions.extend(cancel.map(|cancel| Action::Send(role, cancel)));
            }
            return;
        };
        if let Some(pending) = &watch.pending_reply {
            self.registration_deadlines.remove(&(pending.until, number));
        }
        watch.confirm(id, header, now);
        let (wants_progress, moves) = (watch.progress_requested.is_some(), watch.moves_as(id));
        if let Some(open) = self.stream(role).open() {
            open.live.insert(id, number);
        }
        if moves && role == StreamRole::FutureStart {
            self.confirm_future_start(number, header.revision, now);
        } else if wants_progress {
            self.request_progress_on(role, now);
        }
    }

    /// Handles the refusal of a registration or of a probe.
    fn on_refused(
        &mut self,
        role: StreamRole,
        creating: &PendingCreate,
        reason: &str,
        now: Instant,
    ) {
        // The refusal of a probe is the expected response.
        let Some(number) = creating.number else { return };
        let Some(watch) = self.watches.get_mut(&number) else { return };
        match classify_refusal(reason, watch.next(), self.config.has_login) {
            Refusal::Stream(reason) => self.fail_over(role, &reason, now),
            Refusal::Watch(_) if watch.current.id() != Some(creating.id) => {
                // The server refused the target. The current registration stays.
                if watch.target.take_if(|target| target.id() == Some(creating.id)).is_some() {
                    watch.is_pinned = true;
                }
                self.close_unused_stream();
            }
            Refusal::Watch(error) => {
                // Without an id, so that `end` sends no cancel request.
                watch.current.state = RegistrationState::Waiting;
                self.end(number, error);
            }
        }
    }

    /// Handles a message for a live watch.
    fn deliver_message(
        &mut self,
        role: StreamRole,
        number: WatchNumber,
        message: ServerMessage,
        now: Instant,
    ) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        if message.canceled {
            if message.compact_revision == Revision::ZERO {
                return self.fail_over(role, "a watch was cancelled by the server", now);
            }
            return self.on_compacted(number, message.id, message.compact_revision, now);
        }
        if !message.events.is_empty() || message.fragment {
            if !watch.assemble(message.id, message.events, message.fragment) {
                let buffer = Arc::clone(&watch.buffer);
                self.unregister(number, RegistrationState::Paused);
                buffer.pause();
            }
        } else if watch.request.progress_notify && watch.deliver_progress(message.header.revision) {
            watch.advance_to(message.header.revision);
        }
    }

    /// Handles the compaction of revisions that the server had not sent yet. The server keeps the
    /// id, and reports no progress on the stream, until the client cancels the watch.
    fn on_compacted(&mut self, number: WatchNumber, id: i64, revision: Revision, now: Instant) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        let survives = watch.survives_compaction(revision);
        if let Some(target) = watch.target.take_if(|target| target.id() == Some(id)) {
            watch.target = survives.then(|| Registration::new(target.role));
            watch.is_pinned = !survives;
            self.cancel(&target);
            self.register(number, now);
            return self.close_unused_stream();
        }
        if watch.target.as_ref().is_some_and(Registration::is_live) {
            return self.complete_move(number);
        }
        let (requested, compact_revision) = (Some(watch.next()), Some(revision));
        self.unregister(number, RegistrationState::Waiting);
        if survives {
            return self.register(number, now);
        }
        self.end(number, Error::Compacted { requested, compact_revision });
    }
}

/// Whether an error lasts until users, passwords or roles are changed.
const fn is_about_login(error: &Error) -> bool {
    matches!(error, Error::Unauthenticated { .. } | Error::PermissionDenied { .. })
}

impl Drop for Machine {
    /// Ends all watches with an error, because the runtime of the driver was shut down.
    fn drop(&mut self) {
        for watch in self.watches.values() {
            watch.buffer.end(driver_gone_error());
        }
    }
}
