//! Who led, in order.
//!
//! A [`Leaders`] stream shows what *was*, revision by revision. While somebody leads, it watches
//! that one key; when the key is deleted at revision r, it asks who was first **at r**, and goes on
//! from r + 1. While nobody leads, it watches the line for the first key. So it shows every leader
//! and every value, in order, none twice, whatever happens in between, and costs its store
//! nothing when candidates come and go behind the leader:
//!
//! ```text
//! revision   what happens              the stream
//!        5   A campaigns               Some(a)    A was first at 5; watch A from 6
//!        6   B campaigns
//!        7   A proclaims a2            Some(a2)
//!        8   A's lease ends            Some(b)    B was first at 8; watch B from 9
//!        9   B resigns                 None       nobody was at 9; watch the line from 10
//!       10   C campaigns               Some(c)    watch C from 11
//! ```
//!
//! If that revision is compacted when it is asked for, the stream goes on with who leads now.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::time::{sleep, timeout};

use super::{Leader, Observer};
use crate::error::{Error, Result};
use crate::kv::{EventKind, Header, Revision, Watch, WatchBatch};
use crate::retry::{PAUSE, patiently};

/// How long a watch may tell nothing before it is looked whether there was nothing to tell.
const SILENCE: Duration = Duration::from_secs(60);

/// Who leads, from the moment of asking on: a stream that ends with an error, or when it is
/// dropped. While the store is unavailable it waits.
///
/// The first item is who leads now. It is `None` if nobody does, and whenever nobody does. A value
/// that is proclaimed again is shown again.
///
/// Nothing is asked of the store before the first poll, nor while the stream is not polled; whoever
/// comes back late is shown all that the store has not compacted. While nothing happens the store
/// is asked once a minute who leads, or watched anew if nobody does, so that a watch which has
/// fallen silent delays the news and no more.
///
/// # Errors
/// What the backend answered, if trying again cannot help. The stream ends with it.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Leaders {
    name: Bytes,
    stream: BoxStream<'static, Result<Option<Leader>>>,
}

impl Leaders {
    pub(super) fn of(observer: Observer) -> Self {
        let name = observer.keys.name();
        let history = History { observer, shown: None, next: Next::Look(Revision::ZERO) };
        // Fused, for whoever asks again after the end.
        Self { name, stream: stream::unfold(history, History::next).fuse().boxed() }
    }

    /// The next change; `None` after an error, however often it is asked.
    ///
    /// # Errors
    /// As the stream.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the change is shown by the next call.
    pub async fn next(&mut self) -> Option<Result<Option<Leader>>> {
        self.stream.next().await
    }
}

impl Stream for Leaders {
    type Item = Result<Option<Leader>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How far a stream has told what was.
struct History {
    observer: Observer,
    /// The last item.
    shown: Option<Option<Leader>>,
    next: Next,
}

/// Where to go on.
enum Next {
    /// Ask who leads at a revision; zero is now.
    Look(Revision),
    /// Watch what ends what is shown, from a revision on.
    Watch(Revision, Option<Watch>),
    Ended,
}

impl History {
    /// The next item, and the history after it.
    async fn next(mut self) -> Option<(Result<Option<Leader>>, Self)> {
        loop {
            let told = match std::mem::replace(&mut self.next, Next::Ended) {
                Next::Look(revision) => self.look(revision).await,
                Next::Watch(from, watch) => self.watch(from, watch).await,
                Next::Ended => return None,
            };
            match told {
                Ok(Some(leader)) if self.shown.as_ref() == Some(&leader) => {}
                Ok(Some(leader)) => {
                    self.shown = Some(leader.clone());
                    return Some((Ok(leader), self));
                }
                Ok(None) => {}
                Err(error) => return Some((Err(error), self)),
            }
        }
    }

    async fn look(&mut self, revision: Revision) -> Result<Option<Option<Leader>>> {
        match patiently(|| self.observer.leader_at(revision)).await {
            Ok((leader, as_of)) => {
                self.next = Next::Watch(as_of.next(), None);
                Ok(Some(leader))
            }
            Err(Error::Compacted { .. }) => {
                self.next = Next::Look(Revision::ZERO);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn watch(
        &mut self,
        from: Revision,
        watch: Option<Watch>,
    ) -> Result<Option<Option<Leader>>> {
        let leader = self.shown.clone().flatten();
        let mut watch = match watch {
            Some(watch) => watch,
            None => self.observer.watch(leader.as_ref(), from).await?,
        };
        let Ok(told) = timeout(SILENCE, watch.next()).await else {
            return self.doubt(from, watch).await;
        };
        match told {
            Some(Ok(batch)) => Ok(self.note(leader, batch, watch)),
            Some(Err(Error::Compacted { .. })) => {
                self.next = Next::Look(Revision::ZERO);
                Ok(None)
            }
            Some(Err(error)) if !error.is_retryable() => Err(error),
            Some(Err(_)) | None => {
                sleep(PAUSE).await;
                self.next = Next::Watch(from, None);
                Ok(None)
            }
        }
    }

    /// A watch has told nothing for long: either nothing has happened, or it has fallen silent, and
    /// another begins where it left off. A leader that is there as it was tells which. That nobody
    /// leads does not: somebody may have, in between.
    async fn doubt(&mut self, from: Revision, watch: Watch) -> Result<Option<Option<Leader>>> {
        let mut all_is_well = false;
        if let Some(leader) = self.shown.clone().flatten() {
            let (now, _) = patiently(|| self.observer.leader_at(Revision::ZERO)).await?;
            all_is_well = now == Some(leader);
        }
        self.next = Next::Watch(from, all_is_well.then_some(watch));
        Ok(None)
    }

    /// What a batch of the watch tells, if anything.
    fn note(
        &mut self,
        leader: Option<Leader>,
        batch: WatchBatch,
        watch: Watch,
    ) -> Option<Option<Leader>> {
        let from = batch.revision.next();
        let header = Header { revision: batch.revision, ..watch.header() };
        let owned = batch.events.into_iter().filter(|event| self.observer.keys.owns(&event.kv.key));
        let mut owned = owned.collect::<Vec<_>>();
        if owned.iter().any(|event| event.kind == EventKind::Delete) {
            // Be it the leader's, or a key that was created and deleted in this same revision: what
            // was true when the revision was done, a look at it tells.
            self.next = Next::Look(batch.revision);
            return None;
        }
        if leader.is_some() {
            self.next = Next::Watch(from, Some(watch));
            return owned.pop().map(|event| Some(Leader { kv: event.kv, header }));
        }
        let first = owned.into_iter().min_by(|a, b| a.kv.key.cmp(&b.kv.key));
        // Once somebody leads, only that key needs to be watched.
        self.next = Next::Watch(from, first.is_none().then_some(watch));
        first.map(|event| Some(Leader { kv: event.kv, header }))
    }
}
