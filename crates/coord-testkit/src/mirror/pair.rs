//! A watch on both sides, and the markers that end it.
//!
//! A marker has to lie in the watch's own range, and pass its filters: it is a put of the first key
//! of the range, and where some watch leaves puts out, a deletion of it in the next revision. The
//! markers of all watches are written together, so that a settling costs two revisions at most,
//! but for watches that still wait for a revision of the future.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use coord_core::{
    error::{ErrorKind, Outcome},
    kv::{Delete, Event, EventKind, Put, Revision, Txn, Watch, WatchBatch, WatchFilter, Watcher},
};
use futures_util::FutureExt;
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};

use super::mask::told;

/// How far in the future a watch may start and still be brought to its start by markers.
const NEAR: i64 = 8;

/// One watch, registered on both backends.
#[derive(Debug)]
pub(super) struct Pair {
    request: Watch,
    /// The store's revision at registration.
    registered: Revision,
    /// A revision at which deletions do not count.
    lost_tombstones: Option<Revision>,
    left: Side,
    right: Side,
    /// Whether everything that was there at registration is known to have been delivered.
    caught_up: bool,
}

/// One side of a pair.
#[derive(Debug)]
struct Side {
    watch: Watcher,
    /// What was delivered and has not been compared yet.
    seen: VecDeque<Seen>,
    /// The revision of the newest batch with events.
    delivered: Revision,
    /// The revision of the newest bookmark: nothing up to it may come any more.
    bookmarked: Revision,
    /// Whether an error came, after which there is only the end.
    failed: bool,
    ended: bool,
}

/// What a watch delivers, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Batch(WatchBatch),
    Failed(ErrorKind, Outcome, Option<Revision>),
    Ended,
    /// Something that no store may do.
    Wrong(String),
}

impl Pair {
    pub(super) fn new(
        request: Watch,
        registered: Revision,
        lost_tombstones: Option<Revision>,
        left: Watcher,
        right: Watcher,
    ) -> Self {
        let (left, right) = (Side::new(left), Side::new(right));
        let start = request.start_revision;
        let caught_up = start <= Revision::ZERO || start > registered;
        Self { request, registered, lost_tombstones, left, right, caught_up }
    }

    /// Whether something may still be on its way that compaction could swallow.
    pub(super) fn may_lag(&self) -> bool {
        !self.caught_up
    }

    /// Whether compaction could change what it is yet to tell: what a key was before is looked up
    /// when an event is sent, and left out if it is gone by then.
    pub(super) fn minds_compaction(&self) -> bool {
        self.may_lag() || self.request.prev_kv
    }

    /// Whether either side has come to its end, or to the error before it.
    pub(super) fn has_ended(&self) -> bool {
        self.left.failed || self.right.failed
    }

    /// Whether a marker reaches the watch: it has not ended on both sides, some kind of event
    /// passes its filters, and it does not wait for the far future.
    pub(super) fn can_be_marked(&self, current: Revision) -> bool {
        let over = self.left.ended && self.right.ended;
        let deaf = self.leaves_out(WatchFilter::NoPut) && self.leaves_out(WatchFilter::NoDelete);
        !over && !deaf && self.request.start_revision.0 <= current.0.saturating_add(NEAR)
    }

    pub(super) fn request_progress(&mut self) {
        self.left.watch.request_progress();
        self.right.watch.request_progress();
    }

    /// Takes what both sides have ready.
    pub(super) fn read_ready(&mut self) {
        for side in [&mut self.left, &mut self.right] {
            // Without a budget, for a task that is out of it sees nothing though there is more.
            while !side.ended
                && let Some(item) = unconstrained(side.watch.next()).now_or_never()
            {
                side.take(item, self.lost_tombstones);
            }
        }
    }

    /// Reads both sides up to the markers, which were put and deleted at these revisions.
    pub(super) async fn read_to(
        &mut self,
        put_at: Revision,
        deleted_at: Revision,
        deadline: Instant,
    ) -> Result<(), String> {
        let marker = if self.leaves_out(WatchFilter::NoPut) { deleted_at } else { put_at };
        self.read_until(|side| side.delivered >= marker, deadline).await
    }

    /// Reads both sides until they have ended.
    pub(super) async fn read_to_end(&mut self, deadline: Instant) -> Result<(), String> {
        self.read_until(|_| false, deadline).await
    }

    /// Reads each side until it has ended, or is where it should be.
    async fn read_until(
        &mut self,
        arrived: impl Fn(&Side) -> bool + Send,
        deadline: Instant,
    ) -> Result<(), String> {
        let mut late = Vec::new();
        for (name, side) in [("left", &mut self.left), ("right", &mut self.right)] {
            while !side.ended && !arrived(side) {
                let Ok(item) = timeout_at(deadline, side.watch.next()).await else {
                    late.push(name);
                    break;
                };
                side.take(item, self.lost_tombstones);
            }
        }
        self.caught_up = true;
        if late.is_empty() {
            return Ok(());
        }
        // What did come may tell more than that the marker did not.
        self.compare()?;
        let late = late.join(" and ");
        Err(format!("{:?}\n  {late}: neither a marker nor an end in time", self.request))
    }

    /// Compares what both sides have delivered, as far as both have; tells how many events those
    /// were.
    pub(super) fn compare(&mut self) -> Result<u64, String> {
        let mut events = 0;
        let both = self.left.seen.len().min(self.right.seen.len());
        for (left, right) in self.left.seen.drain(..both).zip(self.right.seen.drain(..both)) {
            if left != right || matches!(left, Seen::Wrong(_)) {
                let at = self.registered;
                return Err(format!("{:?}, of @{at}\n{}", self.request, told(&left, &right)));
            }
            if let Seen::Batch(batch) = left {
                events += batch.events.len() as u64;
            }
        }
        Ok(events)
    }

    fn leaves_out(&self, filter: WatchFilter) -> bool {
        self.request.filters.contains(&filter)
    }

    /// The first key that is watched.
    fn key(&self) -> Bytes {
        let start = self.request.keys.start();
        if start.is_empty() { Bytes::from_static(b"\0") } else { start.clone() }
    }
}

impl Side {
    const fn new(watch: Watcher) -> Self {
        let (delivered, bookmarked) = (Revision::ZERO, Revision::ZERO);
        Self { watch, seen: VecDeque::new(), delivered, bookmarked, failed: false, ended: false }
    }

    fn take(
        &mut self,
        item: Option<coord_core::Result<WatchBatch>>,
        lost_tombstones: Option<Revision>,
    ) {
        match item {
            Some(Ok(batch)) => self.take_batch(batch, lost_tombstones),
            Some(Err(error)) => {
                self.failed = true;
                let oldest = match &error {
                    coord_core::Error::Compacted { compact_revision, .. } => *compact_revision,
                    _ => None,
                };
                self.seen.push_back(Seen::Failed(error.kind(), error.outcome(), oldest));
            }
            None => {
                self.failed = true;
                self.ended = true;
                self.seen.push_back(Seen::Ended);
            }
        }
    }

    fn take_batch(&mut self, mut batch: WatchBatch, lost_tombstones: Option<Revision>) {
        let revision = batch.revision;
        if batch.events.is_empty() {
            if revision < self.delivered {
                let late = format!("a bookmark @{revision} after events @{}", self.delivered);
                self.seen.push_back(Seen::Wrong(late));
            }
            self.bookmarked = self.bookmarked.max(revision);
            return;
        }
        if revision <= self.bookmarked {
            let early = format!("events @{revision} after a bookmark @{}", self.bookmarked);
            self.seen.push_back(Seen::Wrong(early));
        }
        self.delivered = self.delivered.max(revision);
        if lost_tombstones == Some(revision) {
            batch.events.retain(|event: &Event| event.kind != EventKind::Delete);
        }
        if !batch.events.is_empty() {
            self.seen.push_back(Seen::Batch(batch));
        }
    }
}

/// What it takes to mark these watches: the first key of each, the least revision that the
/// markers must have for all of them to be on, and whether they must be deleted too.
pub(super) fn marks<'a>(
    pairs: impl Iterator<Item = &'a Pair>,
) -> (BTreeSet<Bytes>, Revision, bool) {
    let (mut keys, mut least, mut with_delete) = (BTreeSet::new(), Revision(1), false);
    for pair in pairs {
        keys.insert(pair.key());
        least = least.max(pair.request.start_revision);
        with_delete |= pair.leaves_out(WatchFilter::NoPut);
    }
    (keys, least, with_delete)
}

pub(super) fn marker_puts(keys: &BTreeSet<Bytes>) -> Txn {
    Txn::new().and_then(keys.iter().map(|key| Put::new(key, "marker")))
}

pub(super) fn marker_deletes(keys: &BTreeSet<Bytes>) -> Txn {
    Txn::new().and_then(keys.iter().map(|key| Delete::new(key.clone())))
}
