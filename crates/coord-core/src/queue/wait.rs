//! The wait loop of a contender: waits for its predecessor, and refreshes the position when it may
//! have changed.
//!
//! A contender watches the key of its predecessor *from now on*. Then it refreshes its position, if
//! the store's revision shows that a key was written since the last read. A watch that starts at or
//! before the current revision would be correct too, but etcd serves it from a loop that runs every
//! 100 ms.
//!
//! If the predecessor is a contender of the same client, the waiter attaches to it for the hand-off
//! (`shared/handoff.rs`), and watches the predecessor's key only after a quarter of a second.
//!
//! The contender reports success only after a read that shows its own key, with its own create
//! revision, and no predecessor.

use std::future::pending;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::WATCH_AFTER;
use super::contender::Contender;
use super::foreign::is_foreign;
use super::position::Position;
use crate::error::{PrimitiveError, Result};
use crate::key_watch::{next_batch, range_with_retry, watch_deletions};
use crate::kv::{EventKind, Header, RangeResponse, Watch, Watcher};
use crate::retry_request::RETRY_PAUSE_MIN;
use crate::shared::{Handoff, QueueEntry};
use crate::telemetry::queue as events;

/// How long a waiter waits for the hand-off after the event that its predecessor's key was deleted.
/// The event and the response of one transaction are received shortly after each other, in either
/// order.
const HANDOFF_TIMEOUT: Duration = Duration::from_millis(100);

/// Why a waiter wakes up.
enum Wakeup {
    /// The predecessor was first, and its release has read this contender's position.
    HandedOver(Handoff),
    /// The predecessor's key must be watched from now on.
    WatchDue,
    /// The watch ended: history was compacted or replaced, or the store was unavailable.
    WatchEnded,
    /// The position may have changed: the predecessor has ended, or the wait has lasted for a TTL.
    RefreshDue,
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
            match self.next_wakeup(watched.as_mut(), handoff.as_mut(), watch_due).await? {
                Wakeup::HandedOver((header, read)) => self.set_position(header, &read).await?,
                Wakeup::WatchDue => {}
                Wakeup::WatchEnded => {
                    watched = None;
                    sleep(RETRY_PAUSE_MIN).await;
                    self.refresh().await?;
                }
                Wakeup::RefreshDue => self.refresh().await?,
            }
        }
    }

    /// Waits until the position may have changed.
    async fn next_wakeup(
        &self,
        watched: Option<&mut (QueueEntry, Watcher)>,
        handoff: Option<&mut oneshot::Receiver<Handoff>>,
        watch_due: Option<Instant>,
    ) -> Result<Wakeup, PrimitiveError> {
        let watch_due = watch_due.filter(|_| watched.is_none());
        let expects_handoff = handoff.is_some();
        let handed_over = async {
            match handoff {
                Some(handoff) => handoff.await,
                None => pending().await,
            }
        };
        let deleted = async {
            let Some((entry, watcher)) = watched else { return pending().await };
            let deleted = next_deletion(entry, watcher).await;
            // Even a sleep of zero would last until the next tick of the timer, 1 ms.
            if expects_handoff {
                sleep(HANDOFF_TIMEOUT).await;
            }
            deleted
        };
        tokio::select! {
            biased;
            handed_over = handed_over => {
                Ok(handed_over.map_or(Wakeup::RefreshDue, Wakeup::HandedOver))
            }
            deleted = deleted => Ok(deleted?),
            () = sleep_until(watch_due.unwrap_or_else(Instant::now)), if watch_due.is_some() => {
                Ok(Wakeup::WatchDue)
            }
            () = sleep(self.session().ttl()) => Ok(Wakeup::RefreshDue),
        }
    }

    /// Refreshes the position: reads the queue.
    ///
    /// # Errors
    /// `Lost` if this contender was evicted; otherwise the error of the backend.
    pub(super) async fn refresh(&mut self) -> Result<(), PrimitiveError> {
        let narrow = self.queue.keys.read_narrow(self.ownership().create_revision());
        let read = range_with_retry(self.session().backend(), narrow).await?;
        self.set_position(read.header, &read).await
    }

    /// Sets the position from a read of the queue. If keys of child names hide the predecessor, it
    /// reads all keys first.
    async fn set_position(
        &mut self,
        header: Header,
        read: &RangeResponse,
    ) -> Result<(), PrimitiveError> {
        let (own, keys) = (self.ownership().entry(), &self.queue.keys);
        let (mut header, mut position) = (header, Position::read(keys, &own, read));
        if position == Some(Position::Unknown) {
            let wide = keys.read_wide(own.created);
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

/// Waits for the event that the entry was deleted, or for the end of the watch.
async fn next_deletion(entry: &QueueEntry, watcher: &mut Watcher) -> Result<Wakeup> {
    while let Some(batch) = next_batch(watcher).await? {
        // Not the event of an earlier key of the same name.
        if batch.revision > entry.created
            && batch.events.iter().any(|event| event.kind != EventKind::Put)
        {
            return Ok(Wakeup::RefreshDue);
        }
    }
    Ok(Wakeup::WatchEnded)
}
