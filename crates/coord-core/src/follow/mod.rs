//! Follows keys of the store: reads them once, and then applies the events of one watch.
//!
//! A [`Follower`] keeps a state of the followed keys up to date. [`CurrentKeys`] is a stream that
//! yields the *current key* of a state after each revision that changes it: the leader of an
//! election, the key of a shared value, or a release request. It yields every change, in order,
//! none twice, and a change costs no request. A [`PrefixCache`](crate::recipes::PrefixCache)
//! follows a whole prefix.
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
//! If events that the watch would deliver are compacted, if the store delivered a change out of
//! order, or if the history of the store was replaced, the follower reads the keys again. Unless
//! the current key is unchanged, the stream reports a [`Gap`] before the next item.

mod current_key;
mod gap;

use std::future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{Event, Header, KeyRange, Revision, Watch, WatchBatch, Watcher};
use crate::retry_request::{RETRY_PAUSE_MIN, retry_request};
pub(crate) use current_key::{CurrentKey, CurrentKeys, FollowedKey, Item};
pub use gap::{Gap, GapCause};

/// How often the keys are read again, because a watch does not detect that it has fallen silent,
/// and a watch of etcd does not detect that the history of the store was replaced.
const VERIFY_PERIOD: Duration = Duration::from_secs(55);

/// A watch that delivers nothing for this time after a request for a progress notification has
/// fallen silent.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys of the store that are followed, and the state that is made of them.
pub(crate) trait Followed: Send + Sync + 'static {
    /// The keys as of one revision.
    type State: Clone + Default + Send + Sync;

    fn client(&self) -> &Client;

    /// The range that is watched.
    fn range(&self) -> KeyRange;

    /// Reads the keys at a revision, or at the newest one. It retries each request while the store
    /// is unavailable.
    fn read(
        &self,
        at: Option<Revision>,
    ) -> impl Future<Output = Result<(Header, Self::State)>> + Send;

    /// Applies the events of one revision that are in the range.
    fn apply(&self, state: &mut Self::State, events: Vec<Event>);

    /// Compares the state as of `revision` with the store. It retries while the store is
    /// unavailable.
    fn verify(
        &self,
        state: &Self::State,
        revision: Revision,
    ) -> impl Future<Output = Result<Verified>> + Send;

    /// Waits until a user of the state wants the follower to do something at once.
    fn wanted(&self) -> impl Future<Output = Wanted> + Send {
        future::pending()
    }
}

/// The result of a comparison of a state with the store.
pub(crate) enum Verified {
    /// The state is the newest one, as of this header.
    Current(Header),
    /// The state belongs to the history of the store. Only the watch can deliver the changes since.
    SameHistory,
    /// The history of the store was replaced.
    Replaced,
}

/// What a user of the state wants.
pub(crate) enum Wanted {
    /// A request for a progress notification.
    Progress,
    /// A comparison of the state with the store.
    Verify,
}

/// The keys as of one revision, kept up to date by one watch.
pub(crate) struct Follower<F: Followed> {
    followed: Arc<F>,
    /// The keys as of `header.revision`.
    state: F::State,
    header: Header,
    /// Up to this revision the state was read or verified. Above it, up to `header.revision`, only
    /// the watch has reported that it delivered everything.
    read_up_to: Revision,
    /// The revision of a change that the watch delivered after it had reported a later one.
    late: Option<Revision>,
    /// When to verify the state.
    verify_at: Option<Instant>,
    /// Verifies the state as of an earlier or the same revision, beside the watch: while the store
    /// does not respond to it, the watch may.
    verification: Option<BoxFuture<'static, (Revision, Result<Verified>)>>,
    /// When the watch has fallen silent, unless it delivers something before: it was requested to.
    respond_by: Option<Instant>,
    step: Step,
}

/// The next step of a follower.
enum Step {
    /// Read the keys: the first step, or after a cause for which changes may be missing.
    Read(Option<GapCause>),
    /// Watch the keys, from the revision after `header.revision` on.
    Watch(Option<Watcher>),
    /// A step has failed, or its future was dropped.
    End,
}

/// The result of a step that has read the keys.
pub(crate) struct Reread<S> {
    /// The state before, and its revision.
    pub(crate) before: S,
    pub(crate) revision: Revision,
    /// Why changes may be missing; `None` for the first read.
    pub(crate) cause: Option<GapCause>,
}

/// A wakeup of a follower that waits.
enum Wakeup {
    Delivered(Option<Result<WatchBatch>>),
    Wanted(Wanted),
    Verified(Revision, Result<Verified>),
    TimedOut,
}

impl<F: Followed> Follower<F> {
    /// A follower that has read nothing yet.
    pub(crate) fn new(followed: F) -> Self {
        Self {
            followed: Arc::new(followed),
            state: F::State::default(),
            header: Header::default(),
            read_up_to: Revision::ZERO,
            late: None,
            verify_at: None,
            verification: None,
            respond_by: None,
            step: Step::Read(None),
        }
    }

    /// The keys as of [`header`](Self::header).
    pub(crate) const fn state_mut(&mut self) -> &mut F::State {
        &mut self.state
    }

    pub(crate) const fn header(&self) -> Header {
        self.header
    }

    /// Whether the watch was requested to report its progress, and has delivered nothing since.
    pub(crate) const fn awaits_progress(&self) -> bool {
        self.respond_by.is_some()
    }

    /// Reads the keys, or waits for the next event of the watch, and updates the state. After an
    /// error, or if the future was dropped, the follower has ended: do not call it again.
    pub(crate) async fn step(&mut self) -> Result<Option<Reread<F::State>>> {
        match std::mem::replace(&mut self.step, Step::End) {
            Step::Read(cause) => self.read(cause).await.map(Some),
            Step::Watch(watch) => self.watch(watch).await.map(|()| None),
            Step::End => unreachable!("the follower has ended"),
        }
    }

    async fn read(&mut self, cause: Option<GapCause>) -> Result<Reread<F::State>> {
        let (header, state) = read_newest(&*self.followed).await?;
        let revision = std::mem::replace(&mut self.header, header).revision;
        let revision = self.late.take().map_or(revision, |late| Revision(late.0 - 1));
        self.read_up_to = header.revision;
        let before = std::mem::replace(&mut self.state, state);
        self.verify_at = Some(Instant::now() + VERIFY_PERIOD);
        (self.verification, self.respond_by) = (None, None);
        self.step = Step::Watch(None);
        Ok(Reread { before, revision, cause })
    }

    /// Waits for the next batch of the watch, or until the keys must be verified.
    async fn watch(&mut self, watch: Option<Watcher>) -> Result<()> {
        let mut watch = match watch {
            Some(watch) => watch,
            None => register(&*self.followed, self.header.revision.next()).await?,
        };
        let verify_at = *self.verify_at.get_or_insert_with(|| Instant::now() + VERIFY_PERIOD);
        let verify_at = self.verification.is_none().then_some(verify_at);
        let until = self.respond_by.into_iter().chain(verify_at).min();
        let timer = async {
            match until {
                Some(at) => sleep_until(at).await,
                None => future::pending().await,
            }
        };
        let verified = async {
            match &mut self.verification {
                Some(verification) => verification.await,
                None => future::pending().await,
            }
        };
        let wakeup = tokio::select! {
            biased;
            delivered = watch.next() => Wakeup::Delivered(delivered),
            (revision, verified) = verified => Wakeup::Verified(revision, verified),
            wanted = self.followed.wanted() => Wakeup::Wanted(wanted),
            () = timer => Wakeup::TimedOut,
        };
        match wakeup {
            Wakeup::Delivered(delivered) => self.process_delivery(delivered, watch).await,
            Wakeup::Wanted(Wanted::Progress) => {
                self.probe(watch);
                Ok(())
            }
            Wakeup::TimedOut if self.respond_by.is_some_and(|at| at <= Instant::now()) => {
                // The watch has fallen silent: replaced by a watch from the same revision on.
                self.respond_by = None;
                self.step = Step::Watch(None);
                Ok(())
            }
            Wakeup::Wanted(Wanted::Verify) if self.verification.is_some() => {
                // Verifies again as soon as the verification in progress has ended.
                self.verify_at = Some(Instant::now());
                self.step = Step::Watch(Some(watch));
                Ok(())
            }
            Wakeup::Wanted(Wanted::Verify) | Wakeup::TimedOut => {
                self.begin_verification();
                self.step = Step::Watch(Some(watch));
                Ok(())
            }
            Wakeup::Verified(revision, verified) => {
                self.verification = None;
                self.process_verification(revision, verified?, watch);
                Ok(())
            }
        }
    }

    /// Processes a batch, an error, or the end of the watch.
    async fn process_delivery(
        &mut self,
        delivered: Option<Result<WatchBatch>>,
        watch: Watcher,
    ) -> Result<()> {
        self.respond_by = None;
        match delivered {
            Some(Ok(batch)) => {
                self.step = match self.apply(batch) {
                    Ok(()) => Step::Watch(Some(watch)),
                    Err(cause) => Step::Read(Some(cause)),
                };
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

    /// Begins to compare the state with the store, to detect that the watch has fallen silent or
    /// that the history of the store was replaced.
    fn begin_verification(&mut self) {
        self.verify_at = Some(Instant::now() + VERIFY_PERIOD);
        let (followed, state) = (Arc::clone(&self.followed), self.state.clone());
        let revision = self.header.revision;
        let verify = async move { (revision, followed.verify(&state, revision).await) };
        self.verification = Some(Box::pin(verify));
    }

    /// Processes the result of a comparison of the state as of `revision` with the store.
    fn process_verification(&mut self, revision: Revision, verified: Verified, watch: Watcher) {
        match verified {
            Verified::Current(header) => {
                // Meanwhile the watch may have advanced the state.
                if self.header.revision == revision {
                    self.header = header;
                    self.read_up_to = header.revision;
                }
                self.step = Step::Watch(Some(watch));
            }
            Verified::SameHistory => self.probe(watch),
            Verified::Replaced => self.step = Step::Read(Some(GapCause::HistoryReplaced)),
        }
    }

    /// Requests a progress notification from the watch. If the watch then delivers nothing, it has
    /// fallen silent.
    fn probe(&mut self, mut watch: Watcher) {
        watch.request_progress();
        self.respond_by.get_or_insert_with(|| Instant::now() + PROGRESS_TIMEOUT);
        self.step = Step::Watch(Some(watch));
    }

    /// Applies a batch: the events of one revision, or a progress notification. Fails if the events
    /// are late, so that the keys must be read again.
    fn apply(&mut self, batch: WatchBatch) -> Result<(), GapCause> {
        if batch.revision <= self.header.revision && !batch.events.is_empty() {
            if batch.revision <= self.read_up_to {
                return Ok(());
            }
            self.late = Some(batch.revision);
            return Err(GapCause::OutOfOrder);
        }
        if !batch.events.is_empty() {
            self.followed.apply(&mut self.state, batch.events);
        }
        self.header.revision = self.header.revision.max(batch.revision);
        Ok(())
    }
}

/// Reads the keys at the newest revision.
async fn read_newest<F: Followed>(followed: &F) -> Result<(Header, F::State)> {
    loop {
        match followed.read(None).await {
            // A read of several pages: the revision of the first page was compacted meanwhile, or
            // belongs to a history that was replaced meanwhile.
            Err(Error::Compacted { .. } | Error::FutureRevision { .. }) => {}
            read => return read,
        }
    }
}

/// Reads the keys at a revision that the store had reached; `None` if the store has not reached it,
/// because its history was replaced.
async fn read_at<F: Followed>(followed: &F, revision: Revision) -> Result<Option<F::State>> {
    match followed.read(Some(revision)).await {
        Ok((_, state)) => Ok(Some(state)),
        Err(Error::FutureRevision { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Watches the range, from a revision on.
async fn register<F: Followed>(followed: &F, from: Revision) -> Result<Watcher> {
    let request = Watch::new(followed.range()).start_at(from);
    retry_request(|| followed.client().backend().watch(request.clone())).await
}
