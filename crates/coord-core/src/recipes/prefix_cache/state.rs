//! The state that the handles, the task and the subscribers of a prefix cache share.
//!
//! The task publishes; everything else reads. Futures that wait for a revision are woken in the
//! order in which they began to wait, which makes each run of a test the same.

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep_until};

use super::PrefixCacheError;
use super::changes::Update;
use super::snapshot::{KeyChange, Keys, Map, PrefixSnapshot};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::follow::{Gap, GapCause, Wanted};
use crate::kv::Revision;
use crate::sync;
use crate::telemetry::cache as events;

/// How many updates are kept for subscribers that read late.
pub(super) const UPDATES_KEPT: usize = 256;

/// The pauses between requests for progress, while a future waits for a revision.
const PROGRESS_PAUSE_MIN: Duration = Duration::from_millis(100);
const PROGRESS_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The shared state of one cache.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) prefix: Bytes,
    pub(super) bytes_max: usize,
    current: Mutex<Current>,
    /// Wakes the futures that wait for a revision.
    published: Notify,
    /// Wakes the task.
    wanted: Notify,
}

/// The current state of a cache.
pub(super) struct Current {
    pub(super) snapshot: PrefixSnapshot,
    pub(super) bytes: usize,
    /// How many times the history of the store was replaced.
    pub(super) history: u64,
    pub(super) error: Option<PrefixCacheError>,
    is_loaded: bool,
    /// The snapshot has every write that was confirmed before.
    confirmed_at: Instant,
    /// When the snapshot reaches this revision, it has every write that was confirmed before.
    confirming: Option<(Revision, Instant)>,
    progress: ProgressRequests,
    is_verification_requested: bool,
    /// `None` after the cache has stopped.
    updates: Option<broadcast::Sender<Arc<Update>>>,
}

/// Which requests for progress the task must send.
struct ProgressRequests {
    /// How many futures wait for a revision.
    waiting: usize,
    /// Whether a future has begun to wait since the last request.
    has_new: bool,
    /// Whether the watch has not delivered anything since the last request.
    is_outstanding: bool,
    next_at: Instant,
    pauses: Backoff,
}

/// The result of waiting for a revision.
pub(super) enum Reached {
    Snapshot(PrefixSnapshot),
    /// The history of the store was replaced meanwhile.
    HistoryReplaced,
}

/// What the task publishes.
pub(super) struct Publication<'a> {
    pub(super) keys: &'a Keys,
    pub(super) revision: Revision,
    pub(super) changes: Vec<KeyChange>,
    pub(super) gap: Option<Gap>,
    /// When the keys were requested, if they were read.
    pub(super) read_at: Option<Instant>,
    /// Whether the watch has not responded yet to a request for progress.
    pub(super) awaits_progress: bool,
}

impl Current {
    pub(super) fn staleness(&self) -> Duration {
        self.confirmed_at.elapsed()
    }

    pub(super) fn subscribers(&self) -> usize {
        self.updates.as_ref().map_or(0, broadcast::Sender::receiver_count)
    }

    /// Subscribes to the updates after the current snapshot; `None` if the cache has stopped.
    pub(super) fn subscribe(&self) -> Option<broadcast::Receiver<Arc<Update>>> {
        self.updates.as_ref().map(broadcast::Sender::subscribe)
    }

    /// Notes that the snapshot has every write that was confirmed before.
    fn confirm(&mut self, at: Instant) {
        if at > self.confirmed_at {
            events::confirmed(self.staleness());
            self.confirmed_at = at;
        }
    }
}

impl Shared {
    pub(super) fn new(client: &Client, prefix: Bytes, bytes_max: usize) -> Self {
        let now = Instant::now();
        let pauses = Backoff::new(PROGRESS_PAUSE_MIN, PROGRESS_PAUSE_MAX);
        let current = Current {
            snapshot: PrefixSnapshot { revision: Revision::ZERO, map: Map::new() },
            bytes: 0,
            history: 0,
            error: None,
            is_loaded: false,
            confirmed_at: now,
            confirming: None,
            progress: ProgressRequests {
                waiting: 0,
                has_new: false,
                is_outstanding: false,
                next_at: now,
                pauses,
            },
            is_verification_requested: false,
            updates: Some(broadcast::Sender::new(UPDATES_KEPT)),
        };
        Self {
            client: client.clone(),
            prefix,
            bytes_max,
            current: Mutex::new(current),
            published: Notify::new(),
            wanted: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Current> {
        sync::lock(&self.current)
    }

    /// The number of the history, and the revision.
    pub(super) fn history(&self) -> (u64, Revision) {
        let current = self.lock();
        (current.history, current.snapshot.revision)
    }

    /// Publishes a state, and the changes that led to it.
    pub(super) fn publish(&self, publication: Publication<'_>) {
        let Publication { keys, revision, changes, gap, read_at, awaits_progress } = publication;
        let mut current = self.lock();
        if gap.is_some_and(|gap| gap.cause == GapCause::HistoryReplaced) {
            current.history += 1;
            current.confirming = None;
            current.is_verification_requested = false;
        }
        current.snapshot = PrefixSnapshot { revision, map: keys.map.clone() };
        current.bytes = keys.bytes;
        current.is_loaded = true;
        current.progress.is_outstanding = awaits_progress;
        let confirmed = current.confirming.take_if(|(confirming, _)| *confirming <= revision);
        if let Some(at) = read_at.or(confirmed.map(|(_, at)| at)) {
            current.confirm(at);
        }
        if let (false, Some(updates)) = (changes.is_empty() && gap.is_none(), &current.updates) {
            let (snapshot, history) = (current.snapshot.clone(), current.history);
            // Fails if there is no subscriber.
            let _ =
                updates.send(Arc::new(Update { changes: changes.into(), gap, snapshot, history }));
        }
        drop(current);
        self.published.notify_waiters();
    }

    /// Ends the cache with an error.
    pub(super) fn fail(&self, error: PrefixCacheError) {
        let mut current = self.lock();
        current.error.get_or_insert(error);
        current.updates = None;
        drop(current);
        self.published.notify_waiters();
    }

    /// Notes that the cache has ended because its runtime was shut down.
    pub(super) fn stop(&self) {
        if self.lock().error.is_none() {
            self.fail(PrefixCacheError::RuntimeShutDown);
        }
    }

    /// Waits until `condition` returns a value.
    async fn wait<T: Send>(
        &self,
        mut condition: impl FnMut(&Current) -> Option<T> + Send,
    ) -> Result<T, PrefixCacheError> {
        loop {
            let mut published = pin!(self.published.notified());
            // Enabled before the state is read, so that no publication in between is missed.
            published.as_mut().enable();
            {
                let current = self.lock();
                if let Some(value) = condition(&current) {
                    return Ok(value);
                }
                if let Some(error) = &current.error {
                    return Err(error.clone());
                }
            }
            published.await;
        }
    }

    /// Waits until the first state is loaded.
    pub(super) async fn loaded(&self) -> Result<(), PrefixCacheError> {
        self.wait(|current| current.is_loaded.then_some(())).await
    }

    /// Waits until the history of the store is another one than `history`.
    pub(super) async fn new_history(&self, history: u64) -> Result<(), PrefixCacheError> {
        self.wait(|current| (current.history != history).then_some(())).await
    }

    /// Waits until the state has every change up to `revision` of a history.
    pub(super) async fn reach(
        &self,
        history: u64,
        revision: Revision,
    ) -> Result<Reached, PrefixCacheError> {
        let condition = |current: &Current| {
            if current.history != history {
                return Some(Reached::HistoryReplaced);
            }
            let is_reached = current.snapshot.revision >= revision;
            is_reached.then(|| Reached::Snapshot(current.snapshot.clone()))
        };
        if let Some(reached) = condition(&self.lock()) {
            return Ok(reached);
        }
        let _waiting = Waiting::new(self);
        self.wait(condition).await
    }

    /// Notes that the current snapshot has every write that was confirmed before.
    pub(super) fn confirm(&self, at: Instant) {
        self.lock().confirm(at);
    }

    /// Notes that the snapshot has every write that was confirmed before, as soon as it reaches
    /// this revision.
    pub(super) fn confirm_when(&self, revision: Revision, at: Instant) {
        let mut current = self.lock();
        if current.snapshot.revision >= revision {
            current.confirm(at);
        } else {
            current.confirming = Some((revision, at));
        }
    }

    pub(super) fn request_verification(&self) {
        self.lock().is_verification_requested = true;
        self.wanted.notify_one();
    }

    /// Waits until the task must request progress, or verify its state.
    pub(super) async fn wanted(&self) -> Wanted {
        loop {
            let request_at = {
                let mut current = self.lock();
                if std::mem::take(&mut current.is_verification_requested) {
                    return Wanted::Verify;
                }
                if current.progress.is_due() {
                    return Wanted::Progress;
                }
                (current.progress.waiting > 0).then_some(current.progress.next_at)
            };
            let due = async {
                match request_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.wanted.notified() => {}
                () = due => {}
            }
        }
    }
}

impl ProgressRequests {
    /// Whether a request is due; then it counts as sent.
    ///
    /// Futures that begin to wait while a request is outstanding share the next one, which is sent
    /// when the watch has responded.
    fn is_due(&mut self) -> bool {
        let is_due = self.waiting > 0
            && (self.has_new && !self.is_outstanding || self.next_at <= Instant::now());
        if is_due {
            (self.has_new, self.is_outstanding) = (false, true);
            self.next_at = Instant::now() + self.pauses.next();
        }
        is_due
    }
}

/// Counts a future that waits for a revision, until this guard is dropped.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        let mut current = shared.lock();
        let progress = &mut current.progress;
        if progress.waiting == 0 {
            progress.pauses.reset();
        }
        progress.waiting += 1;
        progress.has_new = true;
        drop(current);
        shared.wanted.notify_one();
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().progress.waiting -= 1;
    }
}
