//! Conflict queues: the order in which transactions of one client that conflict on a key try again.
//!
//! When 64 tasks increment one key, each commit makes the other 63 attempts fail. Within one
//! process, waiting costs no request. So a transaction that has conflicted on a key enters the
//! queue of that key, in memory, before its next attempt. Another transaction that reads or commits
//! a key with a queue usually enters the queue too, but never at the isolation level
//! `ReadCommitted`. If it has sent no request yet, it does so at the read, and starts again. A key
//! without conflicts has no queue. While no key has a queue, a transaction only reads one atomic
//! counter, and takes no lock.
//!
//! A queue is a hint, not a guarantee: other clients do not take part, and the compares of the
//! commit detect every conflict.
//!
//! - **All keys at once.** A ticket is for all keys of a transaction, and is granted when all of
//!   them are free. No transaction holds one key while it waits for another key, so none blocks a
//!   key that it does not use yet, and no deadlock occurs. To add a key, a transaction leaves its
//!   queues and enters the queues of all its keys again.
//! - **Order.** First come, first served, with one exception: if a ticket of the queue waits for
//!   another key, later tickets may pass it, [`MAX_PASSES`] times.
//! - **Post-image.** A queue keeps the post-image of a holder's last commit: the keys of its read
//!   set and write set, and the keys that the commit read for the next tickets, all as of the
//!   commit revision. The next holder starts with the newest post-image of its queues and sends no
//!   read. No attempt may see a state older than its transaction. So the holder uses a post-image
//!   only if it is newer than a read of its own, or if the hold that published it began after the
//!   transaction had entered the queue.
//! - **Stuck holder.** A waiter ends a hold that has lasted for one second, for example because a
//!   closure hangs. The former holder continues, and may conflict.
//!
//! ```text
//! ticket   keys     queue of a      queue of b      queue of c      queue of d
//! 1        a b      held            held
//! 2        b c                      waits           waits
//! 3        c d                                      passes 2: held  held
//! 1 ends            (removed)       waits for c     held by 3       held by 3
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Snapshot;
use crate::sync::lock;

/// A waiter ends a hold that has lasted for this time.
const HOLD_TIME_MAX: Duration = Duration::from_secs(1);

/// How often later tickets may pass a ticket.
const MAX_PASSES: u32 = 8;

/// How many waiting tickets of a queue are checked when its key becomes free, and when a later
/// ticket is to pass them.
const MAX_CHECKED_TICKETS: usize = 8;

/// The conflict queues of one client.
#[derive(Debug, Default)]
pub(crate) struct ConflictQueues {
    state: Mutex<State>,
    /// The number of queues, which is read without the lock.
    count: AtomicUsize,
}

/// The number of a ticket, in the order of arrival.
type TicketId = u64;

/// The number of a hold, in the order of the grants.
type HoldId = u64;

#[derive(Debug, Default)]
struct State {
    last_ticket: TicketId,
    last_hold: HoldId,
    queues: BTreeMap<Bytes, KeyQueue>,
    /// The tickets that wait or hold, and the tickets whose hold a waiter has ended.
    tickets: BTreeMap<TicketId, Ticket>,
}

/// The queue of one key. It exists as long as a ticket waits for it or holds it.
#[derive(Debug, Default)]
struct KeyQueue {
    holder: Option<(TicketId, Instant)>,
    waiting: BTreeSet<TicketId>,
    /// The post-image of a holder's last commit, and the number of that hold.
    post_image: Option<(HoldId, Arc<Snapshot>)>,
}

/// A transaction that waits for or holds the queues of its keys.
#[derive(Debug)]
struct Ticket {
    /// In key order.
    keys: Vec<Bytes>,
    /// How often later tickets have passed this one, counted in each queue.
    passes: u32,
    /// Set when the ticket is granted.
    hold: Option<HoldId>,
    granted: Arc<Notify>,
}

/// The queues that a transaction holds, or held until a waiter ended the hold. Dropping it leaves
/// them.
#[derive(Debug, Default)]
pub(crate) struct HeldQueues<'a> {
    entered: Option<Entered<'a>>,
}

/// A ticket in its queues. Dropping it removes the ticket.
#[derive(Debug)]
struct Entered<'a> {
    queues: &'a ConflictQueues,
    ticket: TicketId,
    keys: Vec<Bytes>,
    /// The last hold that was granted before the ticket entered.
    after: HoldId,
}

impl ConflictQueues {
    /// Returns the keys of `keys` that have a queue.
    pub(crate) fn contended_keys<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) -> Vec<Bytes> {
        // The counter may be stale, because a queue is only a hint.
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let state = lock(&self.state);
        keys.filter(|key| state.queues.contains_key(*key)).cloned().collect()
    }

    /// Waits until it holds the queues of all `keys`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queues.
    pub(crate) async fn hold(&self, keys: BTreeSet<Bytes>) -> HeldQueues<'_> {
        let (ticket, after, granted) = self.update(|state| state.enter(&keys));
        let keys = keys.into_iter().collect();
        let entered = Entered { queues: self, ticket, keys, after };
        while let Some(wait_max) = self.update(|state| state.end_overdue(ticket)) {
            // After a notification or a timeout, the state decides.
            let _ = timeout(wait_max, granted.notified()).await;
        }
        HeldQueues { entered: Some(entered) }
    }

    fn update<T>(&self, update: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let result = update(&mut state);
        self.count.store(state.queues.len(), Ordering::Relaxed);
        result
    }
}

impl State {
    /// Adds a ticket for `keys`, and grants it if all keys are free.
    fn enter(&mut self, keys: &BTreeSet<Bytes>) -> (TicketId, HoldId, Arc<Notify>) {
        self.last_ticket += 1;
        let (ticket, granted) = (self.last_ticket, Arc::<Notify>::default());
        for key in keys {
            self.queues.entry(key.clone()).or_default().waiting.insert(ticket);
        }
        let (keys, after) = (keys.iter().cloned().collect(), self.last_hold);
        let notify = Arc::clone(&granted);
        self.tickets.insert(ticket, Ticket { keys, passes: 0, hold: None, granted: notify });
        self.grant_if_free(ticket);
        (ticket, after, granted)
    }

    /// Grants a ticket if all its keys are free and it may pass all earlier tickets.
    fn grant_if_free(&mut self, id: TicketId) -> bool {
        let Some(ticket) = self.tickets.get(&id) else { return false };
        let keys = ticket.keys.clone();
        let earlier = |queue: &KeyQueue| -> Vec<_> {
            queue.waiting.range(..id).take(MAX_CHECKED_TICKETS).copied().collect()
        };
        let is_free = keys.iter().filter_map(|key| self.queues.get(key)).all(|queue| {
            let is_blocking =
                |other| self.tickets.get(other).is_some_and(|ticket| ticket.passes >= MAX_PASSES);
            queue.holder.is_none() && !earlier(queue).iter().any(is_blocking)
        });
        if !is_free {
            return false;
        }
        self.last_hold += 1;
        for key in &keys {
            let Some(queue) = self.queues.get_mut(key) else { continue };
            queue.waiting.remove(&id);
            queue.holder = Some((id, Instant::now()));
            for other in queue.waiting.range(..id).take(MAX_CHECKED_TICKETS) {
                self.tickets.entry(*other).and_modify(|ticket| ticket.passes += 1);
            }
        }
        let hold = Some(self.last_hold);
        self.tickets.entry(id).and_modify(|ticket| {
            ticket.hold = hold;
            ticket.granted.notify_one();
        });
        true
    }

    /// Grants the next ticket of the key's queue that can be granted, and removes an unused queue.
    fn grant_next(&mut self, key: &Bytes) {
        let Some(queue) = self.queues.get(key) else { return };
        let waiting: Vec<_> = queue.waiting.iter().take(MAX_CHECKED_TICKETS).copied().collect();
        let is_unused = waiting.is_empty() && queue.holder.is_none();
        if is_unused {
            self.queues.remove(key);
        } else {
            let _ = waiting.into_iter().any(|ticket| self.grant_if_free(ticket));
        }
    }

    /// Removes a ticket.
    fn remove(&mut self, id: TicketId) {
        let Some(ticket) = self.tickets.remove(&id) else { return };
        for key in &ticket.keys {
            let Some(queue) = self.queues.get_mut(key) else { continue };
            queue.waiting.remove(&id);
            queue.holder = queue.holder.filter(|(holder, _)| *holder != id);
        }
        ticket.keys.iter().for_each(|key| self.grant_next(key));
    }

    /// Ends the overdue holds that the ticket waits for. Returns the time to wait before the next
    /// call; `None` if the ticket is granted.
    fn end_overdue(&mut self, id: TicketId) -> Option<Duration> {
        let mut wait_max = HOLD_TIME_MAX;
        for key in self.tickets.get(&id)?.keys.clone() {
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            let Some((_, since)) = queue.holder.filter(|(holder, _)| *holder != id) else {
                continue;
            };
            let left = HOLD_TIME_MAX.saturating_sub(since.elapsed());
            if left.is_zero() {
                queue.holder = None;
                self.grant_next(&key);
            } else {
                wait_max = wait_max.min(left);
            }
        }
        self.tickets.get(&id)?.hold.is_none().then_some(wait_max)
    }
}

impl HeldQueues<'_> {
    /// The keys, in order.
    pub(crate) fn keys(&self) -> &[Bytes] {
        self.entered.as_ref().map_or(&[], |entered| &entered.keys)
    }

    /// Whether the queue of `key` is held.
    pub(crate) fn contains(&self, key: &Bytes) -> bool {
        self.keys().binary_search(key).is_ok()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.entered.is_none()
    }

    /// Replaces the transaction's snapshot `read` by the newest post-image that is not older than
    /// the transaction: newer than `read`, or of a hold that began after the transaction had
    /// entered the queue.
    pub(crate) fn take_post_image(&mut self, read: &mut Option<Snapshot>) {
        let Some(Entered { queues, keys, after, .. }) = &self.entered else { return };
        let read_at = read.as_ref().map(|read| read.revision);
        let state = lock(&queues.state);
        let post_images = keys.iter().filter_map(|key| state.queues.get(key)?.post_image.as_ref());
        let usable = post_images.filter(|(hold, post_image)| match read_at {
            Some(read_at) => post_image.revision > read_at,
            None => hold > after,
        });
        if let Some((_, newest)) = usable.max_by_key(|(_, post_image)| post_image.revision) {
            *read = Some(Snapshot::clone(newest));
        }
    }

    /// The keys that the commit of this holder also reads for its post-image, so that the next
    /// holder need not: the keys of the tickets that may be granted next, without the keys that
    /// this transaction reads or writes; none if there are more than `limit`.
    pub(crate) fn wanted_keys(
        &self,
        reads_or_writes: impl Fn(&Bytes) -> bool,
        limit: usize,
    ) -> BTreeSet<Bytes> {
        let Some(Entered { queues, keys, .. }) = &self.entered else { return BTreeSet::new() };
        let state = lock(&queues.state);
        let queues = keys.iter().filter_map(|key| state.queues.get(key));
        let next = queues.flat_map(|queue| queue.waiting.iter().take(2));
        let wanted = next.filter_map(|ticket| state.tickets.get(ticket)).flat_map(|t| &t.keys);
        let wanted: BTreeSet<_> = wanted.filter(|key| !reads_or_writes(key)).cloned().collect();
        if wanted.len() > limit { BTreeSet::new() } else { wanted }
    }

    /// Publishes the post-image of a commit for the next holders.
    pub(crate) fn publish_post_image(&mut self, post_image: Snapshot) {
        let Some(Entered { queues, ticket, keys, .. }) = &self.entered else { return };
        let (post_image, mut state) = (Arc::new(post_image), lock(&queues.state));
        let Some(hold) = state.tickets.get(ticket).and_then(|ticket| ticket.hold) else { return };
        for key in keys {
            state.queues.entry(key.clone()).and_modify(|queue| {
                queue.post_image = Some((hold, Arc::clone(&post_image)));
            });
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.queues.update(|state| state.remove(self.ticket));
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
        assert_eq!(count, lock(&queues.state).queues.len());
        count
    }

    #[tokio::test(start_paused = true)]
    async fn queue_without_users_is_removed() {
        let queues = ConflictQueues::default();
        let all = keys(&["a", "b"]);
        assert!(queues.contended_keys(all.iter()).is_empty());
        let held = queues.hold(keys(&["b"])).await;
        assert_eq!(queues.contended_keys(all.iter()), ["b"]);
        assert!(
            held.contains(&Bytes::from_static(b"b")) && !held.contains(&Bytes::from_static(b"a"))
        );

        let waiter = timeout(Duration::from_millis(10), queues.hold(all.clone()));
        assert!(waiter.await.is_err(), "b is held");
        assert_eq!(queue_count(&queues), 1, "the dropped waiter has left a and b");
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
                first.publish_post_image(snapshot(post_image));
                drop(first);
            });
            let mut start = Some(snapshot(read));
            second.take_post_image(&mut start);
            assert_eq!(start.expect("something was read").revision, Revision(expected));
        }
    }

    /// The commit of a hold in progress may be older than the transaction.
    #[tokio::test(start_paused = true)]
    async fn post_image_of_hold_in_progress_is_not_used_without_a_read() {
        let queues = ConflictQueues::default();
        let mut first = queues.hold(keys(&["a"])).await;
        let hold = async |post_image| {
            let mut held = queues.hold(keys(&["a"])).await;
            let mut start = None;
            held.take_post_image(&mut start);
            held.publish_post_image(snapshot(post_image));
            start.map(|start| start.revision)
        };
        let (second, third, ()) = tokio::join!(hold(6), hold(7), async {
            yield_now().await;
            first.publish_post_image(snapshot(5));
            drop(first);
        });
        assert_eq!((second, third), (None, Some(Revision(6))));
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_end_stuck_hold_one_after_the_other() {
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
        assert_eq!(start.elapsed(), Duration::ZERO, "no hold was ended");
        assert_eq!(queue_count(&queues), 0);
    }
}
