//! One watch on both backends, and the markers up to which it is compared.
//!
//! A marker must be in the range of its watch and pass the filters of the watch. The marker is a
//! put of the first key of the range. If any watch filters out puts, a deletion of the key follows
//! in the next revision. The mirror writes the markers of all watches in one transaction, so that
//! they take at most two revisions, unless a watch starts at a revision that is still in the
//! future.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use coord_core::{
    error::{ErrorKind, Outcome},
    kv::{Delete, Event, EventKind, Put, Revision, Txn, Watch, WatchBatch, WatchFilter, Watcher},
};
use futures_util::FutureExt;
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};

use super::mask::both_texts;

/// How many revisions ahead a watch may start and still get a marker. Each round of markers raises
/// the revision, until the watch has started.
const MAX_REVISIONS_AHEAD: i64 = 8;

/// One watch, registered on both backends.
#[derive(Debug)]
pub(super) struct WatchPair {
    request: Watch,
    /// The store's revision at registration.
    registered: Revision,
    /// The revision whose deletions are not compared.
    lost_tombstones: Option<Revision>,
    left: Side,
    right: Side,
    /// Whether both sides have certainly delivered all history up to the registration.
    caught_up: bool,
}

/// The watch on one backend.
#[derive(Debug)]
struct Side {
    watch: Watcher,
    /// Deliveries that have not been compared yet.
    queue: VecDeque<Delivery>,
    /// The revision of the newest batch with events.
    delivered: Revision,
    /// The revision of the newest progress notification: no event up to it may follow.
    notified: Revision,
    /// Whether the watch has yielded an error or ended.
    failed: bool,
    /// Whether the watch has ended.
    ended: bool,
}

/// One item of a watch, with only the parts that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Delivery {
    Batch(WatchBatch),
    Failed(ErrorKind, Outcome, Option<Revision>),
    Ended,
    /// A violation of the contract, which is a mismatch even if both sides agree.
    Violation(String),
}

impl WatchPair {
    pub(super) fn new(
        request: Watch,
        registered: Revision,
        lost_tombstones: Option<Revision>,
        left: Watcher,
        right: Watcher,
    ) -> Self {
        let (left, right) = (Side::new(left), Side::new(right));
        let start = request.start_revision.unwrap_or_default();
        let caught_up = start <= Revision::ZERO || start > registered;
        Self { request, registered, lost_tombstones, left, right, caught_up }
    }

    /// Whether a side may still have to deliver history, which a compaction could remove.
    pub(super) fn may_be_behind(&self) -> bool {
        !self.caught_up
    }

    /// Whether a compaction can change the items that the watch has not delivered yet.
    ///
    /// A server reads a previous key-value when it sends the event, and omits a compacted one.
    pub(super) fn is_affected_by_compaction(&self) -> bool {
        self.may_be_behind() || self.request.prev_kv
    }

    /// Whether either side has ended, or yielded the error before its end.
    pub(super) fn has_ended(&self) -> bool {
        self.left.failed || self.right.failed
    }

    /// Whether a marker can reach the watch: it has not ended on both sides, its filters pass puts
    /// or deletions, and its start is at most [`MAX_REVISIONS_AHEAD`] ahead of `current`.
    pub(super) fn can_be_marked(&self, current: Revision) -> bool {
        let ended = self.left.ended && self.right.ended;
        let passes_none =
            self.has_filter(WatchFilter::NoPut) && self.has_filter(WatchFilter::NoDelete);
        let latest_start = current.0.saturating_add(MAX_REVISIONS_AHEAD);
        !ended
            && !passes_none
            && self.request.start_revision.is_none_or(|start| start.0 <= latest_start)
    }

    pub(super) fn request_progress(&mut self) {
        self.left.watch.request_progress();
        self.right.watch.request_progress();
    }

    /// Queues the items that both sides have ready.
    pub(super) fn read_ready(&mut self) {
        for side in [&mut self.left, &mut self.right] {
            // Unconstrained, because a task without cooperative budget receives no item even if one
            // is ready.
            while !side.ended
                && let Some(item) = unconstrained(side.watch.next()).now_or_never()
            {
                side.push_item(item, self.lost_tombstones);
            }
        }
    }

    /// Reads both sides up to the marker, which was put and deleted at these revisions.
    pub(super) async fn read_to(
        &mut self,
        put_at: Revision,
        deleted_at: Revision,
        deadline: Instant,
    ) -> Result<(), String> {
        let marker = if self.has_filter(WatchFilter::NoPut) { deleted_at } else { put_at };
        self.read_until(|side| side.delivered >= marker, deadline).await
    }

    /// Reads both sides until they have ended.
    pub(super) async fn read_to_end(&mut self, deadline: Instant) -> Result<(), String> {
        self.read_until(|_| false, deadline).await
    }

    /// Reads each side until it has ended or `is_complete` holds.
    async fn read_until(
        &mut self,
        is_complete: impl Fn(&Side) -> bool + Send,
        deadline: Instant,
    ) -> Result<(), String> {
        let mut late = Vec::new();
        for (name, side) in [("left", &mut self.left), ("right", &mut self.right)] {
            while !side.ended && !is_complete(side) {
                let Ok(item) = timeout_at(deadline, side.watch.next()).await else {
                    late.push(name);
                    break;
                };
                side.push_item(item, self.lost_tombstones);
            }
        }
        self.caught_up = true;
        if late.is_empty() {
            return Ok(());
        }
        // A mismatch in the delivered items explains more than the missing marker.
        self.compare()?;
        let late = late.join(" and ");
        Err(format!(
            "{:?}\n  {late}: neither the marker nor the end was delivered in time",
            self.request
        ))
    }

    /// Compares the queued items up to the length of the shorter queue. Returns the number of
    /// events in the compared items.
    pub(super) fn compare(&mut self) -> Result<u64, String> {
        let mut events = 0;
        let both = self.left.queue.len().min(self.right.queue.len());
        for (left, right) in self.left.queue.drain(..both).zip(self.right.queue.drain(..both)) {
            if left != right || matches!(left, Delivery::Violation(_)) {
                let at = self.registered;
                return Err(format!(
                    "{:?}, registered @{at}\n{}",
                    self.request,
                    both_texts(&left, &right)
                ));
            }
            if let Delivery::Batch(batch) = left {
                events += batch.events.len() as u64;
            }
        }
        Ok(events)
    }

    fn has_filter(&self, filter: WatchFilter) -> bool {
        self.request.filters.contains(&filter)
    }

    /// The key of the marker: the first key of the range.
    fn marker_key(&self) -> Bytes {
        let start = self.request.keys.start();
        if start.is_empty() { Bytes::from_static(b"\0") } else { start.clone() }
    }
}

impl Side {
    const fn new(watch: Watcher) -> Self {
        let (delivered, notified) = (Revision::ZERO, Revision::ZERO);
        Self { watch, queue: VecDeque::new(), delivered, notified, failed: false, ended: false }
    }

    /// Queues an item of the watch for comparison.
    fn push_item(
        &mut self,
        item: Option<coord_core::Result<WatchBatch>>,
        lost_tombstones: Option<Revision>,
    ) {
        match item {
            Some(Ok(batch)) => self.push_batch(batch, lost_tombstones),
            Some(Err(error)) => {
                self.failed = true;
                let oldest = match &error {
                    coord_core::Error::Compacted { compact_revision, .. } => *compact_revision,
                    _ => None,
                };
                self.queue.push_back(Delivery::Failed(error.kind(), error.outcome(), oldest));
            }
            None => {
                self.failed = true;
                self.ended = true;
                self.queue.push_back(Delivery::Ended);
            }
        }
    }

    /// Queues a batch for comparison. A progress notification is only checked against the events.
    fn push_batch(&mut self, mut batch: WatchBatch, lost_tombstones: Option<Revision>) {
        let revision = batch.revision;
        if batch.events.is_empty() {
            if revision < self.delivered {
                let late = format!("progress @{revision} after events @{}", self.delivered);
                self.queue.push_back(Delivery::Violation(late));
            }
            self.notified = self.notified.max(revision);
            return;
        }
        if revision <= self.notified {
            let early = format!("events @{revision} after progress @{}", self.notified);
            self.queue.push_back(Delivery::Violation(early));
        }
        self.delivered = self.delivered.max(revision);
        if lost_tombstones == Some(revision) {
            batch.events.retain(|event: &Event| event.kind != EventKind::Delete);
        }
        if !batch.events.is_empty() {
            self.queue.push_back(Delivery::Batch(batch));
        }
    }
}

/// The markers of several watches.
pub(super) struct Markers {
    /// The key of each marker.
    pub(super) keys: BTreeSet<Bytes>,
    /// The revision that the markers must reach, so that every watch has started.
    pub(super) min_revision: Revision,
    /// Whether the markers must also be deleted, because a watch filters out puts.
    pub(super) with_delete: bool,
}

impl Markers {
    /// The markers that these watches need.
    pub(super) fn new<'a>(pairs: impl Iterator<Item = &'a WatchPair>) -> Self {
        let (mut keys, mut min_revision, mut with_delete) = (BTreeSet::new(), Revision(1), false);
        for pair in pairs {
            keys.insert(pair.marker_key());
            min_revision = min_revision.max(pair.request.start_revision.unwrap_or_default());
            with_delete |= pair.has_filter(WatchFilter::NoPut);
        }
        Self { keys, min_revision, with_delete }
    }

    /// The transaction that puts the markers.
    pub(super) fn puts(&self) -> Txn {
        Txn::new().and_then(self.keys.iter().map(|key| Put::new(key, "marker")))
    }

    /// The transaction that deletes the markers.
    pub(super) fn deletes(&self) -> Txn {
        Txn::new().and_then(self.keys.iter().map(|key| Delete::new(key.clone())))
    }
}
