//! The leaders of an election, in order.
//!
//! A [`Leaders`] stream shows what *was*, revision by revision. It reads all contenders once, and
//! follows them with one watch of the whole queue: the contender that was created first leads. So
//! it shows every leader and every value, in order, none twice, and a change of leadership costs no
//! request. In particular it opens no watch in the past, which etcd serves from a loop that ticks
//! every 100 ms: an observer that did so for each leader fell behind with ten changes a second.
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
use tokio::time::{sleep, timeout};

use super::contenders::Contenders;
use super::{Leader, Observer};
use crate::error::{Error, Result};
use crate::kv::{Header, Revision, Watch, WatchBatch};
use crate::retry::PAUSE;

/// How long a watch may deliver nothing before the contenders are read again.
const VERIFY_AFTER: Duration = Duration::from_secs(60);

/// Revisions between which a [`Leaders`] stream may have missed changes.
///
/// If `until` is not above `after`, the history of the store was replaced: an older backup was
/// restored, or an empty store took the place of the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// All changes up to this revision were shown.
    pub after: Revision,
    /// The item after the gap is as of this revision.
    pub until: Revision,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after, until } = self;
        if until > after {
            write!(f, "changes between revisions {after} and {until} may be missing")
        } else {
            write!(f, "the history of the store was replaced: from revision {after} to {until}")
        }
    }
}

/// Who leads, from the moment of asking on: a stream that ends with an error, or when it is
/// dropped. While the store is unavailable it waits.
///
/// The first item is who leads now. It is `None` if nobody does, and whenever nobody does. A value
/// that is proclaimed again is shown again.
///
/// Nothing is sent to the store before the first poll, nor while the stream is not polled. A
/// consumer that comes back late is shown all that the store has not compacted; what may be missing
/// is said by [`gap`](Self::gap). While nothing happens the contenders are read once a minute, so a
/// watch that has fallen silent, or a store whose history was replaced, delays the next item by a
/// minute at most.
///
/// # Errors
/// What the backend answered, if trying again cannot help. The stream ends with it.
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
            is_doubtful: false,
            next: Next::Read,
        };
        // Fused, because it may be polled again after the end.
        Self { name, stream: stream::unfold(history, History::next).fuse().boxed(), gap: None }
    }

    /// What may be missing before the last item; `None` if nothing is.
    ///
    /// A stream has a gap when the store compacted what it had not shown yet, or when the history
    /// of the store was replaced. The item after a gap is the newest state of the store.
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
    /// Whether the contenders were other ones when they were last verified, and the watch, which
    /// was registered again since, has delivered nothing that explains it.
    is_doubtful: bool,
    next: Next,
}

/// Where to go on.
enum Next {
    /// Read the contenders.
    Read,
    /// Watch them, from the revision after `header.revision` on.
    Watch(Option<Watch>),
    Ended,
}

impl History {
    /// The next item, and the history after it.
    async fn next(mut self) -> Option<(Result<Item>, Self)> {
        loop {
            let stepped = match std::mem::replace(&mut self.next, Next::Ended) {
                Next::Read => self.read().await,
                Next::Watch(watch) => self.watch(watch).await,
                Next::Ended => return None,
            };
            if let Err(error) = stepped {
                return Some((Err(error), self));
            }
            let leader = self.leader();
            let is_known = !matches!(self.next, Next::Read);
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

    /// Reads all contenders. If there were others before, changes may be missing in between: unless
    /// the leader is the same, with the same value, and so has led all the time.
    async fn read(&mut self) -> Result<()> {
        let (header, contenders) = self.observer.contenders().await?;
        if self.shown.is_some()
            && (contenders.first().is_none() || contenders.first() != self.contenders.first())
        {
            let after = self.gap.map_or(self.header.revision, |gap| gap.after);
            self.gap = Some(Gap { after, until: header.revision });
        }
        (self.header, self.contenders, self.is_doubtful) = (header, contenders, false);
        self.next = Next::Watch(None);
        Ok(())
    }

    async fn watch(&mut self, watch: Option<Watch>) -> Result<()> {
        let mut watch = match watch {
            Some(watch) => watch,
            None => self.observer.watch(self.header.revision.next()).await?,
        };
        let Ok(delivered) = timeout(VERIFY_AFTER, watch.next()).await else {
            return self.verify(watch).await;
        };
        match delivered {
            Some(Ok(batch)) => {
                self.apply(batch);
                self.next = Next::Watch(Some(watch));
            }
            // What follows is not to be had any more, or not what followed then.
            Some(Err(Error::Compacted { .. } | Error::HistoryReplaced { .. })) => {
                self.next = Next::Read;
            }
            Some(Err(error)) if !error.is_retryable() => return Err(error),
            Some(Err(_)) | None => {
                sleep(PAUSE).await;
                self.next = Next::Watch(None);
            }
        }
        Ok(())
    }

    /// Reads the contenders after a watch has delivered nothing for long. Either nothing has
    /// happened, or the watch has fallen silent, or the history of the store was replaced, which a
    /// lower revision proves.
    ///
    /// If the same contenders are there, and one of them leads, it has led all the time. If none is
    /// there, one may have led in between: only the watch can show that, so it is registered again.
    async fn verify(&mut self, watch: Watch) -> Result<()> {
        let (header, contenders) = self.observer.contenders().await?;
        let is_same = contenders == self.contenders;
        let is_replaced = header.revision < self.header.revision;
        if is_replaced || (!is_same && self.is_doubtful) {
            self.next = Next::Read;
        } else {
            self.is_doubtful = !is_same;
            let keeps = is_same && contenders.first().is_some();
            self.next = Next::Watch(keeps.then_some(watch));
        }
        Ok(())
    }

    /// Follows the changes of one revision.
    fn apply(&mut self, batch: WatchBatch) {
        for event in batch.events {
            if self.observer.keys.owns(&event.kv.key) {
                self.contenders.apply(event);
            }
        }
        self.header.revision = batch.revision;
        self.is_doubtful = false;
    }
}
