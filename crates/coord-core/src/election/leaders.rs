//! The leaders of an election, in order.
//!
//! A [`Leaders`] stream yields what *was*, revision by revision. It reads all contenders once, and
//! follows them with one watch of the whole queue: the contender that was created first leads. So
//! it yields every leader and every value, in order, none twice, and a change of leadership costs
//! no request. In particular it opens no watch in the past, which etcd serves from a loop that
//! ticks every 100 ms: an observer that did so for each leader fell behind with ten changes a
//! second.
//!
//! ```text
//! revision   what happens              contenders     the stream
//!        5   A campaigns               A@5            Some(a)
//!        6   B campaigns               A@5 B@6
//!        7   A proclaims a2            A@5 B@6        Some(a2)
//!        8   A's lease ends            B@6            Some(b)
//!        9   B resigns                                None
//!       10   C campaigns               C@10           Some(c)
//! ```
//!
//! If the store has compacted what the watch would deliver, or its history was replaced, the
//! contenders are read again, and the next item has a [`Gap`] before it.

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

/// How often the contenders are read again, to find out what no watch delivers.
const VERIFY_EVERY: Duration = Duration::from_secs(55);

/// How long a watch that is asked for its progress may deliver nothing before it is taken for
/// silent.
const PROGRESS_WITHIN: Duration = Duration::from_secs(5);

/// Revisions between which a [`Leaders`] stream may have missed changes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Up to this revision every change was shown.
    pub after: Revision,
    /// From this revision on every change is shown again.
    pub until: Revision,
    /// Why changes may be missing.
    pub cause: GapCause,
}

/// Why a [`Leaders`] stream may have missed changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapCause {
    /// The store compacted what the stream had not shown yet.
    Compacted,
    /// The history of the store was replaced: an older backup was restored, or an empty store took
    /// the place of the old one. The two revisions are of two histories.
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
                "the history of the store was replaced: revision {after} of the old one, {until} of the new one"
            ),
        }
    }
}

/// A stream of leaders, from now on. It ends with an error, or when it is dropped. While the store
/// is unavailable it waits.
///
/// The first item is the leader now. An item is `None` while there is no leader. A value that is
/// proclaimed again is yielded again.
///
/// Nothing is sent to the store before the first poll, nor while the stream is not polled. A
/// consumer that comes back late is shown all that the store has not compacted;
/// [`gap`](Self::gap) returns what may be missing. The contenders are read once a minute: so a
/// watch that has fallen silent delays the next item by a minute at most, and a store whose history
/// was replaced is noticed within a minute. Until then the stream may show a leader of the old
/// history.
///
/// # Errors
/// The error of the backend, if another attempt cannot help. The stream ends with it.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Leaders {
    name: Bytes,
    stream: BoxStream<'static, Result<Item>>,
    gap: Option<Gap>,
}

/// What a stream yields: a leader, and what may be missing before it.
struct Item {
    leader: Option<Leader>,
    gap: Option<Gap>,
}

impl Leaders {
    pub(super) fn of(observer: Observer) -> Self {
        let name = observer.keys.name();
        let history = History {
            observer,
            contenders: Contenders::default(),
            header: Header::default(),
            shown: None,
            gap: None,
            verify_at: None,
            next: Next::Read(None),
        };
        // Fused, because it may be polled again after the end.
        Self { name, stream: stream::unfold(history, History::next).fuse().boxed(), gap: None }
    }

    /// What may be missing before the last item; `None` if nothing is.
    ///
    /// A stream has a gap when the store compacted what it had not shown yet, or when the history
    /// of the store was replaced. It then continues with the newest state of the store. If no
    /// leader was there before and after, the gap comes with the next leader.
    #[must_use]
    pub const fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// The next change; `None` after an error, however often it is asked.
    ///
    /// # Errors
    /// As the stream.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the change is shown by the next call.
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

/// How far a stream has come.
struct History {
    observer: Observer,
    /// The contenders as of `header.revision`.
    contenders: Contenders,
    header: Header,
    /// The last item.
    shown: Option<Option<Leader>>,
    /// What may be missing before the next item.
    gap: Option<Gap>,
    /// When to read the contenders again, whatever the watch delivers.
    verify_at: Option<Instant>,
    next: Next,
}

/// Where to go on.
enum Next {
    /// Read the contenders: at first, or because changes may be missing.
    Read(Option<GapCause>),
    /// Watch them, from the revision after `header.revision` on.
    Watch(Option<Watcher>),
    Ended,
}

impl History {
    /// The next item, and the history after it.
    async fn next(mut self) -> Option<(Result<Item>, Self)> {
        loop {
            let stepped = match std::mem::replace(&mut self.next, Next::Ended) {
                Next::Read(cause) => self.read(cause).await,
                Next::Watch(watch) => self.watch(watch).await,
                Next::Ended => return None,
            };
            if let Err(error) = stepped {
                return Some((Err(error), self));
            }
            let leader = self.leader();
            let is_known = !matches!(self.next, Next::Read(_));
            if is_known && self.shown.as_ref() != Some(&leader) {
                self.shown = Some(leader.clone());
                let gap = self.gap.take();
                return Some((Ok(Item { leader, gap }), self));
            }
        }
    }

    fn leader(&self) -> Option<Leader> {
        let kv = self.contenders.first()?.clone();
        Some(Leader { kv, header: self.header })
    }

    /// Reads all contenders. After a `cause`, changes may be missing: unless the leader is the
    /// same, with the same value, and so has led all the time.
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
        self.verify_at = Some(Instant::now() + VERIFY_EVERY);
        self.next = Next::Watch(None);
        Ok(())
    }

    async fn watch(&mut self, watch: Option<Watcher>) -> Result<()> {
        let mut watch = match watch {
            Some(watch) => watch,
            None => self.observer.watch(self.header.revision.next()).await?,
        };
        let verify_at = *self.verify_at.get_or_insert_with(|| Instant::now() + VERIFY_EVERY);
        match timeout_at(verify_at, watch.next()).await {
            Ok(delivered) => self.note(delivered, watch).await,
            Err(_) => self.verify(watch).await,
        }
    }

    /// Draws the conclusion from what a watch has delivered.
    async fn note(&mut self, delivered: Option<Result<WatchBatch>>, watch: Watcher) -> Result<()> {
        match delivered {
            Some(Ok(batch)) => {
                self.apply(batch);
                self.next = Next::Watch(Some(watch));
            }
            Some(Err(Error::Compacted { .. })) => {
                self.next = Next::Read(Some(GapCause::Compacted));
            }
            Some(Err(Error::HistoryReplaced { .. })) => {
                self.next = Next::Read(Some(GapCause::HistoryReplaced));
            }
            Some(Err(error)) if !error.is_retryable() => return Err(error),
            Some(Err(_)) | None => {
                sleep(RETRY_PAUSE_MIN).await;
                self.next = Next::Watch(None);
            }
        }
        Ok(())
    }

    /// Reads the contenders, to find out whether the watch has fallen silent, or the history of the
    /// store was replaced.
    ///
    /// If the same contenders are there, and one of them leads, then it has led all the time, and
    /// nothing is missing. Otherwise the contenders *as of the revision that was reached* decide:
    /// in the same history they are the same. Then only the watch can show what has happened since.
    async fn verify(&mut self, watch: Watcher) -> Result<()> {
        self.verify_at = Some(Instant::now() + VERIFY_EVERY);
        let (header, contenders) = self.observer.contenders().await?;
        if header.revision < self.header.revision {
            self.next = Next::Read(Some(GapCause::HistoryReplaced));
            return Ok(());
        }
        if contenders == self.contenders && contenders.first().is_some() {
            self.header = header;
            self.next = Next::Watch(Some(watch));
            return Ok(());
        }
        match self.observer.contenders_at(self.header.revision).await {
            Ok(Some(then)) if then == self.contenders => self.probe(watch).await,
            Ok(_) => {
                self.next = Next::Read(Some(GapCause::HistoryReplaced));
                Ok(())
            }
            // What was there then can no longer be read.
            Err(Error::Compacted { .. }) => self.probe(watch).await,
            Err(error) => Err(error),
        }
    }

    /// Asks a watch for its progress. One that does not answer has fallen silent, and another one
    /// begins where it left off.
    async fn probe(&mut self, mut watch: Watcher) -> Result<()> {
        watch.request_progress();
        match timeout(PROGRESS_WITHIN, watch.next()).await {
            Ok(delivered) => self.note(delivered, watch).await,
            Err(_) => {
                self.next = Next::Watch(None);
                Ok(())
            }
        }
    }

    /// Follows the changes of one revision, or none of a progress notification.
    fn apply(&mut self, batch: WatchBatch) {
        if batch.revision <= self.header.revision && !batch.events.is_empty() {
            // The contenders were read since.
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
