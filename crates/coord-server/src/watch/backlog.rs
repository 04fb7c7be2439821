//! The backlog of a watch: the events from before its creation, sent in as few messages as
//! possible.
//!
//! A backend delivers one batch per revision. etcd sends a watch's backlog in as few messages as
//! possible, and later events one revision per message. Some clients rely on the number of
//! messages:
//!
//! ```text
//! created @9, from 5      backend  5   7   9   progress   12
//!                         client   5 7 9                  12
//! ```
//!
//! So the server requests progress for a watch with a backlog as soon as the watch is created, and
//! collects events until the progress notification arrives. A message contains at most 1,000
//! revisions.
//!
//! Source: `docs/etcd-contract.md` §6; etcd 3.5 `server/mvcc/watcher_group.go`,
//! `watchBatchMaxRevs`.

use coord_core::kv::{Event, Revision, WatchBatch};

/// The maximum number of revisions in one message.
const MAX_REVISIONS_PER_MESSAGE: usize = 1000;

/// The events from a watch's start revision up to its creation that are not sent yet.
pub(super) struct Backlog {
    /// The revision at which the watch was created.
    until: Revision,
    events: Vec<Event>,
    /// Number of revisions in `events`.
    revisions: usize,
}

impl Backlog {
    /// The backlog of a watch that starts at `start` and was created at `now`; `None` if the watch
    /// starts later.
    pub(super) fn new(start: Revision, now: Revision) -> Option<Self> {
        let has_backlog = start > Revision::ZERO && start <= now;
        has_backlog.then(|| Self { until: now, events: Vec::new(), revisions: 0 })
    }

    /// Adds a batch to the backlog. Returns a batch that is not part of the backlog, which ends the
    /// backlog.
    pub(super) fn add(&mut self, batch: WatchBatch) -> Option<WatchBatch> {
        if batch.events.is_empty() || batch.revision > self.until {
            return Some(batch);
        }
        self.events.extend(batch.events);
        self.revisions += 1;
        None
    }

    /// Whether the events fill a message.
    pub(super) const fn is_full(&self) -> bool {
        self.revisions == MAX_REVISIONS_PER_MESSAGE
    }

    /// Takes the collected events as one batch; `None` if there are none.
    pub(super) fn take_batch(&mut self) -> Option<WatchBatch> {
        self.revisions = 0;
        let events = std::mem::take(&mut self.events);
        (!events.is_empty()).then_some(WatchBatch { revision: self.until, events })
    }
}
