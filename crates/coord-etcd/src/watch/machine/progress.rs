//! Bookmarks on request: who may be told that everything up to a revision has arrived.
//!
//! etcd answers a request for progress with one message for the whole stream, and only when every
//! watcher on it has caught up; otherwise it says nothing, ever. So the machine asks again, and
//! takes the answer for every watch that was confirmed on the stream before it. Four things stand
//! in the way, and this is what is done about each:
//!
//! - *A watcher that history is gone for* counts as not caught up until it is cancelled: it is
//!   cancelled at once.
//! - *A watcher that waits for a revision that does not exist yet* keeps the stream silent, on
//!   3.4.38, 3.5.22, 3.6.2 and later. It goes **aside**, to a second stream, opened for that. The
//!   confirmation there proves that it waits, so that compaction does not concern it, and with
//!   that all that it was due before: which is the bookmark, if it asked itself. A watch aside
//!   that asks, and waits no more, comes back, if those that do keep it from its bookmark.
//! - *Servers before 3.4.25 and 3.5.8* answer always and at once, past events that they have still
//!   to send. They betray themselves: asked for progress on a stream without watchers they answer,
//!   where others are silent. So that is the first thing asked on each stream; whatever confirms
//!   the first watch ends the wait.
//! - *What such servers say* nobody can prove. Their revision is taken when a second answer has
//!   come at least [`SETTLE`] later and nothing arrived for the watch in between: ten times as long
//!   as their catch-up loop takes to come round. A bookmark of theirs is given to whoever asked and
//!   nothing is built on it: should an event from before it turn up after all, it is delivered.
//!
//! Now and then progress is asked for on nobody's behalf. A quiet watch has to start again, after a
//! lost connection, at the last revision it knows of: the newer that is, the less likely is it
//! compacted by then.

use std::time::Duration;

use coord_core::kv::Revision;
use tokio::time::Instant;

use super::entry::{Entry, Post};
use super::{Action, LaneName, LaneState, Machine, Request, WatchKey};

/// How long an unproven answer must stand unchallenged.
const SETTLE: Duration = Duration::from_secs(1);

/// How often progress is asked for on nobody's behalf.
pub(super) const REFRESH: Duration = Duration::from_secs(30);

/// How soon an unanswered request is repeated: a server that catches up needs 100 ms a round.
const AGAIN: Duration = Duration::from_millis(100);

/// How soon when it has been repeated often: the pause is as long as the silence, within limits.
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// After how long without an answer it is looked for what keeps the server silent.
const SILENT: Duration = Duration::from_millis(200);

impl Machine {
    /// The reader of a watch wants a bookmark.
    pub(in super::super) fn request_progress(&mut self, key: WatchKey, now: Instant) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        entry.asks = Some(now);
        self.asking.insert(key);
        let live = entry.posts().filter(|post| post.is_live());
        // Elsewhere it is asked for as soon as the watch is live.
        for name in live.map(|post| post.lane).collect::<Vec<_>>() {
            self.ask(name, now);
        }
    }

    /// Asks a server for progress, at once.
    pub(super) fn ask(&mut self, name: LaneName, now: Instant) {
        let Some(open) = self.lane(name).open() else { return };
        // Whoever asks all the time does not put off what is done about a silent server.
        if open.unanswered.is_none() {
            open.unanswered = Some(now);
            open.asked = now;
        }
        self.send_progress_request(name);
    }

    fn send_progress_request(&mut self, name: LaneName) {
        if !self.is_proxied(name) {
            self.actions.push(Action::Send(name, Request::Progress));
        }
    }

    /// A server said that everything up to `revision` has been sent.
    pub(super) fn progress_reply(&mut self, name: LaneName, revision: Revision, now: Instant) {
        let Some(open) = self.lane(name).open() else { return };
        let Some(sound) = open.sound else {
            // Nobody is there yet whom it could be about.
            open.sound = Some(false);
            return;
        };
        open.unanswered = None;
        for key in open.live.values().copied().collect::<Vec<_>>() {
            let Some(entry) = self.watches.get_mut(&key) else { continue };
            if let Some(asked) = entry.asks {
                // For whom the answer is, if it was given before: whoever asked again since then
                // gets another.
                let (revision, at) = match entry.claim {
                    _ if sound => (revision, now),
                    Some((revision, at)) if now - at >= SETTLE => (revision, at),
                    Some(_) => continue,
                    None => {
                        entry.claim = Some((revision, now));
                        continue;
                    }
                };
                entry.claim = None;
                if entry.bookmark(revision) && at >= asked {
                    entry.answered();
                    self.asking.remove(&key);
                }
            }
            if sound {
                entry.progress(revision);
                // What answers an earlier request may arrive after the confirmation.
                let settled = |to: &Post| to.since.is_some_and(|since| now - since >= SETTLE);
                if entry.to.as_ref().is_some_and(|to| to.is_live_on(name) && settled(to)) {
                    self.arrive(key);
                }
            }
        }
    }

    /// Whether a live watch of the stream still wants a bookmark.
    pub(super) fn is_asked(&self, name: LaneName) -> bool {
        let asking = self.asking.iter().filter_map(|key| self.watches.get(key));
        asking.flat_map(Entry::posts).any(|post| post.is_live_on(name))
    }

    /// A server owes nothing to those who do not ask any more: whoever asks next has not waited
    /// since then.
    pub(super) fn forget_silence(&mut self) {
        for name in LaneName::ALL {
            if !self.is_asked(name)
                && let Some(open) = self.lane(name).open()
            {
                open.unanswered = None;
            }
        }
    }

    /// When to ask again.
    pub(super) fn ask_again_at(&self, name: LaneName) -> Option<Instant> {
        let LaneState::Open(open) = &self.lanes[name as usize].state else { return None };
        let again = self.is_asked(name).then(|| {
            let silence = open.unanswered.map_or(Duration::ZERO, |since| open.asked - since);
            open.asked + silence.clamp(AGAIN, AGAIN_MAX)
        });
        let refresh = (open.sound == Some(true) && !open.live.is_empty()).then_some(open.refresh);
        [refresh, again].into_iter().flatten().min()
    }

    /// Asks again, if it is time.
    pub(super) fn ask_again(&mut self, name: LaneName, now: Instant) {
        if self.ask_again_at(name).is_none_or(|at| at > now) {
            return;
        }
        let asked = self.is_asked(name);
        let Some(open) = self.lane(name).open() else { return };
        open.asked = now;
        open.refresh = now + REFRESH;
        if asked {
            let since = *open.unanswered.get_or_insert(now);
            if now - since >= SILENT && open.sound == Some(true) {
                self.make_way(name, now);
            }
        }
        self.send_progress_request(name);
    }

    /// Moves watches out of the way that keep a server silent.
    fn make_way(&mut self, name: LaneName, now: Instant) {
        let seen = self.seen;
        let live = || self.watches.iter().filter(|(_, entry)| entry.at.is_live_on(name));
        let asks = |entry: &Entry| entry.asks.is_some() && !entry.waits(seen);
        let served = live().any(|(_, entry)| asks(entry));
        let to = |entry: &Entry| match (name, entry.at.is_ahead(seen)) {
            _ if entry.stays || entry.to.is_some() => None,
            // Otherwise nobody who could be served would be.
            (LaneName::Main, true) => served.then_some(LaneName::Aside),
            (LaneName::Main, false) => None,
            // For the confirmation, which is the bookmark.
            (LaneName::Aside, true) => asks(entry).then_some(LaneName::Aside),
            (LaneName::Aside, false) => asks(entry).then_some(LaneName::Main),
        };
        let moves: Vec<_> = live().filter_map(|(key, e)| Some((*key, to(e)?))).collect();
        for (key, to) in moves {
            if let Some(entry) = self.watches.get_mut(&key) {
                entry.to = Some(Post::new(to));
                self.place(key, now);
            }
        }
    }

    /// A watch that goes aside is registered there, in a store that was at `revision` or less.
    ///
    /// If that is before its start, the server will tell it all that is ever to come, compacted or
    /// not. If not, the server may be looking for its start among what is being compacted; but
    /// then the watch keeps nobody silent where it is.
    pub(super) fn waits_aside(&mut self, key: WatchKey, revision: Revision, now: Instant) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        let from = entry.at.lane;
        let waits = entry.to.as_ref().filter(|to| to.sent > revision);
        if let Some(asked) = waits.map(|to| to.asked) {
            // Whoever asked again since then gets another.
            if asked.is_some() && entry.bookmark(revision) && entry.asks == asked {
                entry.answered();
                self.asking.remove(&key);
            }
            self.arrive(key);
        } else if let Some(to) = entry.to.take() {
            self.quit(&to);
            self.leave_aside();
        }
        self.forget_silence();
        if self.is_asked(from) {
            self.ask(from, now);
        }
    }

    /// A watch is where it was to go, and loses nothing by leaving where it was.
    pub(super) fn arrive(&mut self, key: WatchKey) {
        let Some(entry) = self.watches.get_mut(&key) else { return };
        let Some(to) = entry.to.take() else { return };
        let from = std::mem::replace(&mut entry.at, to);
        self.quit(&from);
        self.leave_aside();
    }
}
