//! The wait loop: waits for the predecessor, and reads the queue when the position may have
//! changed.
//!
//! A contender whose predecessor is a contender of the same client attaches to it
//! (`shared/handoff.rs`), and for the first quarter of a second watches nothing. Otherwise it watches the predecessor's
//! key *from now on*, and then reads the queue if the store's revision shows that anything was
//! written since the last read. A watch that starts at or before the current revision would be as
//! right, but etcd serves it from a loop that runs every 100 ms.
//!
//! Success is reported only after a read that shows the own key, with its own create revision, and
//! no predecessor.

use std::future::pending;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::contender::Contender;
use super::position::{Position, is_foreign};
use crate::error::{Error, PrimitiveError};
use crate::key_watch::{range_with_retry, watch_deletions};
use crate::kv::{EventKind, Header, RangeResponse, Watch, WatchBatch, Watcher};
use crate::retry_read::RETRY_PAUSE_MIN;
use crate::shared::{Handoff, QueueEntry};
use crate::telemetry::queue as events;

/// How long a waiter waits before it watches its own key, and the key of a predecessor of the same
/// client.
///
/// Where a lock changes hands a thousand times a second, two watches for each wait would be most of
/// the work, and the read before success sees the own key anyway. A waiter that waits longer than
/// this needs to learn at once that another client deleted either key.
pub(super) const WATCH_AFTER: Duration = Duration::from_millis(250);

/// How long a waiter whose predecessor's key was deleted waits for the hand-off. Event and response
/// of one transaction arrive within a moment of each other, in either order.
const HANDOFF_WITHIN: Duration = Duration::from_millis(100);

/// Why a waiter woke up.
enum Woken {
    /// The predecessor was first, and its release read this contender's position.
    HandedOver(Handoff),
    /// It is time to watch the predecessor's key.
    WatchDue,
    /// The watch ended: history was compacted or replaced, or the store was unavailable.
    WatchEnded,
    /// The position may have changed.
    Otherwise,
}

impl Contender {
    /// Waits until this contender is first.
    pub(super) async fn wait(&mut self) -> Result<(), PrimitiveError> {
        let watch_from = Instant::now() + WATCH_AFTER;
        let mut watched: Option<(QueueEntry, Watcher)> = None;
        let mut is_warned = false;
        loop {
            let (predecessor, lease) = match &self.position {
                Position::First => return Ok(()),
                Position::Behind { predecessor, lease } => (predecessor.clone(), *lease),
                Position::Unknown => {
                    self.refresh().await?;
                    continue;
                }
            };
            let handoffs = self.session().client().handoffs();
            let mut handoff = handoffs.attach(&predecessor, self.ownership().entry());
            let watch_due = handoff.is_some().then_some(watch_from);
            watched = watched.filter(|(entry, _)| *entry == predecessor);
            if watched.is_none() && watch_due.is_none_or(|due| due <= Instant::now()) {
                let watch = Watch::new(&predecessor.key);
                let watcher = watch_deletions(self.session().backend(), watch).await?;
                let may_have_missed = watcher.header().revision > self.header().revision;
                watched = Some((predecessor, watcher));
                if may_have_missed {
                    self.refresh().await?;
                }
                continue;
            }
            if !is_warned && is_foreign(&predecessor.key, lease) {
                is_warned = true;
                events::waits_for_foreign_key(&self.name(), &predecessor.key);
            }
            match self.sleep(watched.as_mut(), handoff.as_mut(), watch_due).await? {
                Woken::HandedOver((header, read)) => self.set_position(header, &read).await?,
                Woken::WatchDue => {}
                Woken::WatchEnded => {
                    watched = None;
                    sleep(RETRY_PAUSE_MIN).await;
                    self.refresh().await?;
                }
                Woken::Otherwise => self.refresh().await?,
            }
        }
    }

    /// Sleeps until the position may have changed.
    async fn sleep(
        &self,
        watched: Option<&mut (QueueEntry, Watcher)>,
        handoff: Option<&mut oneshot::Receiver<Handoff>>,
        watch_due: Option<Instant>,
    ) -> Result<Woken, PrimitiveError> {
        let watch_due = watch_due.filter(|_| watched.is_none());
        let grace = if handoff.is_some() { HANDOFF_WITHIN } else { Duration::ZERO };
        let handed_over = async {
            match handoff {
                Some(handoff) => handoff.await,
                None => pending().await,
            }
        };
        let deleted = async {
            let Some((entry, watcher)) = watched else { return pending().await };
            let deleted = deletion(entry, watcher).await;
            sleep(grace).await;
            deleted
        };
        let deleted = tokio::select! {
            biased;
            handed_over = handed_over => {
                return Ok(handed_over.map_or(Woken::Otherwise, Woken::HandedOver));
            }
            deleted = deleted => deleted,
            () = sleep_until(watch_due.unwrap_or_else(Instant::now)), if watch_due.is_some() => {
                return Ok(Woken::WatchDue);
            }
            () = sleep(self.session().ttl()) => return Ok(Woken::Otherwise),
        };
        match deleted {
            Some(Ok(_)) => Ok(Woken::Otherwise),
            None | Some(Err(Error::Compacted { .. } | Error::HistoryReplaced { .. })) => {
                Ok(Woken::WatchEnded)
            }
            Some(Err(error)) if error.is_retryable() => Ok(Woken::WatchEnded),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Reads the position.
    ///
    /// # Errors
    /// `Lost` if this contender was evicted; otherwise the error of the backend.
    pub(super) async fn refresh(&mut self) -> Result<(), PrimitiveError> {
        let narrow = self.queue.keys.narrow(self.ownership().created());
        let read = range_with_retry(self.session().backend(), narrow).await?;
        self.set_position(read.header, &read).await
    }

    /// Takes the position from a read of the queue. If keys of child names hide the predecessors,
    /// reads all keys.
    async fn set_position(
        &mut self,
        header: Header,
        read: &RangeResponse,
    ) -> Result<(), PrimitiveError> {
        let (own, keys) = (self.ownership().entry(), &self.queue.keys);
        let (mut header, mut position) = (header, Position::read(keys, &own, read));
        if position == Some(Position::Unknown) {
            let wide = keys.wide(own.created);
            let all = range_with_retry(self.session().backend(), wide).await?;
            (header, position) = (all.header, Position::read(keys, &own, &all));
        }
        let Some(position) = position else {
            return Err(self.ownership().why_evicted().await.into());
        };
        self.note_position(header, position);
        Ok(())
    }
}

/// Waits for the event that deletes the entry; `None` if the watch ends.
async fn deletion(entry: &QueueEntry, watcher: &mut Watcher) -> Option<Result<WatchBatch, Error>> {
    loop {
        match watcher.next().await? {
            // An earlier life of the key ends in an event too.
            Ok(batch) if batch.revision <= entry.created => {}
            Ok(batch) if batch.events.iter().all(|event| event.kind == EventKind::Put) => {}
            deleted => return Some(deleted),
        }
    }
}
