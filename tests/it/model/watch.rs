//! Watches: what is there at registration is kept, what comes later is read off the events.
//!
//! A `MemBackend` reads history into a watch when the watch is registered (up to a thousand
//! batches; no sequence here has as many). So what is compacted *later* is delivered all the same,
//! and what is compacted *before* decides which old events still have their `prev_kv`.

use coord_core::{
    error::ErrorKind,
    kv::{Event, EventKind, Header, KeyRange, Revision, Watch, WatchBatch, WatchFilter},
};

use super::range::number;
use super::rules;
use super::state::{Answer, Model};

/// What a watch is expected to deliver.
pub(super) type Delivery = Answer<WatchBatch>;

/// A watch as the model sees it.
#[derive(Debug)]
pub(super) struct Watcher {
    request: Watch,
    /// What was there when it was registered, or that it is gone.
    backlog: Vec<Delivery>,
    /// The first revision that has not been delivered, those of the backlog left aside.
    next: Revision,
    bookmark_asked: bool,
    ended: bool,
    /// The compaction at registration.
    compacted: i64,
}

impl Model {
    pub(super) fn watch(&self, mut request: Watch) -> Answer<(Header, Watcher)> {
        if request.keys.start().is_empty() {
            request.keys = KeyRange::from_wire("\0", request.keys.range_end());
        }
        let start = number(request.start_revision);
        if start < Revision::ZERO {
            return Err(ErrorKind::Compacted);
        }
        let end = request.keys.range_end();
        if !end.is_empty() && &end[..] != b"\0" && end <= request.keys.start() {
            return Err(ErrorKind::EmptyWatchRange);
        }
        let mut backlog = Vec::new();
        let next = Revision(self.revision().0 + 1);
        let ended = start > Revision::ZERO && start.0 < self.compacted;
        if ended {
            backlog.push(Err(ErrorKind::Compacted));
        } else if start > Revision::ZERO {
            for revision in start.0..next.0 {
                backlog.extend(batch(&request, Revision(revision), &self.retained(revision)));
            }
        }
        let (bookmark_asked, compacted) = (false, self.compacted);
        let watcher = Watcher { request, backlog, next, bookmark_asked, ended, compacted };
        Ok((self.header(), watcher))
    }

    /// The events of a revision, as far as they outlive compaction: §5.
    fn retained(&self, revision: i64) -> Vec<Event> {
        let events = &self.events[usize::try_from(revision).expect("not negative")];
        if revision != self.compacted {
            return events.clone();
        }
        // Of each key the newest change up to here is kept, and of what was before, nothing.
        let is_newest =
            |at: usize| events[at + 1..].iter().all(|later| later.kv.key != events[at].kv.key);
        let newest = (0..events.len()).filter(|&at| is_newest(at));
        newest.map(|at| Event { prev_kv: None, ..events[at].clone() }).collect()
    }

    /// All that a watch has to deliver now.
    pub(super) fn deliver(&self, watcher: &mut Watcher) -> Vec<Delivery> {
        let mut deliveries = std::mem::take(&mut watcher.backlog);
        if watcher.ended {
            return deliveries;
        }
        let current = self.revision();
        while watcher.next <= current {
            let events = &self.events[usize::try_from(watcher.next.0).expect("not negative")];
            if watcher.next >= number(watcher.request.start_revision) {
                deliveries.extend(batch(&watcher.request, watcher.next, events));
            }
            watcher.next = Revision(watcher.next.0 + 1);
        }
        // §6: no progress before the first revision that was asked for.
        if watcher.bookmark_asked && current >= number(watcher.request.start_revision) {
            deliveries.push(Ok(WatchBatch { revision: current, events: Vec::new() }));
        }
        watcher.bookmark_asked = false;
        deliveries
    }
}

impl Watcher {
    pub(super) fn ask_for_bookmark(&mut self) {
        self.bookmark_asked = true;
    }

    /// What a watch that is told of a compaction is told.
    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Whether the last delivery was the last of all.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }
}

/// What a watch sees of a revision; nothing if none of the events is for it.
fn batch(request: &Watch, revision: Revision, events: &[Event]) -> Option<Delivery> {
    let mut wanted = Vec::new();
    for event in events {
        let filter = match event.kind {
            EventKind::Put => WatchFilter::NoPut,
            EventKind::Delete => WatchFilter::NoDelete,
        };
        if !rules::is_in(&event.kv.key, &request.keys) || request.filters.contains(&filter) {
            continue;
        }
        let prev_kv = event.prev_kv.clone().filter(|_| request.prev_kv);
        wanted.push(Event { prev_kv, ..event.clone() });
    }
    (!wanted.is_empty()).then_some(Ok(WatchBatch { revision, events: wanted }))
}
