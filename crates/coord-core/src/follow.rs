//! Follows keys of the store: reads them once, and then applies the events of one watch.
//!
//! A [`Follower`] yields the *current key* of what it follows after each revision that changes it:
//! the leader of an election, the key of a shared value, or a release request. It yields every
//! change, in order, none twice, and a change costs no request.
//!
//! ```text
//! revision   event          state      item
//!        5   (read)         a = 1      Some(1)
//!        6   put b                     (not followed)
//!        7   put a = 2      a = 2      Some(2)
//!        8   delete a       none       None
//!            the watch ends, and its events up to 11 are compacted
//!       12   (read)         a = 4      Some(4), after a gap from 8 to 12
//! ```
//!
//! If events that the watch would deliver are compacted, or if the history of the store was
//! replaced, the follower reads the keys again. Unless the current key is unchanged, it reports a
//! [`Gap`] before the next item.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{
    Event, EventKind, Header, KeyRange, KeyValue, Range, Revision, Watch, WatchBatch, Watcher,
};
use crate::retry_read::{RETRY_PAUSE_MIN, retry_read};

/// How often the keys are read again, because a watch does not detect that it has fallen silent,
/// and a watch of etcd does not detect that the history of the store was replaced.
const VERIFY_PERIOD: Duration = Duration::from_secs(55);

/// A watch that delivers nothing for this time after a request for a progress notification has
/// fallen silent.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// An interval of revisions in which a stream, such as [`Leaders`](crate::election::Leaders), may
/// have missed changes, and the cause.
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

/// The reason why a stream may have missed changes.
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

/// Keys of the store that are followed, and the state that is made of them.
pub(crate) trait Followed: Send + Sync + 'static {
    /// The keys as of one revision.
    type State: Default + PartialEq + Send + Sync;

    fn client(&self) -> &Client;

    /// The range that is watched.
    fn range(&self) -> KeyRange;

    /// Reads the keys at a revision, or at the newest one. It does not retry.
    fn read(
        &self,
        at: Option<Revision>,
    ) -> impl Future<Output = Result<(Header, Self::State)>> + Send;

    /// Applies an event of the range.
    fn apply(&self, state: &mut Self::State, event: Event);

    /// The key whose changes are yielded; `None` if there is none.
    fn current(state: &Self::State) -> Option<&KeyValue>;
}

/// One key that is followed: a shared value, or the release requests to a holder.
pub(crate) struct FollowedKey {
    pub(crate) client: Client,
    pub(crate) key: Bytes,
}

impl Followed for FollowedKey {
    type State = Option<KeyValue>;

    fn client(&self) -> &Client {
        &self.client
    }

    fn range(&self) -> KeyRange {
        KeyRange::key(&self.key)
    }

    async fn read(&self, at: Option<Revision>) -> Result<(Header, Self::State)> {
        let mut read = self.client.range(Range::new(&self.key).at(at)).await?;
        Ok((read.header, read.kvs.pop()))
    }

    fn apply(&self, state: &mut Self::State, event: Event) {
        *state = (event.kind == EventKind::Put).then_some(event.kv);
    }

    fn current(state: &Self::State) -> Option<&KeyValue> {
        state.as_ref()
    }
}

/// An item of a follower.
pub(crate) struct Item {
    /// The current key.
    pub(crate) kv: Option<KeyValue>,
    /// The header of the response or batch with that state.
    pub(crate) header: Header,
    /// The gap before the item.
    pub(crate) gap: Option<Gap>,
}

/// The state of a stream between two items.
pub(crate) struct Follower<F: Followed> {
    followed: F,
    /// The keys as of `header.revision`.
    state: F::State,
    header: Header,
    /// The last current key that was yielded.
    last_item: Option<Option<KeyValue>>,
    /// The gap before the next item.
    gap: Option<Gap>,
    /// When to read the keys again.
    verify_at: Option<Instant>,
    step: Step,
}

/// The next step of a stream.
enum Step {
    /// Read the keys: the first step, or after a cause for which changes may be missing.
    Read(Option<GapCause>),
    /// Watch the keys, from the revision after `header.revision` on.
    Watch(Option<Watcher>),
    /// The stream has ended.
    End,
}

impl<F: Followed> Follower<F> {
    /// The stream of the current key, from now on. It ends with an error that is not retryable.
    pub(crate) fn stream(followed: F) -> impl Stream<Item = Result<Item>> + Send {
        let follower = Self {
            followed,
            state: F::State::default(),
            header: Header::default(),
            last_item: None,
            gap: None,
            verify_at: None,
            step: Step::Read(None),
        };
        stream::unfold(follower, Self::next)
    }

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
            let kv = F::current(&self.state);
            let is_current = !matches!(self.step, Step::Read(_));
            if is_current && self.last_item.as_ref().map(Option::as_ref) != Some(kv) {
                let kv = kv.cloned();
                self.last_item = Some(kv.clone());
                let item = Item { kv, header: self.header, gap: self.gap.take() };
                return Some((Ok(item), self));
            }
        }
    }

    /// Reads the keys. With a `cause`, changes may be missing, unless the current key is the same
    /// as before: then it has been the current key all the time.
    async fn read(&mut self, cause: Option<GapCause>) -> Result<()> {
        let (header, state) = read_newest(&self.followed).await?;
        let current = F::current(&state);
        if let Some(cause) = cause
            && (current.is_none() || current != F::current(&self.state))
        {
            let after = self.gap.map_or(self.header.revision, |gap| gap.after);
            self.gap = Some(Gap { after, until: header.revision, cause });
        }
        (self.header, self.state) = (header, state);
        self.verify_at = Some(Instant::now() + VERIFY_PERIOD);
        self.step = Step::Watch(None);
        Ok(())
    }

    /// Waits for the next batch of the watch, or until the keys must be verified.
    async fn watch(&mut self, watch: Option<Watcher>) -> Result<()> {
        let mut watch = match watch {
            Some(watch) => watch,
            None => register(&self.followed, self.header.revision.next()).await?,
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

    /// Reads the keys, to detect that the watch has fallen silent or that the history of the store
    /// was replaced.
    ///
    /// If the keys are the same as before and one of them is current, it was current all the time,
    /// and no change is missing. Otherwise the follower compares the keys *as of the revision that
    /// it has reached*: in the same history they are the same as before, and only the watch can
    /// deliver the changes since.
    async fn verify(&mut self, watch: Watcher) -> Result<()> {
        self.verify_at = Some(Instant::now() + VERIFY_PERIOD);
        let (header, state) = read_newest(&self.followed).await?;
        if header.revision < self.header.revision {
            self.step = Step::Read(Some(GapCause::HistoryReplaced));
            return Ok(());
        }
        if state == self.state && F::current(&state).is_some() {
            self.header = header;
            self.step = Step::Watch(Some(watch));
            return Ok(());
        }
        match read_at(&self.followed, self.header.revision).await {
            Ok(Some(then)) if then == self.state => self.probe(watch).await,
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
    /// silent: the follower replaces it by a watch from the same revision on.
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
            // The keys were read at this or a later revision.
            return;
        }
        for event in batch.events {
            self.followed.apply(&mut self.state, event);
        }
        self.header.revision = self.header.revision.max(batch.revision);
    }
}

/// Reads the keys at the newest revision, with retries while the store is unavailable.
async fn read_newest<F: Followed>(followed: &F) -> Result<(Header, F::State)> {
    loop {
        match retry_read(|| followed.read(None)).await {
            // A read of several pages: the revision of the first page was compacted meanwhile.
            Err(Error::Compacted { .. }) => {}
            read => return read,
        }
    }
}

/// Reads the keys at a revision that the store had reached; `None` if the store has not reached it,
/// because its history was replaced.
async fn read_at<F: Followed>(followed: &F, revision: Revision) -> Result<Option<F::State>> {
    let read = || async move {
        match followed.read(Some(revision)).await {
            Ok((_, state)) => Ok(Some(state)),
            Err(Error::FutureRevision { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    retry_read(read).await
}

/// Watches the range, from a revision on.
async fn register<F: Followed>(followed: &F, from: Revision) -> Result<Watcher> {
    let request = Watch::new(followed.range()).start_at(from);
    retry_read(|| followed.client().backend().watch(request.clone())).await
}
