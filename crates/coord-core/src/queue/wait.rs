//! The wait loop: waits for the predecessor, and reads the position again when it may have changed.
//!
//! A contender whose predecessor is a contender of the same client attaches to it (`handoff.rs`),
//! and for the first quarter of a second watches nothing. Otherwise it watches the predecessor's
//! key *from now on*, and then reads its position if the store's revision shows that anything was
//! written since the last read. A watch that starts at or before the current revision would be as
//! right, but etcd serves it from a loop that runs every 100 ms.
//!
//! Success is reported only after a read that shows the own key, with its own create revision, and
//! no predecessor.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::contender::Contender;
use super::handoff::Handoff;
use super::position::{Position, QueueEntry};
use crate::error::{Error, PrimitiveError};
use crate::kv::{EventKind, Header, OpResponse, Range, RangeResponse, Txn, Watch, Watcher};
use crate::retry_read::{FIRST_PAUSE, retry_read};
use crate::telemetry::queue as events;

/// How long a waiter waits before it watches its own key, and the key of a predecessor of the same
/// client.
///
/// Where a lock changes hands a thousand times a second, two watches for each wait would be most of
/// the work, and the read before success sees the own key anyway. A waiter that waits longer than
/// this needs to learn at once that another client deleted either key.
const WATCH_AFTER: Duration = Duration::from_millis(250);

/// How long a waiter whose predecessor's key was deleted waits for the hand-off. Event and response
/// of one transaction arrive within a moment of each other, in either order.
const HANDOFF_WITHIN: Duration = Duration::from_millis(100);

/// Why a waiter woke up.
enum Woken {
    /// The predecessor was first, and its release read this contender's position.
    HandedOver(Handoff),
    /// The predecessor's key was deleted.
    PredecessorDeleted,
    /// It is time to watch both keys.
    WatchDue,
    /// A watch ended: history was compacted or replaced, or the store was unavailable.
    WatchEnded,
    /// Anything else: the position may have changed.
    Otherwise,
}

/// The watches of a waiter.
#[derive(Default)]
struct Watches {
    own: Option<Watcher>,
    predecessor: Option<(QueueEntry, Watcher)>,
}

impl Contender {
    /// Waits until this contender is first.
    pub(super) async fn wait(&mut self) -> Result<(), PrimitiveError> {
        let watch_from = Instant::now() + WATCH_AFTER;
        let mut watches = Watches::default();
        let mut is_warned = false;
        while !self.position.is_first() {
            let Some(predecessor) = self.position.predecessor().cloned() else {
                self.refresh().await?;
                continue;
            };
            let entry = self.ownership().entry();
            let mut handoff = self.session().client().handoffs().attach(&predecessor, entry);
            let is_due = Instant::now() >= watch_from;
            if (handoff.is_none() || is_due)
                && self.watch(&mut watches, &predecessor, is_due).await?
            {
                self.refresh().await?;
                continue;
            }
            if predecessor.is_foreign() && !std::mem::replace(&mut is_warned, true) {
                events::waits_for_foreign_key(&self.queue().name(), &predecessor.key);
            }
            match self.sleep(&mut watches, handoff.as_mut(), &predecessor, watch_from).await? {
                Woken::HandedOver((header, read)) => {
                    self.set_position(header, &read).await?;
                    continue;
                }
                Woken::WatchDue => continue,
                Woken::PredecessorDeleted => {
                    self.position.predecessors.remove(0);
                }
                Woken::WatchEnded => {
                    watches = Watches::default();
                    sleep(FIRST_PAUSE).await;
                }
                Woken::Otherwise => {}
            }
            self.refresh().await?;
        }
        Ok(())
    }

    /// Registers the watches that are missing. Returns whether anything was written since the
    /// position was read, so that an event may have been missed.
    async fn watch(
        &self,
        watches: &mut Watches,
        predecessor: &QueueEntry,
        own: bool,
    ) -> Result<bool, PrimitiveError> {
        let mut may_have_missed = false;
        if watches.predecessor.as_ref().is_none_or(|(entry, _)| entry != predecessor) {
            let watcher = self.ownership().watch(Watch::new(&predecessor.key)).await?;
            may_have_missed |= watcher.header().revision > self.header().revision;
            watches.predecessor = Some((predecessor.clone(), watcher));
        }
        if own && watches.own.is_none() {
            let watcher = self.ownership().watch(Watch::new(self.key())).await?;
            may_have_missed |= watcher.header().revision > self.header().revision;
            watches.own = Some(watcher);
        }
        Ok(may_have_missed)
    }

    /// Sleeps until the position may have changed.
    async fn sleep(
        &self,
        Watches { own, predecessor: watched }: &mut Watches,
        mut handoff: Option<&mut oneshot::Receiver<Handoff>>,
        predecessor: &QueueEntry,
        watch_from: Instant,
    ) -> Result<Woken, PrimitiveError> {
        let is_watch_due = own.is_none();
        let handed_over = async {
            match &mut handoff {
                Some(handoff) => handoff.await,
                None => std::future::pending().await,
            }
        };
        let own_event = async {
            match own {
                Some(watcher) => watcher.next().await,
                None => std::future::pending().await,
            }
        };
        let deleted = async {
            match watched {
                Some((entry, watcher)) if entry == predecessor => deletion(entry, watcher).await,
                _ => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            biased;
            handed_over = handed_over => {
                return Ok(handed_over.map_or(Woken::Otherwise, Woken::HandedOver));
            }
            event = own_event => event.map(|event| event.map(|_| Woken::Otherwise)),
            deleted = deleted => deleted.map(|deleted| deleted.map(|()| Woken::PredecessorDeleted)),
            () = sleep_until(watch_from), if is_watch_due => Some(Ok(Woken::WatchDue)),
            () = sleep(self.session().ttl()) => Some(Ok(Woken::Otherwise)),
        };
        match woken {
            None => Ok(Woken::WatchEnded),
            Some(Err(error)) if error.is_retryable() || is_history_gone(&error) => {
                Ok(Woken::WatchEnded)
            }
            Some(Err(error)) => Err(error.into()),
            Some(Ok(Woken::PredecessorDeleted)) => {
                let Some(handoff) = handoff else { return Ok(Woken::PredecessorDeleted) };
                let handed_over = timeout(HANDOFF_WITHIN, handoff).await;
                Ok(handed_over.map_or(Woken::PredecessorDeleted, |handed_over| {
                    handed_over.map_or(Woken::PredecessorDeleted, Woken::HandedOver)
                }))
            }
            Some(Ok(woken)) => Ok(woken),
        }
    }

    /// Reads the position again: the own key and the predecessors that are known, and if that is
    /// not enough, the queue.
    ///
    /// # Errors
    /// `Lost` if this contender was evicted; the error of the backend.
    pub(super) async fn refresh(&mut self) -> Result<(), PrimitiveError> {
        if !self.position.is_unknown() {
            let own = self.ownership().entry();
            let mut entries = vec![own.clone()];
            entries.extend_from_slice(&self.position.predecessors);
            let (header, found) = self.read_entries(&entries).await?;
            if !found.contains(&own) {
                return Err(self.ownership().why_evicted().await.into());
            }
            self.position.predecessors.retain(|entry| found.contains(entry));
            self.set_header(header);
        }
        if self.position.is_unknown() {
            self.read_queue().await?;
        }
        Ok(())
    }

    /// What exists now under the keys of these entries, which may be other lives of the keys.
    async fn read_entries(
        &self,
        entries: &[QueueEntry],
    ) -> Result<(Header, Vec<QueueEntry>), PrimitiveError> {
        let read = |entry: &QueueEntry| Range::new(&entry.key).keys_only();
        let (header, reads) = if let [entry] = entries {
            let read = self.ownership().read(read(entry)).await?;
            (read.header, vec![OpResponse::Range(read)])
        } else {
            let reads = Txn::new().and_then(entries.iter().map(read));
            let backend = self.session().backend();
            let response = retry_read(|| backend.txn(reads.clone())).await?;
            (response.header, response.responses)
        };
        let kvs = reads.iter().filter_map(OpResponse::as_range).flat_map(|read| &read.kvs);
        Ok((header, kvs.map(QueueEntry::of).collect()))
    }

    /// Reads the queue up to this contender: the nearest predecessors, and all if keys of child
    /// names hide them.
    async fn read_queue(&mut self) -> Result<(), PrimitiveError> {
        let created = self.fencing_token().0;
        let narrow = self.ownership().read(self.queue().keys.narrow(created)).await?;
        self.set_position(narrow.header, &narrow).await
    }

    /// Takes the position from a read of the queue. If keys of child names hide the predecessors,
    /// reads all keys.
    async fn set_position(
        &mut self,
        header: Header,
        read: &RangeResponse,
    ) -> Result<(), PrimitiveError> {
        let own = self.ownership().entry();
        let mut position = Position::read(&self.queue().keys, &own, read);
        self.set_header(header);
        if position.as_ref().is_some_and(Position::is_unknown) {
            let wide = self.ownership().read(self.queue().keys.wide(own.created)).await?;
            position = Position::read(&self.queue().keys, &own, &wide);
            self.set_header(wide.header);
        }
        match position {
            Some(position) => self.position = position,
            None => return Err(self.ownership().why_evicted().await.into()),
        }
        Ok(())
    }
}

/// Waits for the event that deletes the entry; `None` if the watch ends.
async fn deletion(entry: &QueueEntry, watcher: &mut Watcher) -> Option<Result<(), Error>> {
    loop {
        let batch = match watcher.next().await? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error)),
        };
        // An earlier life of the key ends in an event too.
        let is_deletion = batch.events.iter().any(|event| event.kind == EventKind::Delete);
        if is_deletion && batch.revision > entry.created {
            return Some(Ok(()));
        }
    }
}

/// Whether a watch ended because its history is compacted or was replaced: the position is read
/// again then.
const fn is_history_gone(error: &Error) -> bool {
    matches!(error, Error::Compacted { .. } | Error::HistoryReplaced { .. })
}
