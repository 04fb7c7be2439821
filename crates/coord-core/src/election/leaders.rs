//! The stream of leaders of an election, in the order of revisions.
//!
//! A [`Leaders`] stream reads all contenders once, and then follows them with one watch of the
//! whole queue. The contender with the smallest create revision leads. So the stream yields every
//! leader and every value, in order, none twice, and a change of leadership costs no request. It
//! does not open a watch for each leader, because etcd serves a watch that starts in the past from
//! a loop that ticks every 100 ms: such an observer fell behind at ten changes a second.
//!
//! ```text
//! revision   event                     contenders     item
//!        5   A campaigns               A@5            Some(a)
//!        6   B campaigns               A@5 B@6
//!        7   A proclaims a2            A@5 B@6        Some(a2)
//!        8   A's lease ends            B@6            Some(b)
//!        9   B resigns                                None
//!       10   C campaigns               C@10           Some(c)
//! ```
//!
//! If events that the watch would deliver are compacted, or if the history of the store was
//! replaced, the stream reads the contenders again. Unless the leader and its value are unchanged,
//! it reports a [`Gap`] before the next item.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::contenders::Contenders;
use super::{Leader, Observer};
use crate::error::{Error, Result};
use crate::kv::{Header, Revision, WatchBatch, Watcher};
use crate::retry_read::RETRY_PAUSE_MIN;

/// How often the contenders are read again, because a watch does not detect that it has fallen
/// silent, and a watch of etcd does not detect that the history of the store was replaced.
const VERIFY_PERIOD: Duration = Duration::from_secs(55);

/// A watch that delivers nothing for this time after a request for a progress notification has
/// fallen silent.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// An interval of revisions in which a [`Leaders`] stream may have missed changes, and the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Up to this revision every change was yielded.
    pub after: Revision,
    /// From this revision on every change is yielded again.
    pub until: Revision,
    /// The cause.
    pub cause: GapCause,
}

/// The reason why a [`Leaders`] stream may have missed changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapCause {
    /// Events that the stream had not processed yet are compacted.
    Compacted,
    /// The history of the store was replaced: an older backup was restored, or an empty store took
    /// its place. The two revisions of the gap belong to two histories.
    HistoryReplaced,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after, until, cause } = self;
        match cause {
            GapCause::Compacted => {
                write!(f, "changes between revisions {after} and {until} may be missing: compacted")
            }
            GapCause::HistoryReplaced => write!(
                f,
                "the history of the store was replaced: revision {after} of the old one, \
                 {until} of the new one"
            ),
        }
    }
}

/// A stream of the leaders of an election, from now on. While the store is unavailable it waits. It
/// ends with an error, or when it is dropped.
///
/// The first item is the current leader. An item is `None` if there is no leader. A value that is
/// proclaimed again is yielded again.
///
/// The stream sends a request only while it is polled. A consumer that polls late receives all
/// changes that are not compacted; [`gap`](Self::gap) returns where changes may be missing. The
/// stream reads the contenders again every 55 s. So a watch that has fallen silent delays the next
/// item by a minute at most, and the stream detects within a minute that the history of the store
/// was replaced. Until then it may yield a leader of the old history.
///
/// # Errors
/// The error of the backend, if it is not retryable. The stream ends with it.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Leaders {
    name: Bytes,
    stream: BoxStream<'static, Result<Item>>,
    gap: Option<Gap>,
}

/// An item of the stream, and the gap before it.
struct Item {
    leader: Option<Leader>,
    gap: Option<Gap>,
}

impl Leaders {
    pub(super) fn of(observer: Observer) -> Self {
        let name = observer.keys.name();
        let state = StreamState {
            observer,
            contenders: Contenders::default(),
            header: Header::default(),
            last_item: None,
            gap: None,
            verify_at: None,
            step: Step::Read(None),
        };
        // Fused, because a stream may be polled again after its end.
        Self { name, stream: stream::unfold(state, StreamState::next).fuse().boxed(), gap: None }
    }

    /// Returns the gap before the last item; `None` if no change is missing.
    ///
    /// If events that the stream had not processed yet are compacted, or if the history of the
    /// store was replaced, the stream continues with the newest state of the store. It reports a
    /// gap, unless the leader and its value are unchanged. If there was no leader before the gap
    /// and none after it, the next leader has the gap.
    #[must_use]
    pub const fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Waits for the next item; `None` after an error, on every further call.
    ///
    /// # Errors
    /// The error of the backend, if it is not retryable. The stream ends with it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns the item.
    pub async fn next(&mut self) -> Option<Result<Option<Leader>>> {
        futures_util::StreamExt::next(self).await
    }
}

impl Stream for Leaders {
    type Item = Result<Option<Leader>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(item) = ready!(self.stream.as_mut().poll_next(cx)) else {
            return Poll::Ready(None);
        };
        let leader = item.map(|Item { leader, gap }| {
            self.gap = gap;
            leader
        });
        Poll::Ready(Some(leader))
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The state of a stream between two items.
struct StreamState {
    observer: Observer,
    /// The contenders as of `header.revision`.
    contenders: Contenders,
    header: Header,
    /// The last item that was yielded.
    last_item: Option<Option<Leader>>,
    /// The gap before the next item.
    gap: Option<Gap>,
    /// When to read the contenders again.
    verify_at: Option<Instant>,
    step: Step,
}

/// The next step of a stream.
enum Step {
    /// Read the contenders: the first step, or after a cause for which changes may be missing.
    Read(Option<GapCause>),
    /// Watch the contenders, from the revision after `header.revision` on.
    Watch(Option<Watcher>),
    /// The stream has ended.
    End,
}

impl StreamState {
    /// Waits for the next item. Returns it with the state after it.
    async fn next(mut self) -> Option<(Result<Item>, Self)> {
        loop {
            let done = match std::mem::replace(&mut self.step, Step::End) {
                Step::Read(cause) => self.read(cause).await,
                Step::Watch(watch) => self.watch(watch).await,
                Step::End => return None,
            };
            if let Err(error) = done {
                return Some((Err(error), self));
            }
            let leader = self.leader();
            let is_current = !matches!(self.step, Step::Read(_));
            if is_current && self.last_item.as_ref() != Some(&leader) {
                self.last_item = Some(leader.clone());
                let gap = self.gap.take();
                return Some((Ok(Item { leader, gap }), self));
            }
        }
    }

    fn leader(&self) -> Option<Leader> {
        let kv = self.contenders.first()?.clone();
        Some(Leader { kv, header: self.header })
    }

    /// Reads all contenders. With a `cause`, changes may be missing, unless the leader and its
    /// value are the same as before: then that leader has led all the time.
    async fn read(&mut self, cause: Option<GapCause>) -> Result<()> {
        let (header, contenders) = self.observer.contenders().await?;
        let leader = contenders.first();
        if let Some(cause) = cause
            && (leader.is_none() || leader != self.contenders.first())
        {
            let after = self.gap.map_or(self.header.revision, |gap| gap.after);
            self.gap = Some(Gap { after, until: header.revision, cause });
        }
        (self.header, self.contenders) = (header, contenders);
        self.verify_at = Some(Instant::now() + VERIFY_PERIOD);
        self.step = Step::Watch(None);
        Ok(())
    }

    /// Waits for the next batch of the watch, or until the contenders must be verified.
    async fn watch(&mut self, watch: Option<Watcher>) -> Result<()> {
        let mut watch = match watch {
            Some(watch) => watch,
            None => self.observer.watch(self.header.revision.next()).await?,
        };
        let verify_at = *self.verify_at.get_or_insert_with(|| Instant::now() + VERIFY_PERIOD);
        match timeout_at(verify_at, watch.next()).await {
            Ok(delivered) => self.process_delivery(delivered, watch).await,
            Err(_) => self.verify(watch).await,
        }
    }

    /// Processes a batch, an error, or the end of the watch.
    async fn process_delivery(
        &mut self,
        delivered: Option<Result<WatchBatch>>,
        watch: Watcher,
    ) -> Result<()> {
        match delivered {
            Some(Ok(batch)) => {
                self.apply(batch);
                self.step = Step::Watch(Some(watch));
            }
            Some(Err(Error::Compacted { .. })) => {
                self.step = Step::Read(Some(GapCause::Compacted));
            }
            Some(Err(Error::HistoryReplaced { .. })) => {
                self.step = Step::Read(Some(GapCause::HistoryReplaced));
            }
            Some(Err(error)) if !error.is_retryable() => return Err(error),
            Some(Err(_)) | None => {
                sleep(RETRY_PAUSE_MIN).await;
                self.step = Step::Watch(None);
            }
        }
        Ok(())
    }

    /// Reads the contenders, to detect that the watch has fallen silent or that the history of the
    /// store was replaced.
    ///
    /// If the contenders are the same as before and one of them leads, the leader has led all the
    /// time, and no change is missing. Otherwise the stream compares the contenders *as of the
    /// revision that it has reached*: in the same history they are the same as before, and only the
    /// watch can deliver the changes since.
    async fn verify(&mut self, watch: Watcher) -> Result<()> {
        self.verify_at = Some(Instant::now() + VERIFY_PERIOD);
        let (header, contenders) = self.observer.contenders().await?;
        if header.revision < self.header.revision {
            self.step = Step::Read(Some(GapCause::HistoryReplaced));
            return Ok(());
        }
        if contenders == self.contenders && contenders.first().is_some() {
            self.header = header;
            self.step = Step::Watch(Some(watch));
            return Ok(());
        }
        match self.observer.contenders_at(self.header.revision).await {
            Ok(Some(then)) if then == self.contenders => self.probe(watch).await,
            Ok(_) => {
                self.step = Step::Read(Some(GapCause::HistoryReplaced));
                Ok(())
            }
            // The history at that revision can no longer be compared.
            Err(Error::Compacted { .. }) => self.probe(watch).await,
            Err(error) => Err(error),
        }
    }

    /// Requests a progress notification from the watch. A watch that delivers nothing has fallen
    /// silent: the stream replaces it by a watch from the same revision on.
    async fn probe(&mut self, mut watch: Watcher) -> Result<()> {
        watch.request_progress();
        match timeout(PROGRESS_TIMEOUT, watch.next()).await {
            Ok(delivered) => self.process_delivery(delivered, watch).await,
            Err(_) => {
                self.step = Step::Watch(None);
                Ok(())
            }
        }
    }

    /// Applies a batch: the events of one revision, or a progress notification.
    fn apply(&mut self, batch: WatchBatch) {
        if batch.revision <= self.header.revision && !batch.events.is_empty() {
            // The contenders were read at this or a later revision.
            return;
        }
        for event in batch.events {
            if self.observer.keys.owns(&event.kv.key) {
                self.contenders.apply(event);
            }
        }
        self.header.revision = self.header.revision.max(batch.revision);
    }
}
