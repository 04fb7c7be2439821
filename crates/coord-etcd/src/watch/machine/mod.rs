//! The watch protocol as a state machine: what happens goes in, what is to be done comes out.
//!
//! No I/O, no task, no clock of its own: the driver tells it what its users want, what a stream
//! said or that it was lost, and what time it is; it answers with [`Action`]s and puts batches into
//! the slots of their readers. So a test can be the server, and a thousand broken connections take
//! no time.
//!
//! A watch goes round in a circle, and every way through it ends at its next revision:
//!
//! ```text
//!              stream open             created                  slot full
//!   Waiting ───────────────▶ Creating ─────────▶ Live ──────────────────────────▶ Behind
//!      ▲                        │                 │ │ ▲ a message: batches          │
//!      │      stream lost       │   stream lost   │ └─┘                             │
//!      ├────────────────────────┴─────────────────┘              reader goes on     │
//!      └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One example. A watch from now on is created on a store at revision 10, and reads 11 and 12:
//!
//! ```text
//! out  Open(Main)
//! in   opened           out  Progress                  is this server's word worth anything?
//!                       out  Create 1 from 0
//! in   created 1 @10                                   next = 11: pinned before anything came
//! in   events 1: 11 12                                 two batches, next = 13
//! in   lost             out  Open(Main)
//! in   opened           out  Progress, Create 2 from 12
//! in   created 2 @14
//! in   events 2: 12 13 14                              12 is dropped, two batches, next = 15
//! ```
//!
//! Ids are ours and are never used twice. An etcd server buffers what it has for an id that it has
//! not confirmed yet, and keeps it when the id is cancelled meanwhile: whoever got the id next
//! would get that too.

mod entry;
mod lane;
mod probe;
mod progress;
mod proxied;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coord_core::{
    Error, Result,
    kv::{Header, Revision, Watch},
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::driver_is_gone;
use super::slot::Slot;
use super::wire::{NO_ID, Refusal, Reply, Request, refusal};
pub(super) use entry::Registered;
use entry::{Entry, Place, Post, Registering};
pub(crate) use lane::LaneName;
use lane::{Creating, Lane, LaneState, Open};

/// How the backend names a watch.
pub(super) type WatchKey = u64;

/// How often a registration is tried on another stream before it is given up.
const ATTEMPTS: u32 = 3;

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Open a stream.
    Open(LaneName),
    /// Close the stream, open or half open. Nothing more is to be told of it.
    Close(LaneName),
    /// Close it likewise, and open the next on another member if there is one.
    GiveUp(LaneName),
    /// Send a request on the stream.
    Send(LaneName, Request),
}

/// What the machine has to know of the backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// How long a server has to confirm a registration.
    pub(super) attempt: Duration,
    /// Whether there is a login, so that another stream may have a newer one.
    pub(super) has_login: bool,
}

/// All watches of a backend.
#[derive(Debug)]
pub(super) struct Machine {
    settings: Settings,
    lanes: [Lane; 2],
    watches: BTreeMap<WatchKey, Entry>,
    /// The watches whose first registration is not confirmed yet, by the time to give it up.
    registering: BTreeSet<(Instant, WatchKey)>,
    /// The watches that asked for a bookmark.
    asking: BTreeSet<WatchKey>,
    /// The newest revision that any server has shown.
    seen: Revision,
    next_id: i64,
    actions: Vec<Action>,
}

impl Machine {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            lanes: [Lane::new(), Lane::new()],
            watches: BTreeMap::new(),
            registering: BTreeSet::new(),
            asking: BTreeSet::new(),
            seen: Revision::ZERO,
            next_id: 1,
            actions: Vec::new(),
        }
    }

    /// What is to be done, in this order.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Somebody wants to watch.
    pub(super) fn add(
        &mut self,
        key: WatchKey,
        request: Watch,
        slot: Arc<Slot>,
        reply: oneshot::Sender<Result<Registered>>,
        now: Instant,
    ) {
        let until = now + self.settings.attempt * ATTEMPTS;
        self.registering.insert((until, key));
        self.watches.insert(key, Entry::new(request, slot, Registering { reply, until }));
        self.place(key, now);
    }

    /// The watch was dropped.
    pub(super) fn remove(&mut self, key: WatchKey) {
        self.asking.remove(&key);
        self.leave(key, Place::Waiting);
        let Some(entry) = self.watches.remove(&key) else { return };
        if let Some(registering) = entry.registering {
            self.registering.remove(&(registering.until, key));
        }
        self.leave_aside();
    }

    /// Closes the second stream when nobody is there any more. The first stays for the next watch.
    fn leave_aside(&mut self) {
        let name = LaneName::Aside;
        let closed = matches!(self.lane(name).state, LaneState::Closed { .. });
        let used = self.watches.values().flat_map(Entry::posts).any(|post| post.is_on(name));
        if !closed && !used {
            self.actions.push(Action::Close(name));
            self.lane(name).state = LaneState::Closed { from: None };
        }
    }

    /// The reader of a watch that fell behind has read on.
    pub(super) fn go_on(&mut self, key: WatchKey, now: Instant) {
        if let Some(entry) = self.watches.get_mut(&key)
            && entry.at.place == Place::Behind
        {
            entry.at.place = Place::Waiting;
            self.place(key, now);
        }
    }

    /// The stream is open, and no watch is on it yet.
    pub(super) fn opened(&mut self, name: LaneName, header: Header, proxied: bool, now: Instant) {
        self.seen = self.seen.max(header.revision);
        let refresh = now + progress::REFRESH;
        self.lane(name).state = LaneState::Open(Open::new(now, refresh, proxied));
        if !proxied {
            // Before any watch is there, for `Machine::progress_reply` to learn from.
            self.actions.push(Action::Send(name, Request::Progress));
        }
        for key in self.waiting(name) {
            self.place(key, now);
        }
    }

    /// The stream was lost, or could not be opened.
    pub(super) fn lost(&mut self, name: LaneName, error: &Error, now: Instant) {
        let opening = matches!(self.lane(name).state, LaneState::Opening);
        self.close(name, opening.then_some(error), now);
    }

    /// The stream is no more. If no member can be reached at all, whoever registers a watch is
    /// told. A registration that was cut short is tried again, and a watch that stands is mended
    /// for as long as it takes, whatever is said by what stands in for a member meanwhile; unless
    /// no attempt can succeed, for the login is wrong.
    fn close(&mut self, name: LaneName, unreachable: Option<&Error>, now: Instant) {
        self.lane(name).close(now);
        let keys = self.watches.iter().filter(|(_, e)| e.posts().any(|post| post.is_on(name)));
        for key in keys.map(|(key, _)| *key).collect::<Vec<_>>() {
            let Some(entry) = self.watches.get_mut(&key) else { continue };
            if let Some(to) = entry.to.take_if(|to| to.is_on(name) || !to.is_live()) {
                self.quit(&to);
            }
            let Some(entry) = self.watches.get_mut(&key) else { continue };
            if !entry.at.is_on(name) || entry.falls_back() {
                continue;
            }
            if entry.at.place != Place::Behind {
                entry.unplace(Place::Waiting);
            }
            if let Some(error) = unreachable
                && (entry.registering.is_some() || is_about_login(error))
            {
                self.end(key, error.clone());
            }
        }
        self.leave_aside();
        self.reopen(name, now);
    }

    /// A server said something.
    pub(super) fn reply(&mut self, name: LaneName, mut reply: Reply, now: Instant) {
        // A proxy may confirm a watch with the revision at which it starts, which may not be yet.
        if !(reply.created && self.is_proxied(name)) {
            self.seen = self.seen.max(reply.header.revision).max(reply.compact_revision);
        }
        let Some(open) = self.lane(name).open() else { return };
        open.heard = now;
        if let Some(proxied) = &mut open.proxied
            && reply.id != NO_ID
        {
            let front = open.creating.front().filter(|_| reply.created);
            if let Some(Creating { id, key: Some(_), .. }) = front {
                proxied.created(reply.id, *id);
            }
            reply.id = match proxied.ours(reply.id) {
                Some(ours) => ours,
                None if reply.created => NO_ID,
                // About a watch that was cancelled. It contains no progress of the others.
                None => return,
            };
        }
        if reply.created {
            let canceled = reply.canceled;
            let creating = loop {
                match open.creating.pop_front() {
                    Some(creating) if canceled || creating.id == reply.id => break creating,
                    Some(_) => {}
                    None => return self.fail(name, "a watch that nobody asked for", now),
                }
            };
            open.sound.get_or_insert(true);
            if canceled {
                self.refused(name, &creating, &reply.reason, now);
            } else {
                self.created(name, &creating, reply.header, now);
            }
            if self.is_proxied(name)
                && let Some(&next) = self.waiting(name).first()
            {
                self.place(next, now);
            }
        } else if reply.id == NO_ID {
            self.progress_reply(name, reply.header.revision, now);
        } else if let Some(&key) = open.live.get(&reply.id) {
            self.told(name, key, reply, now);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.registering.first() {
            if until > now {
                break;
            }
            self.end(key, Error::Timeout { after: self.settings.attempt * ATTEMPTS });
        }
        for name in LaneName::ALL {
            let late = match &self.lane(name).state {
                LaneState::Closed { .. } => {
                    self.reopen(name, now);
                    false
                }
                LaneState::Opening => false,
                LaneState::Open(open) => {
                    open.creating.front().is_some_and(|creating| creating.until <= now)
                }
            };
            if late {
                self.fail(name, "no answer in time", now);
            }
            self.ask_again(name, now);
            self.probe(name, now);
        }
    }

    /// When [`tick`](Self::tick) has something to do, if ever.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let lanes = LaneName::ALL.into_iter().flat_map(|name| {
            let of_state = match &self.lanes[name as usize].state {
                LaneState::Closed { from } => from.filter(|_| self.is_wanted(name)),
                LaneState::Opening => None,
                LaneState::Open(open) => open.creating.front().map(|creating| creating.until),
            };
            [of_state, self.ask_again_at(name), self.probe_at(name)]
        });
        let registering = self.registering.first().map(|(until, _)| *until);
        lanes.chain([registering]).flatten().min()
    }

    const fn lane(&mut self, name: LaneName) -> &mut Lane {
        &mut self.lanes[name as usize]
    }

    fn is_waiting(name: LaneName, entry: &Entry) -> bool {
        entry.posts().any(|post| post.is_waiting_on(name))
    }

    fn is_wanted(&self, name: LaneName) -> bool {
        self.watches.values().any(|entry| Self::is_waiting(name, entry))
    }

    fn waiting(&self, name: LaneName) -> Vec<WatchKey> {
        let waiting = self.watches.iter().filter(|(_, entry)| Self::is_waiting(name, entry));
        waiting.map(|(key, _)| *key).collect()
    }

    /// Opens a stream that is wanted, if it is time.
    fn reopen(&mut self, name: LaneName, now: Instant) {
        if let LaneState::Closed { from } = self.lane(name).state
            && from.is_none_or(|from| from <= now)
            && self.is_wanted(name)
        {
            self.lane(name).state = LaneState::Opening;
            self.actions.push(Action::Open(name));
        }
    }

    /// Brings a waiting watch to its stream, or sees to it that the stream is opened.
    fn place(&mut self, key: WatchKey, now: Instant) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        let asked = entry.asks;
        let Some((post, start)) = entry.unrequested() else { return };
        let name = post.lane;
        let Some(open) = self.lanes[name as usize].open() else {
            return self.reopen(name, now);
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
        post.place = Place::Creating(id);
        (post.sent, post.asked) = (start, asked);
        open.creating.push_back(Creating {
            id,
            key: Some(key),
            until: now + self.settings.attempt,
        });
        let create = Request::Create { id, start, watch: entry.request.clone() };
        self.actions.push(Action::Send(name, create));
    }

    /// Takes a watch from its stream, and from where it was to go.
    fn leave(&mut self, key: WatchKey, place: Place) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        let (lane, to) = (entry.at.lane, entry.to.take());
        let at = std::mem::replace(&mut entry.at, Post::new(lane));
        entry.unplace(place);
        for post in [Some(at), to].into_iter().flatten() {
            self.quit(&post);
        }
        self.forget_silence();
    }

    /// Gives up a registration.
    ///
    /// If it is just being created it is cancelled right behind that, and the confirmation finds
    /// nobody.
    fn quit(&mut self, post: &Post) {
        let Some(id) = post.id() else { return };
        let cancel = self.cancel_of(post.lane, id);
        if let Some(open) = self.lanes[post.lane as usize].open() {
            open.live.remove(&id);
            self.actions.extend(cancel.map(|cancel| Action::Send(post.lane, cancel)));
        }
    }

    /// Something is wrong with the stream: on to another.
    fn fail(&mut self, name: LaneName, reason: &str, now: Instant) {
        tracing::debug!(?name, reason, "watch stream given up");
        self.actions.push(Action::GiveUp(name));
        self.close(name, None, now);
    }

    /// The watch can only be registered from a known revision on. The caller reads one, and
    /// registers the watch again.
    fn needs_revision(&mut self, key: WatchKey) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        if let Some(registering) = entry.registering.take() {
            self.registering.remove(&(registering.until, key));
            let _ = registering.reply.send(Ok(Registered::NeedsRevision));
        }
        self.remove(key);
    }

    /// The watch ends, with an error.
    fn end(&mut self, key: WatchKey, error: Error) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        match entry.registering.take() {
            Some(registering) => {
                self.registering.remove(&(registering.until, key));
                // Nobody may be waiting any more.
                let _ = registering.reply.send(Err(error));
            }
            None => entry.slot.end(error),
        }
        self.remove(key);
    }

    /// All watches that are registered end with an error: the store has another history.
    pub(super) fn end_all(&mut self, error: &Error) {
        self.seen = Revision::ZERO;
        let registered = self.watches.iter().filter(|(_, entry)| entry.registering.is_none());
        for key in registered.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.end(key, error.clone());
        }
    }

    fn created(&mut self, name: LaneName, creating: &Creating, header: Header, now: Instant) {
        let Creating { id, key: Some(key), .. } = *creating else { return };
        let Some(entry) = self.watches.get_mut(&key).filter(|entry| entry.is_registered_as(id))
        else {
            // It was cancelled before its id was known to a proxy.
            if self.is_proxied(name) {
                let cancel = self.cancel_of(name, id);
                self.actions.extend(cancel.map(|cancel| Action::Send(name, cancel)));
            }
            return;
        };
        if let Some(registering) = &entry.registering {
            self.registering.remove(&(registering.until, key));
        }
        entry.registered(id, header, now);
        let (asks, goes) = (entry.asks.is_some(), entry.goes_as(id));
        if let Some(open) = self.lane(name).open() {
            open.live.insert(id, key);
        }
        if goes && name == LaneName::Aside {
            self.waits_aside(key, header.revision, now);
        } else if asks {
            self.ask(name, now);
        }
    }

    fn refused(&mut self, name: LaneName, creating: &Creating, reason: &str, now: Instant) {
        // The refusal of a probe is its answer.
        let Some(key) = creating.key else { return };
        let Some(entry) = self.watches.get_mut(&key) else { return };
        match refusal(reason, entry.next(), self.settings.has_login) {
            Refusal::Stream(reason) => self.fail(name, &reason, now),
            Refusal::Watch(_) if entry.at.id() != Some(creating.id) => {
                // It is still where it is.
                if entry.to.take_if(|to| to.id() == Some(creating.id)).is_some() {
                    entry.stays = true;
                }
                self.leave_aside();
            }
            Refusal::Watch(error) => {
                // The server has no id to cancel.
                entry.at.place = Place::Waiting;
                self.end(key, error);
            }
        }
    }

    /// A message about a watch that is live.
    fn told(&mut self, name: LaneName, key: WatchKey, reply: Reply, now: Instant) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        if reply.canceled {
            if reply.compact_revision == Revision::ZERO {
                return self.fail(name, "a watch was cancelled by the server", now);
            }
            return self.compacted(key, reply.id, reply.compact_revision, now);
        }
        if !reply.events.is_empty() || reply.fragment {
            if !entry.assemble(reply.id, reply.events, reply.fragment) {
                let slot = Arc::clone(&entry.slot);
                self.leave(key, Place::Behind);
                slot.fall_behind();
            }
        } else if entry.request.progress_notify && entry.bookmark(reply.header.revision) {
            entry.progress(reply.header.revision);
        }
    }

    /// History is gone before a server had told all of it. It keeps the id, and is silent about
    /// progress, until that is cancelled.
    fn compacted(&mut self, key: WatchKey, id: i64, revision: Revision, now: Instant) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        let survives = entry.survives(revision);
        if let Some(to) = entry.to.take_if(|to| to.id() == Some(id)) {
            entry.to = survives.then(|| Post::new(to.lane));
            entry.stays = !survives;
            self.quit(&to);
            self.place(key, now);
            return self.leave_aside();
        }
        if entry.to.as_ref().is_some_and(Post::is_live) {
            return self.arrive(key);
        }
        let (requested, compact_revision) = (Some(entry.next()), Some(revision));
        self.leave(key, Place::Waiting);
        if survives {
            return self.place(key, now);
        }
        self.end(key, Error::Compacted { requested, compact_revision });
    }
}

/// Whether it stays wrong until somebody changes users or passwords.
const fn is_about_login(error: &Error) -> bool {
    matches!(error, Error::Unauthenticated { .. } | Error::PermissionDenied { .. })
}

impl Drop for Machine {
    /// The runtime went away under the driver: whoever reads is told.
    fn drop(&mut self) {
        for entry in self.watches.values() {
            entry.slot.end(driver_is_gone());
        }
    }
}
