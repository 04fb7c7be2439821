//! The stream of changes of a prefix cache.
//!
//! The task sends each update once, to a channel that all subscribers of the cache share. An update
//! has the snapshot after it, so a subscriber always has the snapshot that its changes have led to.
//! If it falls behind by more updates than the channel keeps, it continues with the oldest one that
//! is kept, and receives the difference between the two snapshots.
//!
//! ```text
//! channel of 2    subscriber A          subscriber B, which reads late
//! x: - -> 1 @5    x: - -> 1 @5
//! x: 1 -> 2 @6    x: 1 -> 2 @6
//! y: - -> 1 @7    y: - -> 1 @7          (5 is not kept any more)
//!                                       x: - -> 2 @6, after a gap
//!                                       y: - -> 1 @7
//! ```

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::snapshot::{KeyChange, PrefixSnapshot, differences};
use super::{PrefixCache, PrefixCacheError};
use crate::follow::{Gap, GapCause};
use crate::kv::Revision;

/// An update of a cache, for its subscribers.
pub(super) struct Update {
    pub(super) changes: Arc<[KeyChange]>,
    pub(super) gap: Option<Gap>,
    /// The keys after the changes.
    pub(super) snapshot: PrefixSnapshot,
    /// The number of the history that the snapshot belongs to.
    pub(super) history: u64,
}

/// Changes of a prefix that lead from one revision to another: the changes of one transaction,
/// unless there is a [gap](Self::gap). Clones share the changes.
#[derive(Clone, Debug)]
pub struct PrefixUpdate {
    revision: Revision,
    changes: Arc<[KeyChange]>,
    gap: Option<Gap>,
}

impl PrefixUpdate {
    /// Returns the revision after the changes.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the changes, in key order, one for each key.
    #[must_use]
    pub fn changes(&self) -> &[KeyChange] {
        &self.changes
    }

    /// Returns the gap, if the changes are the difference between two states that are several
    /// revisions apart: because the events between them are compacted, because the store delivered
    /// a change out of order, because the history of the store was replaced, or because the stream
    /// was read too late. A key that was created and deleted in a gap is not among the changes.
    #[must_use]
    pub const fn gap(&self) -> Option<Gap> {
        self.gap
    }
}

/// The stream of the changes of a [`PrefixCache`], from the call of [`PrefixCache::changes`] on.
///
/// Each item has the changes of one revision. They are in order, none is missing and none is
/// repeated: applied to the [`snapshot`](Self::snapshot) of the stream they always give the next
/// one.
///
/// The cache keeps the last 256 updates for its streams. A stream that is read later than that
/// continues with the difference between its snapshot and the oldest update that is kept, and with
/// a [gap](PrefixUpdate::gap). So a slow reader does not block others, and accumulates no more
/// changes than these.
///
/// The stream keeps the cache open. It ends with the error with which the cache stops.
///
/// ```
/// use coord_core::{Client, recipes::PrefixCache};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let mut changes = PrefixCache::open(&client, "jobs/").await?.changes();
/// client.put("jobs/1", "sweep").await?;
/// client.delete("jobs/1").await?;
///
/// let created = changes.next().await.unwrap()?;
/// assert!(created.changes()[0].before.is_none());
/// let deleted = changes.next().await.unwrap()?;
/// assert_eq!(deleted.changes()[0].before.as_ref().unwrap().value, "sweep");
/// assert!(deleted.changes()[0].after.is_none() && changes.snapshot().is_empty());
/// # Ok(())
/// # }
/// ```
#[must_use = "a stream does nothing unless it is polled"]
pub struct PrefixChanges {
    stream: BoxStream<'static, Result<(PrefixUpdate, Arc<Update>), PrefixCacheError>>,
    snapshot: PrefixSnapshot,
}

impl PrefixChanges {
    pub(super) fn new(cache: &PrefixCache) -> Self {
        let current = cache.0.shared.lock();
        let snapshot = current.snapshot.clone();
        let subscription = Subscription {
            cache: cache.clone(),
            updates: current.subscribe(),
            snapshot: snapshot.clone(),
            history: current.history,
            has_ended: false,
        };
        // Fused, because a stream may be polled again after its end.
        let stream = stream::unfold(subscription, Subscription::next).fuse().boxed();
        Self { stream, snapshot }
    }

    /// Returns the keys after the last item; before the first item, the keys from which the stream
    /// has started.
    #[must_use]
    pub const fn snapshot(&self) -> &PrefixSnapshot {
        &self.snapshot
    }

    /// Waits for the next changes; `None` after the end of the stream, on every further call.
    ///
    /// # Errors
    /// The error with which the cache has stopped. The stream ends with it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns the changes.
    pub async fn next(&mut self) -> Option<Result<PrefixUpdate, PrefixCacheError>> {
        futures_util::StreamExt::next(self).await
    }
}

impl Stream for PrefixChanges {
    type Item = Result<PrefixUpdate, PrefixCacheError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(next) = ready!(self.stream.as_mut().poll_next(cx)) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(next.map(|(item, update)| {
            self.snapshot = update.snapshot.clone();
            item
        })))
    }
}

impl fmt::Debug for PrefixChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefixChanges").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// One subscriber, between two items.
struct Subscription {
    cache: PrefixCache,
    updates: Option<Receiver<Arc<Update>>>,
    /// The keys after the last item.
    snapshot: PrefixSnapshot,
    history: u64,
    has_ended: bool,
}

impl Subscription {
    async fn next(
        mut self,
    ) -> Option<(Result<(PrefixUpdate, Arc<Update>), PrefixCacheError>, Self)> {
        let mut has_lagged = false;
        while !self.has_ended {
            let received = match &mut self.updates {
                Some(updates) => updates.recv().await,
                None => Err(RecvError::Closed),
            };
            match received {
                Ok(update) => return Some((Ok(self.item(update, has_lagged)), self)),
                Err(RecvError::Lagged(_)) => has_lagged = true,
                Err(RecvError::Closed) => {
                    self.has_ended = true;
                    let error = self.cache.error()?;
                    return Some((Err(error), self));
                }
            }
        }
        None
    }

    /// The item that leads from the snapshot of the subscriber to that of an update.
    fn item(&mut self, update: Arc<Update>, has_lagged: bool) -> (PrefixUpdate, Arc<Update>) {
        let (changes, gap) = if has_lagged {
            let cause = match self.history == update.history {
                true => GapCause::Lagged,
                false => GapCause::HistoryReplaced,
            };
            let (after, until) = (self.snapshot.revision, update.snapshot.revision);
            let changes = differences(&self.snapshot.map, &update.snapshot.map);
            (changes.into(), Some(Gap { after, until, cause }))
        } else {
            (Arc::clone(&update.changes), update.gap)
        };
        self.snapshot = update.snapshot.clone();
        self.history = update.history;
        (PrefixUpdate { revision: update.snapshot.revision, changes, gap }, update)
    }
}
