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

use std::sync::Arc;

use coord_core::{Event, Header, Result, Revision, WatchBatch, WatchRequest};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::slot::Slot;
use super::LaneName;

/// A watch in the machine.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: WatchRequest,
    pub(super) slot: Arc<Slot>,
    pub(super) lane: LaneName,
    pub(super) place: Place,
    /// Where it started when it was created last.
    pub(super) sent: Revision,
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

/// Whoever waits for a registration.
#[derive(Debug)]
pub(super) struct Registering {
    pub(super) reply: oneshot::Sender<Result<Header>>,
    /// When it is given up.
    pub(super) until: Instant,
}

impl Entry {
    pub(super) fn new(request: WatchRequest, slot: Arc<Slot>, registering: Registering) -> Self {
        Self {
            lane: LaneName::Main,
            place: Place::Waiting,
            sent: Revision::ZERO,
            registering: Some(registering),
            asks: None,
            claim: None,
            next: request.start_revision,
            reached: Revision::ZERO,
            exact: false,
            held: Vec::new(),
            request,
            slot,
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

    /// The server has no id of this watch any more, or not yet.
    pub(super) fn unplace(&mut self, place: Place) {
        self.place = place;
        self.held.clear();
        self.claim = None;
    }

    /// The server has registered the watch, and showed its revision doing so.
    ///
    /// A watch from now on is about what comes after that revision. A server may yet send what it
    /// did between registering and looking at the revision, which is dropped: so the header says
    /// exactly where the watch starts, and starting again later gives the same.
    pub(super) fn registered(&mut self, id: i64, header: Header) {
        self.place = Place::Live(id);
        if self.next == Revision::ZERO {
            self.next = header.revision.next();
        }
        self.reached = self.reached.max(header.revision.min(self.next.previous()));
        if let Some(registering) = self.registering.take() {
            // Nobody may be waiting any more; then the watch is about to be removed.
            let _ = registering.reply.send(Ok(header));
        }
    }

    /// Whether the server waits for a revision that does not exist as far as is known: while it
    /// does, it answers no progress request on the whole stream.
    pub(super) fn is_ahead(&self, seen: Revision) -> bool {
        self.is_live() && self.sent > seen
    }

    pub(super) const fn is_live(&self) -> bool {
        matches!(self.place, Place::Live(_))
    }

    /// History is gone before `compact_revision`. Whether all that is of interest is still there.
    pub(super) fn survives(&mut self, compact_revision: Revision) -> bool {
        self.exact |= self.start() < compact_revision;
        compact_revision <= self.next
    }

    /// Takes the events of a message. Whether there is room for more; if not, what was left of the
    /// message is forgotten, and comes again when the watch goes on.
    pub(super) fn assemble(&mut self, events: Vec<Event>, fragment: bool) -> bool {
        for event in events {
            let revision = event.kv.mod_revision;
            let other = self.held.first().is_some_and(|held| held.kv.mod_revision != revision);
            if other && !self.flush() {
                return false;
            }
            if revision >= self.next {
                self.held.push(event);
            }
        }
        fragment || self.flush()
    }

    /// Delivers what is held as the batch of its revision. Whether there is room for more.
    fn flush(&mut self) -> bool {
        let events = std::mem::take(&mut self.held);
        let Some(first) = events.first() else { return true };
        let revision = first.kv.mod_revision;
        self.advance(revision);
        self.claim = None;
        self.slot.push(WatchBatch { revision, events })
    }

    /// Everything up to `revision` has been delivered. A bookmark is delivered on request.
    pub(super) fn progress(&mut self, revision: Revision) {
        if self.held.is_empty() && revision.next() >= self.next {
            self.advance(revision);
        }
    }

    /// Delivers a bookmark, unless it says nothing.
    pub(super) fn bookmark(&self, revision: Revision) -> bool {
        let says_something = self.held.is_empty() && revision.next() >= self.next;
        if says_something {
            self.slot.push(WatchBatch { revision, events: Vec::new() });
        }
        says_something
    }

    fn advance(&mut self, revision: Revision) {
        self.next = revision.next();
        self.reached = revision;
        self.exact = false;
    }
}
