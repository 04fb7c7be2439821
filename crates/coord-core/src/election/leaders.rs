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
//! it reports a [`Gap`] before the next item. The module `follow` does this.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::contenders::Contenders;
use super::{Leader, Observer};
use crate::client::Client;
use crate::error::Result;
use crate::follow::{CurrentKey, CurrentKeys, Followed, Gap, Item, Verified};
use crate::kv::{Event, Header, KeyRange, KeyValue, Revision};

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

impl Leaders {
    pub(super) fn of(observer: Observer) -> Self {
        let name = observer.keys.name();
        // Fused, because a stream may be polled again after its end.
        Self { name, stream: CurrentKeys::stream(observer).fuse().boxed(), gap: None }
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
        let leader = item.map(|Item { kv, header, gap }| {
            self.gap = gap;
            kv.map(|kv| Leader { kv, header })
        });
        Poll::Ready(Some(leader))
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Followed for Observer {
    type State = Contenders;

    fn client(&self) -> &Client {
        Self::client(self)
    }

    fn range(&self) -> KeyRange {
        self.keys.range()
    }

    async fn read(&self, at: Option<Revision>) -> Result<(Header, Contenders)> {
        self.read_contenders(at).await
    }

    fn apply(&self, contenders: &mut Contenders, events: Vec<Event>) {
        let owned = events.into_iter().filter(|event| self.keys.owns(&event.kv.key));
        owned.for_each(|event| contenders.apply(event));
    }

    async fn verify(&self, contenders: &Contenders, revision: Revision) -> Result<Verified> {
        self.verify_current(contenders, revision).await
    }
}

impl CurrentKey for Observer {
    fn current(contenders: &Contenders) -> Option<&KeyValue> {
        contenders.first()
    }
}
