//! What had happened before a watch was created, told at once.
//!
//! The backend tells one revision after the other. etcd tells the past of a watch in as few
//! messages as it can, and what happens from then on one by one, and there are clients that count:
//!
//! ```text
//! created @9, from 5      backend  5   7   9   all told   12
//!                         client   5 7 9                  12
//! ```
//!
//! So a watch with a past is asked for a bookmark as soon as it is created, and its events are
//! gathered until that comes. A message holds a thousand revisions at most.
//!
//! Source: `docs/etcd-contract.md` §6; etcd 3.5 `watchBatchMaxRevs` in
//! `server/storage/mvcc/watcher_group.go`.

use coord_core::kv::{Event, Revision, WatchBatch};

/// How many revisions a message holds at most.
const REVISIONS_MAX: usize = 1000;

/// The past of a watch, as far as it is not told yet.
pub(super) struct Past {
    /// The revision at which the watch was created.
    until: Revision,
    events: Vec<Event>,
    revisions: usize,
}

impl Past {
    /// That of a watch which starts there and was created now; none, if it has none.
    pub(super) fn new(start: Revision, now: Revision) -> Option<Self> {
        let has_one = start > Revision::ZERO && start <= now;
        has_one.then(|| Self { until: now, events: Vec::new(), revisions: 0 })
    }

    /// Takes a batch of the past. The first that is not is handed back, and ends it.
    pub(super) fn gather(&mut self, batch: WatchBatch) -> Option<WatchBatch> {
        if batch.events.is_empty() || batch.revision > self.until {
            return Some(batch);
        }
        self.events.extend(batch.events);
        self.revisions += 1;
        None
    }

    /// Whether it fills a message.
    pub(super) const fn is_full(&self) -> bool {
        self.revisions == REVISIONS_MAX
    }

    /// What was gathered, if anything, as a message has it.
    pub(super) fn told(&mut self) -> Option<WatchBatch> {
        self.revisions = 0;
        let events = std::mem::take(&mut self.events);
        (!events.is_empty()).then_some(WatchBatch { revision: self.until, events })
    }
}
