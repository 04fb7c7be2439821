//! The wait queue: the order of its contenders, and which contender each event wakes.

mod child_names;
mod handoff;
mod lease_keyed;

use bytes::Bytes;
use coord_core::queue::{Contender, WaitQueue};
use coord_core::{Client, Session, error::PrimitiveError, kv::Put};
use coord_mem::MemBackend;
use coord_testkit::Recorder;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{
    SilentWatches, enqueue_like_go, intercepted, keys, secs, session, session_on, settle,
};
use crate::watch_faults::{UNLIMITED_LIFETIME, WatchFaults};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// Enqueues in the queue `l`.
async fn enqueue(session: &Session) -> Contender {
    WaitQueue::new(session, "l").enqueue("").await.expect("the store is available")
}

/// A contender behind the holder, with a session and a recorder of its own.
struct Waiter {
    session: Session,
    recorder: Recorder,
    contender: Option<Contender>,
}

impl Waiter {
    /// The requests since the last call, without keep-alives, and the number of watch events.
    fn take_cost(&self) -> (String, usize) {
        let mut calls = self.recorder.take();
        calls.0.retain(|call| call.name() != "lease_keep_alive");
        (calls.names(), self.recorder.take_events())
    }

    /// Moves the contender out, for a task that waits with it.
    fn take_contender(&mut self) -> Contender {
        self.contender.take().expect("the contender was not taken before")
    }
}

/// A holder of the queue `l`, and waiters behind it.
async fn holder_and_waiters(store: &Client, count: usize) -> (Contender, Vec<Waiter>) {
    let holder = enqueue(&session(store).await).await;
    let mut waiters = Vec::new();
    for _ in 0..count {
        let recorder = Recorder::new();
        let session = session_on(intercepted(store, recorder.clone())).await;
        let contender = Some(enqueue(&session).await);
        waiters.push(Waiter { session, recorder, contender });
    }
    (holder, waiters)
}

fn take_costs(waiters: &[Waiter]) -> Vec<(String, usize)> {
    waiters.iter().map(Waiter::take_cost).collect()
}

/// How the queue entry of a waiter ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryEnd {
    /// Its future and its contender are dropped.
    Cancelled,
    /// Its lease is revoked.
    Expired,
    /// Another client deletes its key.
    Evicted,
}

/// Ends the queue entry of the waiter at index `ended`, then releases all other contenders in
/// order. Returns what that end cost each waiter.
async fn costs_of_entry_end(
    count: usize,
    ended: usize,
    entry_end: EntryEnd,
    with_child_name: bool,
) -> Result<Vec<(String, usize)>, PrimitiveError> {
    let store = Client::new(MemBackend::new());
    let child_queue = WaitQueue::new(&session(&store).await, "l/below");
    let mut child_contenders = Vec::new();
    if with_child_name {
        child_contenders.push(child_queue.enqueue("").await?);
    }
    let (holder, mut waiters) = holder_and_waiters(&store, count).await;
    if with_child_name {
        child_contenders.push(child_queue.enqueue("").await?);
    }
    let mut ended_key = Bytes::new();
    let (mut remaining_tasks, mut ended_task) = (JoinSet::new(), JoinSet::new());
    for (n, waiter) in waiters.iter_mut().enumerate() {
        let mut contender = waiter.take_contender();
        let tasks = if n == ended {
            ended_key = contender.key().clone();
            &mut ended_task
        } else {
            &mut remaining_tasks
        };
        tasks.spawn(async move { contender.acquired().await.map(|()| contender) });
    }
    // Long enough that each waiter watches its own key too.
    sleep(secs(1)).await;
    take_costs(&waiters);
    match entry_end {
        EntryEnd::Cancelled => ended_task.shutdown().await,
        EntryEnd::Expired => {
            store.lease_revoke(waiters[ended].session.lease_id()).await?;
        }
        EntryEnd::Evicted => {
            store.delete(&ended_key).await?;
        }
    }
    settle().await;
    let costs = take_costs(&waiters);
    assert!(!keys(&store, "l/").await.contains(&ended_key.escape_ascii().to_string()));
    assert!(remaining_tasks.try_join_next().is_none(), "the other waiters still wait");
    release_in_order(holder, remaining_tasks, count - 1).await;
    Ok(costs)
}

/// Releases the holder and then each of `count` waiters, and checks that they acquire in order.
async fn release_in_order(
    holder: Contender,
    mut waiters: JoinSet<Result<Contender, PrimitiveError>>,
    count: usize,
) {
    holder.release().await.expect("the store is available");
    let mut last_token = None;
    for _ in 0..count {
        let next = timeout(secs(5), waiters.join_next()).await.expect("acquires within 5 s");
        let contender = next.expect("a waiter is left").expect("no panic").expect("not lost");
        assert!(last_token < Some(contender.fencing_token()), "acquired out of order");
        last_token = Some(contender.fencing_token());
        contender.release().await.expect("the store is available");
    }
}

#[tokio::test(start_paused = true)]
async fn ended_contender_wakes_only_its_successor() {
    for entry_end in [EntryEnd::Cancelled, EntryEnd::Expired, EntryEnd::Evicted] {
        for with_child_name in [false, true] {
            for count in [2, 9, 199] {
                for ended in [0, count / 2, count - 1] {
                    let costs = costs_of_entry_end(count, ended, entry_end, with_child_name).await;
                    for (n, (calls, events)) in costs.unwrap().into_iter().enumerate() {
                        let case = format!(
                            "waiter {n}, when {ended} of {count} {entry_end:?}, child name: \
                             {with_child_name}"
                        );
                        if n == ended + 1 {
                            // It reads the queue, and watches its new predecessor.
                            assert_eq!((calls.as_str(), events), ("range watch", 1), "{case}");
                        } else if n != ended {
                            assert_eq!((calls.as_str(), events), ("", 0), "{case}");
                        }
                    }
                }
            }
        }
    }
}

/// The response of an enqueue shows only a few of the earlier contenders. A contender behind more
/// contenders must wait for all of them too.
#[tokio::test(start_paused = true)]
async fn contender_waits_for_all_earlier_contenders() {
    for earlier in 1..=8 {
        let store = Client::new(MemBackend::new());
        let (holder, mut waiters) = holder_and_waiters(&store, earlier).await;
        let mut last = waiters.pop().unwrap().contender.unwrap();
        let mut others: Vec<_> =
            waiters.into_iter().filter_map(|waiter| waiter.contender).collect();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move {
            last.acquired().await.unwrap();
            last
        });
        settle().await;
        // The worst order for the last contender: its predecessor is released first, each time.
        while let Some(other) = others.pop() {
            other.release().await.unwrap();
            settle().await;
            assert!(waiting.try_join_next().is_none(), "{} earlier contenders", others.len() + 1);
        }
        holder.release().await.unwrap();
        settle().await;
        assert!(waiting.try_join_next().is_some());
    }
}

/// The keys of all earlier contenders are deleted in one revision, because their session closes.
#[tokio::test(start_paused = true)]
async fn contender_reads_once_when_all_earlier_contenders_end() {
    for earlier in [1, 4, 5, 30] {
        let store = Client::new(MemBackend::new());
        let other_session = session(&store).await;
        let queue = WaitQueue::new(&other_session, "l");
        let others = join_all((0..earlier).map(|_| queue.enqueue(""))).await;
        let recorder = Recorder::new();
        let mut contender = enqueue(&session_on(intercepted(&store, recorder.clone())).await).await;
        recorder.take();
        let (acquired, ()) = while_waiting(timeout(secs(2), contender.acquired()), async {
            other_session.close().await.unwrap();
        })
        .await;
        acquired.expect("acquires at once").unwrap();
        assert_eq!(recorder.take().names(), "watch range", "{earlier} earlier contenders");
        drop(others);
    }
}

/// etcd issues 14641 and 8980: the member that serves a watch is paused, so the watch delivers
/// nothing. A waiter reads its position once each TTL, whatever its position.
#[tokio::test(start_paused = true)]
async fn contender_with_silent_watch_acquires_within_ttl() {
    for earlier in [1, 3, 7] {
        let store = Client::new(MemBackend::new());
        let (holder, others) = holder_and_waiters(&store, earlier - 1).await;
        let recorder = Recorder::new();
        let silent = session_on(intercepted(&store, SilentWatches(recorder.clone()))).await;
        let mut contender = enqueue(&silent).await;
        recorder.take();
        let acquired = timeout(secs(100), contender.acquired());
        let (acquired, ()) = while_waiting_after(secs(25), acquired, async {
            let calls = recorder.take();
            assert_eq!(calls.count("txn") + calls.count("range"), 2, "one read in each 10 s");
            holder.release().await.unwrap();
            for other in others {
                other.contender.unwrap().release().await.unwrap();
            }
            sleep(secs(11)).await;
        })
        .await;
        acquired.expect("a read shows the position").unwrap();
        let calls = recorder.take();
        assert!(calls.count("txn") + calls.count("range") <= 2, "{calls}");
    }
}

/// The predecessor is a Go client, which uses the same key again. A stale member serves the watch,
/// and delivers the deletion of an earlier creation of that key. A contender that acquired on this
/// event would hold the lock together with its predecessor.
#[tokio::test(start_paused = true)]
async fn stale_deletion_of_predecessor_key_is_ignored() {
    for stale_revisions in 0..=4 {
        let store = Client::new(MemBackend::new());
        let (lease, go_key) = enqueue_like_go(&store, "l", "").await;
        store.delete(&go_key).await.unwrap();
        store.put_with(Put::new(&go_key, "").lease(lease)).await.unwrap();
        let stale = WatchFaults::new(store.clone(), || UNLIMITED_LIFETIME);
        let stale = stale.with_stale_first_watch(stale_revisions);
        let mut contender = enqueue(&session_on(Client::new(stale)).await).await;
        let acquired = timeout(secs(30), contender.acquired()).await;
        assert!(acquired.is_err(), "acquired, with a watch {stale_revisions} revisions stale");
        store.delete(&go_key).await.unwrap();
        timeout(secs(1), contender.acquired()).await.expect("acquires at once").unwrap();
    }
}

/// The contender's watch is silent, and only its predecessor is released. The contender may never
/// have read the keys of the other contenders ahead, which still exist.
#[tokio::test(start_paused = true)]
async fn contender_with_released_predecessor_waits_for_the_rest() {
    for earlier in [2, 4, 5, 6, 20] {
        let store = Client::new(MemBackend::new());
        let (holder, mut others) = holder_and_waiters(&store, earlier - 1).await;
        let silent = session_on(intercepted(&store, SilentWatches(Recorder::new()))).await;
        let mut contender = enqueue(&silent).await;
        let predecessor = others.pop().unwrap().contender.unwrap();
        let acquired = timeout(secs(30), contender.acquired());
        let (acquired, ()) = while_waiting_after(secs(5), acquired, async {
            predecessor.release().await.unwrap();
        })
        .await;
        assert!(acquired.is_err(), "acquired behind {} others", earlier - 1);
        holder.release().await.unwrap();
        drop(others);
        timeout(secs(30), contender.acquired()).await.expect("no contender is ahead").unwrap();
    }
}

/// Contenders of one session reuse each other's keys: a contender that enqueues later may get the
/// key of the former predecessor of `last`.
#[tokio::test(start_paused = true)]
async fn contender_with_reused_predecessor_key_acquires() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let mut earlier = Vec::new();
    for _ in 0..6 {
        earlier.push(enqueue(&session).await);
    }
    let predecessor_key = earlier[5].key().clone();
    let mut last = enqueue(&session).await;
    let (acquired, ()) = tokio::join!(last.acquired(), async {
        for contender in earlier {
            settle().await;
            contender.release().await.unwrap();
        }
    });
    acquired.unwrap();

    // Suffixes are reused lowest first: the sixth contender gets the key of the predecessor.
    let mut later: Vec<Contender> = Vec::new();
    while later.last().map(|contender| contender.key()) != Some(&predecessor_key) {
        later.push(enqueue(&session).await);
    }
    last.release().await.unwrap();
    for mut contender in later {
        timeout(secs(1), contender.acquired()).await.expect("it is first").unwrap();
        contender.release().await.unwrap();
    }
}
