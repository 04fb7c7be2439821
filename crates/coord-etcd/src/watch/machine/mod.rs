//! The watch protocol as a state machine: events in, actions out.
//!
//! The machine has no I/O, no task and no clock. The driver passes in the commands of watches, the
//! events of streams and the time; the machine returns [`Action`]s and puts batches into the
//! buffers of their readers. So a test can act as the server, and a thousand broken connections
//! take no time.
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
//! in   opened           out  Progress                  does this server prove progress?
//!                       out  Create 1 from 0
//! in   created 1 @10                                   next = 11, fixed before any event
//! in   events 1: 11 12                                 two batches, next = 13
//! in   lost             out  Open(Shared)
//! in   opened           out  Progress, Create 2 from 12
//! in   created 2 @14
//! in   events 2: 12 13 14                              12 is dropped, two batches, next = 15
//! ```
//!
//! The client chooses the ids, and uses none twice. An etcd server buffers events for an id that it
//! has not confirmed yet, and keeps them when the id is cancelled meanwhile. The next watch with
//! that id would receive them.

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
use super::driver_is_gone;
use super::wire::{NO_ID, Refusal, Reply, Request, refusal};
pub(crate) use stream::StreamRole;
use stream::{OpenStream, PendingCreate, StreamPhase, StreamState};
pub(super) use watch_state::Registered;
use watch_state::{PendingReply, Registration, RegistrationState, WatchState};

/// The backend's number of a watch.
pub(super) type WatchKey = u64;

/// How many streams a registration is tried on before it fails.
const MAX_REGISTRATION_ATTEMPTS: u32 = 3;

/// An action for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Open a stream.
    Open(StreamRole),
    /// Close the stream, open or opening. The machine expects no further events from it.
    Close(StreamRole),
    /// Close the stream, and prefer another member for the next one.
    FailOver(StreamRole),
    /// Send a request on the stream.
    Send(StreamRole, Request),
}

/// The options of the backend that the machine needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineConfig {
    /// How long a server has for the confirmation of a registration.
    pub(super) registration_timeout: Duration,
    /// Whether there is a login, so that another stream may have a newer one.
    pub(super) has_login: bool,
}

/// All watches of a backend.
#[derive(Debug)]
pub(super) struct Machine {
    config: MachineConfig,
    streams: [StreamState; 2],
    watches: BTreeMap<WatchKey, WatchState>,
    /// The watches whose first registration is not confirmed yet, by deadline.
    registration_deadlines: BTreeSet<(Instant, WatchKey)>,
    /// The watches with an outstanding request for a progress notification.
    progress_requests: BTreeSet<WatchKey>,
    /// The newest revision in any message of a server.
    newest: Revision,
    next_id: i64,
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

    /// Takes the actions, to be executed in order.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Adds a watch.
    pub(super) fn add(
        &mut self,
        key: WatchKey,
        request: Watch,
        buffer: Arc<ReaderBuffer>,
        reply: oneshot::Sender<Result<Registered>>,
        now: Instant,
    ) {
        let until = now + self.config.registration_timeout * MAX_REGISTRATION_ATTEMPTS;
        self.registration_deadlines.insert((until, key));
        self.watches.insert(key, WatchState::new(request, buffer, PendingReply { reply, until }));
        self.register(key, now);
    }

    /// Removes a watch that was dropped.
    pub(super) fn remove(&mut self, key: WatchKey) {
        self.progress_requests.remove(&key);
        self.unregister(key, RegistrationState::Waiting);
        let Some(watch) = self.watches.remove(&key) else { return };
        if let Some(pending) = watch.pending_reply {
            self.registration_deadlines.remove(&(pending.until, key));
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

    /// Registers a paused watch again: its reader has made room in the buffer.
    pub(super) fn resume(&mut self, key: WatchKey, now: Instant) {
        if let Some(watch) = self.watches.get_mut(&key)
            && watch.current.state == RegistrationState::Paused
        {
            watch.current.state = RegistrationState::Waiting;
            self.register(key, now);
        }
    }

    /// The stream is open, without watches.
    pub(super) fn on_opened(
        &mut self,
        role: StreamRole,
        header: Header,
        proxied: bool,
        now: Instant,
    ) {
        self.newest = self.newest.max(header.revision);
        let refresh = now + progress::PROGRESS_REFRESH_INTERVAL;
        self.stream(role).phase = StreamPhase::Open(OpenStream::new(now, refresh, proxied));
        if !proxied {
            // Before the first watch, so that `on_progress` learns whether the server proves
            // progress.
            self.actions.push(Action::Send(role, Request::Progress));
        }
        for key in self.waiting(role) {
            self.register(key, now);
        }
    }

    /// The stream was lost, or could not be opened.
    pub(super) fn on_lost(&mut self, role: StreamRole, error: &Error, now: Instant) {
        let opening = matches!(self.stream(role).phase, StreamPhase::Opening);
        self.close(role, opening.then_some(error), now);
    }

    /// Closes a stream, and registers its watches again.
    ///
    /// `unreachable` is the error if the stream could not be opened. It ends the watches whose
    /// first registration is outstanding. A confirmed watch is registered again for as long as it
    /// takes, whatever a proxy in place of the member responds, unless the error is about the login
    /// and no attempt can succeed.
    fn close(&mut self, role: StreamRole, unreachable: Option<&Error>, now: Instant) {
        self.stream(role).close(now);
        let keys = self
            .watches
            .iter()
            .filter(|(_, e)| e.registrations().any(|registration| registration.is_on(role)));
        for key in keys.map(|(key, _)| *key).collect::<Vec<_>>() {
            let Some(watch) = self.watches.get_mut(&key) else { continue };
            let is_lost = |target: &mut Registration| target.is_on(role) || !target.is_live();
            if let Some(target) = watch.target.take_if(is_lost) {
                self.cancel(&target);
            }
            let Some(watch) = self.watches.get_mut(&key) else { continue };
            if !watch.current.is_on(role) || watch.fall_back() {
                continue;
            }
            if watch.current.state != RegistrationState::Paused {
                watch.reset(RegistrationState::Waiting);
            }
            if let Some(error) = unreachable
                && (watch.pending_reply.is_some() || is_about_login(error))
            {
                self.end(key, error.clone());
            }
        }
        self.close_unused_stream();
        self.reopen(role, now);
    }

    /// A message from a server.
    pub(super) fn on_reply(&mut self, role: StreamRole, mut reply: Reply, now: Instant) {
        // A proxy may confirm a watch with its start revision, which may be in the future.
        if !(reply.created && self.is_proxied(role)) {
            self.newest = self.newest.max(reply.header.revision).max(reply.compact_revision);
        }
        let Some(open) = self.stream(role).open() else { return };
        open.last_message = now;
        if let Some(proxied) = &mut open.proxied
            && reply.id != NO_ID
        {
            let front = open.creating.front().filter(|_| reply.created);
            if let Some(PendingCreate { id, key: Some(_), .. }) = front {
                proxied.insert(reply.id, *id);
            }
            reply.id = match proxied.client_id(reply.id) {
                Some(client_id) => client_id,
                None if reply.created => NO_ID,
                // For a watch that was cancelled. It contains no progress of the other watches.
                None => return,
            };
        }
        if reply.created {
            let canceled = reply.canceled;
            let creating = loop {
                match open.creating.pop_front() {
                    Some(creating) if canceled || creating.id == reply.id => break creating,
                    Some(_) => {}
                    None => {
                        return self.fail_over(role, "the server confirmed an unknown watch", now);
                    }
                }
            };
            open.proves_progress.get_or_insert(true);
            if canceled {
                self.on_refused(role, &creating, &reply.reason, now);
            } else {
                self.on_created(role, &creating, reply.header, now);
            }
            if self.is_proxied(role)
                && let Some(&next) = self.waiting(role).first()
            {
                self.register(next, now);
            }
        } else if reply.id == NO_ID {
            self.on_progress(role, reply.header.revision, now);
        } else if let Some(&key) = open.live.get(&reply.id) {
            self.deliver_message(role, key, reply, now);
        }
    }

    /// Does what is due at `now`.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.registration_deadlines.first() {
            if until > now {
                break;
            }
            let after = self.config.registration_timeout * MAX_REGISTRATION_ATTEMPTS;
            self.end(key, Error::Timeout { after });
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
                self.fail_over(role, "no answer in time", now);
            }
            self.repeat_progress_request(role, now);
            self.probe(role, now);
        }
    }

    /// When [`tick`](Self::tick) is due, if at all.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let streams = StreamRole::ALL.into_iter().flat_map(|role| {
            let of_state = match &self.streams[role as usize].phase {
                StreamPhase::Closed { from } => from.filter(|_| self.is_wanted(role)),
                StreamPhase::Opening => None,
                StreamPhase::Open(open) => open.creating.front().map(|creating| creating.until),
            };
            [of_state, self.progress_request_due(role), self.probe_at(role)]
        });
        let pending = self.registration_deadlines.first().map(|(until, _)| *until);
        streams.chain([pending]).flatten().min()
    }

    const fn stream(&mut self, role: StreamRole) -> &mut StreamState {
        &mut self.streams[role as usize]
    }

    fn is_waiting(role: StreamRole, watch: &WatchState) -> bool {
        watch.registrations().any(|registration| registration.is_waiting_on(role))
    }

    fn is_wanted(&self, role: StreamRole) -> bool {
        self.watches.values().any(|watch| Self::is_waiting(role, watch))
    }

    fn waiting(&self, role: StreamRole) -> Vec<WatchKey> {
        let waiting = self.watches.iter().filter(|(_, watch)| Self::is_waiting(role, watch));
        waiting.map(|(key, _)| *key).collect()
    }

    /// Opens a stream if watches wait for it and its reopen pause is over.
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
    fn register(&mut self, key: WatchKey, now: Instant) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        let progress_requested = watch.progress_requested;
        let Some((registration, start)) = watch.unrequested() else { return };
        let role = registration.role;
        let Some(open) = self.streams[role as usize].open() else {
            return self.reopen(role, now);
        };
        if open.proxied.is_some() {
            if start == Revision::ZERO {
                return self.needs_revision(key);
            }
            if !open.creating.is_empty() {
                return;
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        registration.state = RegistrationState::Creating(id);
        registration.sent = start;
        registration.progress_requested = progress_requested;
        open.creating.push_back(PendingCreate {
            id,
            key: Some(key),
            until: now + self.config.registration_timeout,
        });
        let create = Request::Create { id, start, watch: watch.request.clone() };
        self.actions.push(Action::Send(role, create));
    }

    /// Cancels the registrations of a watch: the current one, and the target of a move.
    fn unregister(&mut self, key: WatchKey, state: RegistrationState) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        let (role, target) = (watch.current.role, watch.target.take());
        let current = std::mem::replace(&mut watch.current, Registration::new(role));
        watch.reset(state);
        for registration in [Some(current), target].into_iter().flatten() {
            self.cancel(&registration);
        }
        self.clear_unanswered();
    }

    /// Cancels a registration.
    ///
    /// If its confirmation is outstanding, the cancel request follows the create request, and the
    /// confirmation finds no watch.
    fn cancel(&mut self, registration: &Registration) {
        let Some(id) = registration.id() else { return };
        let cancel = self.cancel_of(registration.role, id);
        if let Some(open) = self.streams[registration.role as usize].open() {
            open.live.remove(&id);
            self.actions.extend(cancel.map(|cancel| Action::Send(registration.role, cancel)));
        }
    }

    /// Replaces a failed stream by one to another member.
    fn fail_over(&mut self, role: StreamRole, reason: &str, now: Instant) {
        tracing::debug!(?role, reason, "watch stream abandoned");
        self.actions.push(Action::FailOver(role));
        self.close(role, None, now);
    }

    /// The server registers the watch only from a known revision on. The caller reads a revision,
    /// and registers the watch again.
    fn needs_revision(&mut self, key: WatchKey) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        if let Some(pending) = watch.pending_reply.take() {
            self.registration_deadlines.remove(&(pending.until, key));
            let _ = pending.reply.send(Ok(Registered::NeedsRevision));
        }
        self.remove(key);
    }

    /// Ends a watch with an error.
    fn end(&mut self, key: WatchKey, error: Error) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        match watch.pending_reply.take() {
            Some(pending) => {
                self.registration_deadlines.remove(&(pending.until, key));
                // The caller may have stopped waiting.
                let _ = pending.reply.send(Err(error));
            }
            None => watch.buffer.end(error),
        }
        self.remove(key);
    }

    /// Ends all registered watches with an error: the history of the store was replaced.
    pub(super) fn end_all(&mut self, error: &Error) {
        self.newest = Revision::ZERO;
        let registered = self.watches.iter().filter(|(_, watch)| watch.pending_reply.is_none());
        for key in registered.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.end(key, error.clone());
        }
    }

    fn on_created(
        &mut self,
        role: StreamRole,
        creating: &PendingCreate,
        header: Header,
        now: Instant,
    ) {
        let PendingCreate { id, key: Some(key), .. } = *creating else { return };
        let Some(watch) = self.watches.get_mut(&key).filter(|watch| watch.is_registered_as(id))
        else {
            // It was cancelled before the proxy's id was known.
            if self.is_proxied(role) {
                let cancel = self.cancel_of(role, id);
                self.actions.extend(cancel.map(|cancel| Action::Send(role, cancel)));
            }
            return;
        };
        if let Some(pending) = &watch.pending_reply {
            self.registration_deadlines.remove(&(pending.until, key));
        }
        watch.registered(id, header, now);
        let (wants_progress, moves) = (watch.progress_requested.is_some(), watch.moves_as(id));
        if let Some(open) = self.stream(role).open() {
            open.live.insert(id, key);
        }
        if moves && role == StreamRole::FutureStart {
            self.confirm_future_start(key, header.revision, now);
        } else if wants_progress {
            self.request_progress_on(role, now);
        }
    }

    fn on_refused(
        &mut self,
        role: StreamRole,
        creating: &PendingCreate,
        reason: &str,
        now: Instant,
    ) {
        // The refusal of a probe is the expected response.
        let Some(key) = creating.key else { return };
        let Some(watch) = self.watches.get_mut(&key) else { return };
        match refusal(reason, watch.next(), self.config.has_login) {
            Refusal::Stream(reason) => self.fail_over(role, &reason, now),
            Refusal::Watch(_) if watch.current.id() != Some(creating.id) => {
                // The current registration stays.
                if watch.target.take_if(|target| target.id() == Some(creating.id)).is_some() {
                    watch.is_pinned = true;
                }
                self.close_unused_stream();
            }
            Refusal::Watch(error) => {
                // The server has no id to cancel.
                watch.current.state = RegistrationState::Waiting;
                self.end(key, error);
            }
        }
    }

    /// A message for a live watch.
    fn deliver_message(&mut self, role: StreamRole, key: WatchKey, reply: Reply, now: Instant) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        if reply.canceled {
            if reply.compact_revision == Revision::ZERO {
                return self.fail_over(role, "a watch was cancelled by the server", now);
            }
            return self.on_compacted(key, reply.id, reply.compact_revision, now);
        }
        if !reply.events.is_empty() || reply.fragment {
            if !watch.assemble(reply.id, reply.events, reply.fragment) {
                let buffer = Arc::clone(&watch.buffer);
                self.unregister(key, RegistrationState::Paused);
                buffer.pause();
            }
        } else if watch.request.progress_notify && watch.deliver_progress(reply.header.revision) {
            watch.advance_to(reply.header.revision);
        }
    }

    /// The store compacted revisions that the server had not sent yet. The server keeps the id, and
    /// reports no progress on the stream, until the client cancels it.
    fn on_compacted(&mut self, key: WatchKey, id: i64, revision: Revision, now: Instant) {
        let Some(watch) = self.watches.get_mut(&key) else { return };
        let survives = watch.survives_compaction(revision);
        if let Some(target) = watch.target.take_if(|target| target.id() == Some(id)) {
            watch.target = survives.then(|| Registration::new(target.role));
            watch.is_pinned = !survives;
            self.cancel(&target);
            self.register(key, now);
            return self.close_unused_stream();
        }
        if watch.target.as_ref().is_some_and(Registration::is_live) {
            return self.complete_move(key);
        }
        let (requested, compact_revision) = (Some(watch.next()), Some(revision));
        self.unregister(key, RegistrationState::Waiting);
        if survives {
            return self.register(key, now);
        }
        self.end(key, Error::Compacted { requested, compact_revision });
    }
}

/// Whether every attempt fails until users, passwords or roles are changed.
const fn is_about_login(error: &Error) -> bool {
    matches!(error, Error::Unauthenticated { .. } | Error::PermissionDenied { .. })
}

impl Drop for Machine {
    /// The runtime of the driver was shut down: the readers receive an error.
    fn drop(&mut self) {
        for watch in self.watches.values() {
            watch.buffer.end(driver_is_gone());
        }
    }
}
