//! One watch: how far it has come, and how its batches are put together.
//!
//! What arrives under one server-side id is a sequence of events in revision order, cut into
//! messages in ways that mean nothing: one revision each when the server is live, up to a thousand
//! revisions in one message when it catches up, parts of a revision when it fragments. The cut that
//! means something is between revisions, and [`Entry::assemble`] makes it again:
//!
//! ```text
//! next = 7, after a lost connection the watch is created again from 6 on
//!   message  6 7 7 8  fragment    6 < next: dropped.  7 7: a batch.  8: held, more may follow
//!   message  8 9      the last    8 8: a batch.  9: a batch.  next = 10
//! ```
//!
//! **Why from 6, when 7 is next?** A server answers no progress request while any watcher of the
//! stream waits for a revision that does not exist yet, and after a quiet time 7 does not. So a
//! watch starts again at the last revision that it knows to exist. If just that one is compacted
//! meanwhile, the server says so although nothing is lost, and the watch starts *exactly* at 7.
//!
//! **A watch that moves is registered twice for a while.** What a server has registered it tells in
//! full, whatever is compacted afterwards; what is yet to be registered it may find compacted. So
//! a watch stays [where it is](Entry::at) until nothing can go wrong any more [where it
//! goes](Entry::to). Both tell it everything from its next revision on, and what one has told is
//! dropped when the other tells it too.

use std::sync::Arc;

use coord_core::{
    Result,
    kv::{Event, Header, Revision, Watch, WatchBatch},
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::slot::Slot;
use super::LaneName;

/// A watch in the machine.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: Watch,
    pub(super) slot: Arc<Slot>,
    /// Where it is.
    pub(super) at: Post,
    /// Where it goes, if it moves.
    pub(super) to: Option<Post>,
    /// It does not move: what it would be registered for elsewhere is compacted.
    pub(super) stays: bool,
    /// Whoever waits for the registration, until it is confirmed for the first time.
    pub(super) registering: Option<Registering>,
    /// A bookmark was asked for, most recently then.
    pub(super) asks: Option<Instant>,
    /// What a server said whose word about progress is not to be taken at once, and when.
    pub(super) claim: Option<(Revision, Instant)>,
    /// The first revision that was not delivered. Zero until the first registration pins it.
    next: Revision,
    /// The newest revision below `next` that is known to exist.
    reached: Revision,
    /// Start at `next`, for what is before it is compacted.
    exact: bool,
}

/// A registration of a watch on a stream.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) lane: LaneName,
    pub(super) place: Place,
    /// Where it started when it was created last.
    pub(super) sent: Revision,
    /// The bookmark that was being asked for when it was requested.
    pub(super) asked: Option<Instant>,
    /// When it was confirmed.
    pub(super) since: Option<Instant>,
    /// Events of one revision, of which more may follow.
    held: Vec<Event>,
}

/// Where a watch is with its server. The ids are those of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not there; it is to be created as soon as its stream is open.
    Waiting,
    /// The request to create it is under way.
    Creating(i64),
    /// Registered.
    Live(i64),
    /// Not there, for its reader is behind.
    Behind,
}

/// What a registration came to.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Registered {
    /// The watch is registered.
    At(Header),
    /// The server cannot register a watch from now on, only from a revision on.
    NeedsRevision,
}

/// Whoever waits for a registration.
#[derive(Debug)]
pub(super) struct Registering {
    pub(super) reply: oneshot::Sender<Result<Registered>>,
    /// When it is given up.
    pub(super) until: Instant,
}

impl Post {
    /// Not there yet.
    pub(super) const fn new(lane: LaneName) -> Self {
        let (place, sent) = (Place::Waiting, Revision::ZERO);
        Self { lane, place, sent, asked: None, since: None, held: Vec::new() }
    }

    /// Its id, if the server has one for it, or is about to.
    pub(super) const fn id(&self) -> Option<i64> {
        match self.place {
            Place::Creating(id) | Place::Live(id) => Some(id),
            Place::Waiting | Place::Behind => None,
        }
    }

    pub(super) const fn is_live(&self) -> bool {
        matches!(self.place, Place::Live(_))
    }

    pub(super) fn is_on(&self, name: LaneName) -> bool {
        self.lane == name
    }

    pub(super) fn is_waiting_on(&self, name: LaneName) -> bool {
        self.is_on(name) && self.place == Place::Waiting
    }

    pub(super) fn is_live_on(&self, name: LaneName) -> bool {
        self.is_on(name) && self.is_live()
    }

    /// Whether its server waits for a revision that does not exist as far as is known: while it
    /// does, it answers no progress request on the whole stream.
    pub(super) fn is_ahead(&self, seen: Revision) -> bool {
        self.is_live() && self.sent > seen
    }
}

impl Entry {
    pub(super) const fn new(request: Watch, slot: Arc<Slot>, registering: Registering) -> Self {
        Self {
            at: Post::new(LaneName::Main),
            to: None,
            stays: false,
            registering: Some(registering),
            asks: None,
            claim: None,
            next: match request.start_revision {
                Some(start) => start,
                None => Revision::ZERO,
            },
            reached: Revision::ZERO,
            exact: false,
            request,
            slot,
        }
    }

    /// Where it is, and where it goes.
    pub(super) fn posts(&self) -> impl Iterator<Item = &Post> {
        std::iter::once(&self.at).chain(&self.to)
    }

    /// Its registration under this id.
    pub(super) fn post(&mut self, id: i64) -> Option<&mut Post> {
        std::iter::once(&mut self.at).chain(&mut self.to).find(|post| post.id() == Some(id))
    }

    /// Whether it is, or is about to be, registered under this id.
    pub(super) fn is_registered_as(&self, id: i64) -> bool {
        self.posts().any(|post| post.id() == Some(id))
    }

    /// Whether this is the id under which it is registered where it goes.
    pub(super) fn goes_as(&self, id: i64) -> bool {
        self.to.as_ref().is_some_and(|to| to.id() == Some(id))
    }

    /// The bookmark that was asked for has been delivered.
    pub(super) fn answered(&mut self) {
        self.asks = None;
        if let Some(to) = &mut self.to {
            to.asked = None;
        }
    }

    /// The registration that is yet to be requested, and where it is to start.
    pub(super) fn unrequested(&mut self) -> Option<(&mut Post, Revision)> {
        let (start, next) = (self.start(), self.next);
        let waiting = |post: &&mut Post| post.place == Place::Waiting;
        match self.to.as_mut().filter(waiting) {
            // It goes there for the revision that does not exist yet.
            Some(to) if to.is_on(LaneName::Aside) => Some((to, next)),
            Some(to) => Some((to, start)),
            None => Some(&mut self.at).filter(waiting).map(|at| (at, start)),
        }
    }

    /// The first revision that was not delivered; zero before the first registration.
    pub(super) const fn next(&self) -> Revision {
        self.next
    }

    /// Where to start when it is created next.
    pub(super) fn start(&self) -> Revision {
        let before = self.next.previous();
        if before > Revision::ZERO && self.reached >= before && !self.exact {
            before
        } else {
            self.next
        }
    }

    /// No server has an id of this watch any more, or not yet.
    pub(super) fn unplace(&mut self, place: Place) {
        self.at = Post { place, ..Post::new(self.at.lane) };
        self.to = None;
        self.stays = false;
        self.claim = None;
    }

    /// It is no longer where it was. Whether it is where it was to go instead: that may come too
    /// late, but nothing else can be sooner.
    pub(super) fn falls_back(&mut self) -> bool {
        let to = self.to.take_if(|to| to.is_live());
        to.map(|to| self.at = to).is_some()
    }

    /// The server has registered the watch, and showed its revision doing so.
    ///
    /// A watch from now on is about what comes after that revision. A server may yet send what it
    /// did between registering and looking at the revision, which is dropped: so the header says
    /// exactly where the watch starts, and starting again later gives the same.
    pub(super) fn registered(&mut self, id: i64, header: Header, now: Instant) {
        if let Some(post) = self.post(id) {
            post.place = Place::Live(id);
            post.since = Some(now);
        }
        if self.next == Revision::ZERO {
            self.next = header.revision.next();
        }
        self.reached = self.reached.max(header.revision.min(self.next.previous()));
        if let Some(registering) = self.registering.take() {
            // Nobody may be waiting any more; then the watch is about to be removed.
            let _ = registering.reply.send(Ok(Registered::At(header)));
        }
    }

    /// Whether nothing that exists, as far as is known, is of interest to it.
    pub(super) fn waits(&self, seen: Revision) -> bool {
        self.next.previous() > seen
    }

    /// History is gone before `compact_revision`. Whether all that is of interest is still there.
    pub(super) fn survives(&mut self, compact_revision: Revision) -> bool {
        self.exact |= self.start() < compact_revision;
        compact_revision <= self.next
    }

    /// Takes the events of a message. Whether there is room for more; if not, what was left of the
    /// message is forgotten, and comes again when the watch goes on.
    pub(super) fn assemble(&mut self, id: i64, events: Vec<Event>, fragment: bool) -> bool {
        let held = self.post(id).map(|post| std::mem::take(&mut post.held));
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
        if let Some(post) = self.post(id) {
            post.held = held;
        }
        true
    }

    /// Delivers the batch of a revision. Whether there is room for more.
    fn deliver(&mut self, events: Vec<Event>) -> bool {
        let revision = events.first().map(|first| first.kv.mod_revision);
        // While these were held, they may have come from elsewhere.
        let Some(revision) = revision.filter(|revision| *revision >= self.next) else {
            return true;
        };
        self.advance(revision);
        self.claim = None;
        self.slot.push(WatchBatch { revision, events })
    }

    /// Whether no revision is only half there.
    fn is_whole(&self) -> bool {
        self.posts().all(|post| post.held.is_empty())
    }

    /// Everything up to `revision` has been delivered. A bookmark is delivered on request.
    pub(super) fn progress(&mut self, revision: Revision) {
        if self.is_whole() && revision.next() >= self.next {
            self.advance(revision);
        }
    }

    /// Delivers a bookmark, unless it says nothing or the reader has too much to read as it is.
    pub(super) fn bookmark(&self, revision: Revision) -> bool {
        let says_something = self.is_whole() && revision.next() >= self.next;
        says_something && self.slot.push_bookmark(revision)
    }

    fn advance(&mut self, revision: Revision) {
        self.next = revision.next();
        self.reached = revision;
        self.exact = false;
        self.stays = false;
    }
}
