//! Watches of the model: a backlog that is read at registration, and later events.
//!
//! A `MemBackend` reads the history into a watch when the watch is registered (up to 1,024 batches;
//! no sequence here has as many). So a *later* compaction does not affect the delivery, and an
//! *earlier* compaction decides which past events have a `prev_kv`.

use coord_core::{
    error::ErrorKind,
    kv::{Event, EventKind, Header, KeyRange, Revision, Watch, WatchBatch, WatchFilter},
};

use super::range::or_zero;
use super::rules;
use super::state::{Model, ModelResult};

/// An expected delivery of a watch: a batch, or the error that ends the watch.
pub(super) type Delivery = ModelResult<WatchBatch>;

/// A watch of the model.
#[derive(Debug)]
pub(super) struct Watcher {
    request: Watch,
    /// The history at registration, or the error that it is compacted.
    backlog: Vec<Delivery>,
    /// The first revision after the backlog that was not delivered.
    next: Revision,
    progress_requested: bool,
    ended: bool,
    /// The compact revision at registration.
    compacted: i64,
}

impl Model {
    pub(super) fn watch(&self, mut request: Watch) -> ModelResult<(Header, Watcher)> {
        if request.keys.start().is_empty() {
            request.keys = KeyRange::from_wire("\0", request.keys.range_end());
        }
        let start = or_zero(request.start_revision);
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
                backlog.extend(batch(
                    &request,
                    Revision(revision),
                    &self.retained_events(revision),
                ));
            }
        }
        let (progress_requested, compacted) = (false, self.compacted);
        let watcher = Watcher { request, backlog, next, progress_requested, ended, compacted };
        Ok((self.header(), watcher))
    }

    /// The events of a revision that remain after a compaction: §5.
    fn retained_events(&self, revision: i64) -> Vec<Event> {
        let events = &self.events[usize::try_from(revision).expect("not negative")];
        if revision != self.compacted {
            return events.clone();
        }
        // Of the compact revision, the newest change of each key remains, without `prev_kv`.
        let is_newest =
            |at: usize| events[at + 1..].iter().all(|later| later.kv.key != events[at].kv.key);
        let newest = (0..events.len()).filter(|&at| is_newest(at));
        newest.map(|at| Event { prev_kv: None, ..events[at].clone() }).collect()
    }

    /// All deliveries of a watch that are due.
    pub(super) fn take_deliveries(&self, watcher: &mut Watcher) -> Vec<Delivery> {
        let mut deliveries = std::mem::take(&mut watcher.backlog);
        if watcher.ended {
            return deliveries;
        }
        let current = self.revision();
        while watcher.next <= current {
            let events = &self.events[usize::try_from(watcher.next.0).expect("not negative")];
            if watcher.next >= or_zero(watcher.request.start_revision) {
                deliveries.extend(batch(&watcher.request, watcher.next, events));
            }
            watcher.next = Revision(watcher.next.0 + 1);
        }
        // §6: there is no progress notification before the start revision.
        if watcher.progress_requested && current >= or_zero(watcher.request.start_revision) {
            deliveries.push(Ok(WatchBatch { revision: current, events: Vec::new() }));
        }
        watcher.progress_requested = false;
        deliveries
    }
}

impl Watcher {
    pub(super) fn request_progress(&mut self) {
        self.progress_requested = true;
    }

    /// The compact revision that the error of this watch reports.
    pub(super) fn compact_revision(&self) -> i64 {
        self.compacted
    }

    /// Whether the watch has no further deliveries.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }
}

/// The batch of a revision for a watch; `None` if the watch receives none of the events.
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
