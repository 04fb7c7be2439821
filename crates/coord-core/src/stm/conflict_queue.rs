//! Conflict queues: transactions of one client that conflict on a key take turns.
//!
//! When 64 tasks add one to the same key, each commit makes the 63 other attempts fail. Within one
//! process waiting costs no request. So a transaction that has conflicted on a key locks the queue
//! of that key, a fair mutex in memory, before its next attempt. A transaction that is about to
//! commit to a key with a queue, and has not conflicted yet, enters the queue as well. A key
//! without conflicts has no queue: then a transaction reads one atomic counter and takes no lock.
//!
//! A queue is a hint and protects nothing: other clients do not know it, and the compares of the
//! commit detect every conflict.
//!
//! - **Order.** A transaction locks its queues in key order. To add a key it releases all its
//!   queues and locks the union, so transactions cannot deadlock.
//! - **Post-image.** The mutex holds what the last commit of a holder left: the keys of its read
//!   set and write set, as of the commit revision. The next holder starts with the newest
//!   post-image of its queues and sends no read. It uses only a post-image that is newer than a
//!   read of its own transaction, so that no attempt sees a state older than its transaction.
//! - **Stuck holder.** A waiter passes a holder that has held the queue for one second, for example
//!   because its closure hangs. It replaces the queue with a new one; the old one ends with its
//!   users.
//!
//! ```text
//! T1                    T2                      T3                    mutex of n
//! commit n: conflict
//! lock n                                                              held by T1
//!                       commit n: conflict
//!                       wait for n                                    held by T1
//!                                               about to commit n
//!                                               wait for n            held by T1
//! commit n = 1 @7, unlock                                             n = 1 @7
//!                       lock n, take n = 1 @7                         held by T2
//!                       commit n = 2 @8, unlock                       n = 2 @8
//!                                               lock n, take n = 2 @8 held by T3
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use super::read_set::Snapshot;
use crate::sync::lock;

/// How long a holder keeps its waiters waiting.
const HOLDER_PASSED_AFTER: Duration = Duration::from_secs(1);

/// The post-image of the last commit. `None` if the last holder did not commit, or if the current
/// holder has taken it.
type PostImage = Option<Arc<Snapshot>>;

/// The conflict queues of one client.
#[derive(Debug, Default)]
pub(crate) struct ConflictQueues {
    by_key: Mutex<BTreeMap<Bytes, KeyQueue>>,
    /// The number of queues, to be read without a lock.
    count: AtomicUsize,
}

/// The queue of one key. It exists as long as it has users.
#[derive(Debug)]
struct KeyQueue {
    /// Tokio's mutex is fair: the waiters lock it in the order of their arrival.
    mutex: Arc<AsyncMutex<PostImage>>,
    held_since: Instant,
    /// The holder and the waiters.
    users: usize,
}

/// The queues that a transaction holds. Dropping them releases them.
#[derive(Debug, Default)]
pub(super) struct HeldQueues<'a> {
    /// In key order.
    queues: Vec<HeldQueue<'a>>,
}

#[derive(Debug)]
struct HeldQueue<'a> {
    // Dropped before `user`: the mutex is unlocked before the queue may be removed.
    post_image: OwnedMutexGuard<PostImage>,
    user: QueueUser<'a>,
}

/// A holder or waiter of one queue. Dropping it leaves the queue.
#[derive(Debug)]
struct QueueUser<'a> {
    queues: &'a ConflictQueues,
    key: Bytes,
    mutex: Arc<AsyncMutex<PostImage>>,
}

impl ConflictQueues {
    /// Those of `keys` that have a queue.
    pub(super) fn contended<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) -> Vec<Bytes> {
        // The counter may be a moment old: a queue is a hint.
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let by_key = lock(&self.by_key);
        keys.filter(|key| by_key.contains_key(*key)).cloned().collect()
    }

    /// Locks the queues of all `keys`, in key order.
    ///
    /// # Cancel safety
    /// Dropping the future releases the queues that it has locked and leaves the one it waits for.
    pub(super) async fn hold(&self, keys: BTreeSet<Bytes>) -> HeldQueues<'_> {
        let mut held = HeldQueues::default();
        for key in keys {
            held.queues.push(self.hold_one(key).await);
        }
        held
    }

    async fn hold_one(&self, key: Bytes) -> HeldQueue<'_> {
        loop {
            let user = self.enter(key.clone());
            let mut locked = pin!(Arc::clone(&user.mutex).lock_owned());
            while let Some(passed_at) = user.holder_passed_at() {
                match timeout_at(passed_at, locked.as_mut()).await {
                    Ok(post_image) => {
                        user.begin_hold();
                        return HeldQueue { post_image, user };
                    }
                    Err(_) => user.pass_stuck_holder(),
                }
            }
        }
    }

    fn enter(&self, key: Bytes) -> QueueUser<'_> {
        let mut by_key = lock(&self.by_key);
        let queue = by_key.entry(key.clone()).or_insert_with(|| KeyQueue {
            mutex: Arc::default(),
            held_since: Instant::now(),
            users: 0,
        });
        queue.users += 1;
        let mutex = Arc::clone(&queue.mutex);
        self.count.store(by_key.len(), Ordering::Relaxed);
        QueueUser { queues: self, key, mutex }
    }
}

impl QueueUser<'_> {
    /// When a waiter may pass the holder; `None` if a waiter has done so.
    fn holder_passed_at(&self) -> Option<Instant> {
        let mut by_key = lock(&self.queues.by_key);
        self.find(&mut by_key).map(|queue| queue.held_since + HOLDER_PASSED_AFTER)
    }

    fn begin_hold(&self) {
        if let Some(queue) = self.find(&mut lock(&self.queues.by_key)) {
            queue.held_since = Instant::now();
        }
    }

    /// Removes the queue if its holder is stuck. The waiters then enter a new one.
    fn pass_stuck_holder(&self) {
        self.remove_if(|queue| queue.held_since.elapsed() >= HOLDER_PASSED_AFTER);
    }

    fn remove_if(&self, condition: impl FnOnce(&mut KeyQueue) -> bool) {
        let mut by_key = lock(&self.queues.by_key);
        if self.find(&mut by_key).is_some_and(condition) {
            by_key.remove(&self.key);
            self.queues.count.store(by_key.len(), Ordering::Relaxed);
        }
    }

    /// The queue of this user; `None` if a waiter has passed its holder, so that the key has a new
    /// queue, or none.
    fn find<'a>(&self, by_key: &'a mut BTreeMap<Bytes, KeyQueue>) -> Option<&'a mut KeyQueue> {
        by_key.get_mut(&self.key).filter(|queue| Arc::ptr_eq(&queue.mutex, &self.mutex))
    }
}

impl Drop for QueueUser<'_> {
    fn drop(&mut self) {
        self.remove_if(|queue| {
            queue.users -= 1;
            queue.users == 0
        });
    }
}

impl HeldQueues<'_> {
    /// Whether the queue of `key` is held.
    pub(super) fn contains(&self, key: &Bytes) -> bool {
        self.queues.binary_search_by(|held| held.user.key.cmp(key)).is_ok()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.queues.iter().map(|held| &held.user.key)
    }

    /// Replaces what the transaction has read by the newest post-image, if that is newer.
    pub(super) fn replace_if_newer(&mut self, read: &mut Snapshot) {
        let post_images = self.queues.iter_mut().filter_map(|held| held.post_image.take());
        let newest = post_images.max_by_key(|post_image| post_image.revision);
        if let Some(newest) = newest.filter(|newest| newest.revision > read.revision) {
            *read = Arc::unwrap_or_clone(newest);
        }
    }

    /// Leaves the post-image of a commit for the next holders.
    pub(super) fn leave(&mut self, post_image: Snapshot) {
        let post_image = Arc::new(post_image);
        for held in &mut self.queues {
            *held.post_image = Some(Arc::clone(&post_image));
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::kv::Revision;

    fn keys(names: &[&'static str]) -> BTreeSet<Bytes> {
        names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect()
    }

    fn snapshot(revision: i64) -> Snapshot {
        Snapshot { revision: Revision(revision), ..Snapshot::default() }
    }

    fn queue_count(queues: &ConflictQueues) -> usize {
        let count = queues.count.load(Ordering::Relaxed);
        assert_eq!(count, lock(&queues.by_key).len());
        count
    }

    #[tokio::test(start_paused = true)]
    async fn queue_without_users_is_removed() {
        let queues = ConflictQueues::default();
        let all = keys(&["a", "b"]);
        assert!(queues.contended(all.iter()).is_empty());
        let held = queues.hold(keys(&["b"])).await;
        assert_eq!(queues.contended(all.iter()), ["b"]);
        assert!(
            held.contains(&Bytes::from_static(b"b")) && !held.contains(&Bytes::from_static(b"a"))
        );

        let waiter = timeout(Duration::from_millis(10), queues.hold(all.clone()));
        assert!(waiter.await.is_err(), "b is held");
        assert_eq!(queue_count(&queues), 1, "the dropped waiter has released a and left b");
        drop(held);
        assert_eq!(queue_count(&queues), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn next_holder_starts_with_post_image_if_it_is_newer() {
        for (read, post_image, expected) in [(4, 5, 5), (5, 5, 5), (6, 5, 6)] {
            let queues = ConflictQueues::default();
            let mut first = queues.hold(keys(&["a", "b"])).await;
            let (mut second, ()) = tokio::join!(queues.hold(keys(&["b"])), async {
                yield_now().await;
                first.leave(snapshot(post_image));
                drop(first);
            });
            let mut start = snapshot(read);
            second.replace_if_newer(&mut start);
            assert_eq!(start.revision, Revision(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_pass_stuck_holder_one_after_the_other() {
        let (queues, start) = (ConflictQueues::default(), Instant::now());
        let stuck = queues.hold(keys(&["a"])).await;
        let waiter = async || {
            let held = queues.hold(keys(&["a"])).await;
            let waited = start.elapsed();
            sleep(Duration::from_millis(300)).await;
            drop(held);
            waited.as_millis()
        };
        let (one, other) = tokio::join!(waiter(), waiter());
        let (second, third) = (one.min(other), one.max(other));
        assert!((1_000..1_100).contains(&second), "waited for {second} ms");
        assert!((1_300..1_400).contains(&third), "waited for {third} ms");
        assert_eq!(queue_count(&queues), 0);
        drop(stuck);
        assert_eq!(queue_count(&queues), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn holders_of_overlapping_keys_do_not_deadlock() {
        let (queues, start) = (ConflictQueues::default(), Instant::now());
        let hold = async |names: &[&'static str]| {
            for _ in 0..10 {
                let held = queues.hold(keys(names)).await;
                yield_now().await;
                drop(held);
            }
        };
        tokio::join!(hold(&["a", "b"]), hold(&["b", "c"]), hold(&["c", "a"]));
        assert_eq!(start.elapsed(), Duration::ZERO, "no holder was passed");
        assert_eq!(queue_count(&queues), 0);
    }
}
