//! The member of a shard assignment: a task that follows the members, and acquires the shards that
//! are assigned to this one.
//!
//! The *member task* evaluates the assignment after each change of the members. For each shard that
//! is assigned to its member it starts a *shard task*, which waits in the queue of the shard, hands
//! the guard to [`ShardMember::next`], and waits until the guard is gone. When the shard is
//! assigned to another member, the shard task ends: it removes its contender from the queue, or
//! revokes the guard.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::assign::assign;
use super::{Shard, Shards, changed};
use crate::backoff::Backoff;
use crate::error::{LossReason, PrimitiveError, ReleaseError};
use crate::kv::KeyValue;
use crate::queue::{KeyGuard, Ownership, WaitQueue, run_until_lost};
use crate::recipes::{PrefixCache, PrefixSnapshot};
use crate::retry_request::RETRY_PAUSE_MIN;
use crate::session::{OrphanedKey, Session, SessionState};
use crate::sync::lock;

/// A member of a [`ShardAssignment`](super::ShardAssignment): receives the shards that are assigned
/// to it. Dropping it leaves.
///
/// Its tasks run in the background, so a shard is revoked also while [`next`](Self::next) is not
/// called.
#[must_use = "dropping the member leaves the shard assignment"]
pub struct ShardMember {
    /// The key among the members.
    key: KeyGuard,
    /// Whether the key may have been deleted.
    may_be_released: bool,
    name: Bytes,
    shared: Arc<Shared>,
    /// Stops the tasks, and revokes all shards.
    _stop: DropGuard,
}

/// What the handle and the tasks of a member share.
struct Shared {
    session: Session,
    shards: Arc<Shards>,
    name: Bytes,
    /// The key among the members.
    own: Ownership,
    state: Mutex<State>,
    /// Wakes `next`.
    changed: Notify,
    /// Stops the tasks, and revokes all shards.
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Shards that were acquired and not yet returned by `next`.
    ready: VecDeque<Shard>,
    /// Why the member has ended.
    end: Option<PrimitiveError>,
}

impl ShardMember {
    pub(super) fn start(
        key: KeyGuard,
        name: Bytes,
        members: PrefixCache,
        shards: &Arc<Shards>,
    ) -> Self {
        let own = key.ownership().clone();
        let shared = Arc::new(Shared {
            session: own.session().clone(),
            shards: Arc::clone(shards),
            name: name.clone(),
            own,
            state: Mutex::default(),
            changed: Notify::new(),
            stop: CancellationToken::new(),
        });
        shared.session.spawn(run(Arc::clone(&shared), members));
        let stop = shared.stop.clone().drop_guard();
        Self { key, may_be_released: false, name, shared, _stop: stop }
    }

    /// Returns the name of the member.
    #[must_use]
    pub const fn name(&self) -> &Bytes {
        &self.name
    }

    /// Returns the key of the member.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.shared.own.key()
    }

    /// Returns the session of the member.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.shared.session
    }

    /// Waits for the next shard that this member owns, and returns its guard. A shard whose guard
    /// was dropped is returned again, if it is still assigned to this member, or again later.
    ///
    /// # Errors
    /// An error is final: all shards are revoked, the member leaves, and later calls return the
    /// error again. Drop the member then.
    /// - `Lost` if the session is lost, or another client has deleted the key of the member.
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: no shard is lost.
    pub async fn next(&mut self) -> Result<Shard, PrimitiveError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Enabled before the state is read, so that no notification in between is missed.
            changed.as_mut().enable();
            // After a pause of the process, the shards may be lost already.
            self.session().check_deadline().await?;
            while let Some(shard) = self.shared.pop()? {
                // A shard task that is yet to be polled has not removed its revoked guard.
                if !shard.is_revoked() {
                    return Ok(shard);
                }
            }
            tokio::select! {
                biased;
                // Without the runtime of the session, no task notifies `changed`.
                _ = self.session().lost() => {}
                () = changed => {}
            }
        }
    }

    /// Leaves, and waits for the confirmation. Then the shards of this member are assigned to
    /// others. All its shards are revoked: the guards that exist stay valid until they are dropped,
    /// so that the work on them can end.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the member: leave again, or drop it, and the session task continues
    /// to delete its key. Its cause is `Lost` if the session, or the key, was lost before.
    ///
    /// # Cancel safety
    /// Dropping the future leaves all the same, in the background.
    pub async fn leave(mut self) -> Result<(), ReleaseError<Self>> {
        self.may_be_released |= self.shared.has_failed();
        match self.key.release(&mut self.may_be_released).await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}

impl fmt::Debug for ShardMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardMember")
            .field("name", &format_args!("\"{}\"", self.name.escape_ascii()))
            .field("key", &format_args!("\"{}\"", self.key().escape_ascii()))
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The next shard that was acquired, which may be revoked.
    fn pop(&self) -> Result<Option<Shard>, PrimitiveError> {
        let mut state = lock(&self.state);
        if let Some(error) = &state.end {
            return Err(error.clone());
        }
        if let SessionState::Lost(reason) = self.session.state() {
            return Err(reason.into());
        }
        Ok(state.ready.pop_front())
    }

    /// Ends the member: `next` returns the error, all shards are revoked, and the session task
    /// deletes the key of the member, so that its shards are assigned to others.
    fn end(&self, error: PrimitiveError) {
        if error.loss() != Some(LossReason::KeyDeleted) && !self.session.state().is_lost() {
            let (key, created) = (self.own.key().clone(), Some(self.own.fencing_token().0));
            self.session.clean_up(OrphanedKey { key, created, suffix: None, value: None });
        }
        lock(&self.state).end.get_or_insert(error);
        // Before the guards are dropped: no shard task acquires again.
        self.stop.cancel();
        let ready = std::mem::take(&mut lock(&self.state).ready);
        drop(ready);
        self.changed.notify_waiters();
    }

    /// Whether the member has ended for another reason than a loss: its key is being deleted.
    fn has_failed(&self) -> bool {
        lock(&self.state).end.as_ref().is_some_and(|error| error.loss().is_none())
    }

    /// The indexes of the shards that are assigned to this member; `None` if its key is gone.
    fn assigned(&self, members: &PrefixSnapshot) -> Option<Vec<usize>> {
        let own = &self.own;
        members.get(own.key()).filter(|kv| own.is(kv))?;
        let members = newest_of_each_name(members.iter());
        if members.get(&self.name).is_none_or(|newest| !own.is(newest)) {
            // Another member with this name has joined later.
            return Some(Vec::new());
        }
        let names: Vec<_> = members.keys().collect();
        let own = names.iter().position(|name| **name == self.name);
        let assigned = assign(&names, &self.shards.names);
        Some((0..assigned.len()).filter(|shard| Some(assigned[*shard]) == own).collect())
    }
}

/// Ends the member if the member task panics or its executor drops it: no other task follows the
/// members.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if !self.0.stop.is_cancelled() {
            self.0.end(match self.0.session.state() {
                SessionState::Lost(reason) => reason.into(),
                SessionState::Alive | SessionState::Suspect => LossReason::Expired.into(),
            });
        }
    }
}

/// The newest key of each name of a member.
fn newest_of_each_name<'a>(
    kvs: impl Iterator<Item = &'a KeyValue>,
) -> BTreeMap<Bytes, &'a KeyValue> {
    let mut newest: BTreeMap<Bytes, &KeyValue> = BTreeMap::new();
    for kv in kvs {
        let known = newest.entry(kv.value.clone()).or_insert(kv);
        if known.create_revision < kv.create_revision {
            *known = kv;
        }
    }
    newest
}

/// The member task.
async fn run(shared: Arc<Shared>, members: PrefixCache) {
    let _end = EndOnDrop(Arc::clone(&shared));
    let session = shared.session.clone();
    // The shard tasks, by the index of their shard. Dropping a guard revokes the shard.
    let mut running: BTreeMap<usize, DropGuard> = BTreeMap::new();
    let mut changes = members.changes();
    let follow = async {
        loop {
            let Some(assigned) = shared.assigned(changes.snapshot()) else {
                return shared.own.why_evicted().await.into();
            };
            running.retain(|shard, _| assigned.binary_search(shard).is_ok());
            for index in assigned {
                running.entry(index).or_insert_with(|| {
                    let revoked = shared.stop.child_token();
                    let task = acquire_again(Arc::clone(&shared), index, revoked.clone());
                    session.spawn(task);
                    revoked.drop_guard()
                });
            }
            if let Err(error) = changed(&members, &mut changes).await {
                return error.into();
            }
        }
    };
    let follow = async {
        tokio::select! {
            biased;
            error = follow => error,
            error = confirm(&members, session.ttl()) => error,
        }
    };
    let ended = run_until_lost(session.lost(), follow);
    if let Some(ended) = shared.stop.run_until_cancelled(ended).await {
        shared.end(ended.unwrap_or_else(PrimitiveError::from));
    }
}

/// Reads the members consistently once in a period, so that a watch which has fallen silent is
/// detected and replaced. Returns the error of the cache after it has stopped.
async fn confirm(members: &PrefixCache, period: Duration) -> PrimitiveError {
    loop {
        sleep(period).await;
        // After an error of the store alone, the cache continues.
        let _ = members.read().await;
        if let Some(error) = members.error() {
            return error.into();
        }
    }
}

/// A shard task: acquires a shard again and again, until it is revoked.
async fn acquire_again(shared: Arc<Shared>, index: usize, revoked: CancellationToken) {
    let shard = shared.shards.names[index].clone();
    let queue = WaitQueue::of_kind("shard", &shared.session, shared.shards.queue_of(&shard));
    let pause_max = shared.session.ttl() / 4;
    let mut backoff = Backoff::new(RETRY_PAUSE_MIN, pause_max);
    let run = async {
        // When a guard is gone because of a revocation, this task may be polled before it is
        // cancelled.
        while !revoked.is_cancelled() {
            match queue.acquire(shared.name.clone()).await {
                Ok(contender) => {
                    backoff.reset();
                    let gone = CancellationToken::new();
                    let guard = gone.clone().drop_guard();
                    let shard = Shard::new(contender, shard.clone(), revoked.clone(), guard);
                    lock(&shared.state).ready.push_back(shard);
                    shared.changed.notify_waiters();
                    gone.cancelled().await;
                }
                // The key of the waiter was deleted, or the store is unavailable.
                Err(PrimitiveError::Lost(LossReason::KeyDeleted)) => sleep(backoff.next()).await,
                Err(error) if error.is_retryable() => sleep(backoff.next()).await,
                // The session is lost, or no attempt can succeed.
                Err(error) => return shared.end(error),
            }
        }
    };
    revoked.run_until_cancelled(run).await;
    // A guard that `next` has not returned yet is released.
    let released: VecDeque<_> = {
        let mut state = lock(&shared.state);
        let ready = std::mem::take(&mut state.ready);
        let (released, ready) = ready.into_iter().partition(Shard::is_revoked);
        state.ready = ready;
        released
    };
    drop(released);
}
