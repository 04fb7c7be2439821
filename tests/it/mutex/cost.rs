//! The cost of a mutex, in requests and watch events.

use std::collections::BTreeSet;
use std::time::Duration;

use coord_core::{
    Client, Mutex,
    error::PrimitiveError,
    kv::{Range, Txn},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{intercepted, is_keep_alive, nth, secs, session, session_on, settle};
use crate::while_waiting::{while_waiting, while_waiting_after};

#[tokio::test(start_paused = true)]
async fn uncontended_lock_and_unlock_cost_one_request_each() {
    let recorder = Recorder::new();
    let session = session_on(intercepted(&Client::new(MemBackend::new()), recorder.clone())).await;
    let mutex = Mutex::new(&session, "m");
    recorder.take();
    let guard = mutex.lock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    guard.unlock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    let guard = mutex.try_lock().await.unwrap().unwrap();
    assert_eq!(recorder.take().names(), "txn");
    drop(guard);
    settle().await;
    assert_eq!(recorder.take().names(), "txn", "a drop costs the same as an unlock");
}

#[tokio::test(start_paused = true)]
async fn dropped_guard_with_deleted_key_costs_one_request() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    let mutex = Mutex::new(&session, "m");
    let guard = mutex.lock().await.unwrap();
    let key = guard.key().clone();
    store.delete(&key).await.unwrap();
    recorder.take();
    drop(guard);
    sleep(secs(100)).await;
    let calls = recorder.take();
    assert_eq!(calls.count("txn"), 1, "{calls}");
    assert_eq!(mutex.lock().await.unwrap().key(), &key);
}

#[tokio::test(start_paused = true)]
async fn failed_try_lock_costs_one_request_and_writes_nothing() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    let mutex = Mutex::new(&session, "m");
    let _guard = mutex.lock().await.unwrap();
    let before = store.range(Range::new("m")).await.unwrap().header.revision;
    recorder.take();
    assert!(mutex.try_lock().await.unwrap().is_none());
    assert_eq!(recorder.take().names(), "txn");
    assert_eq!(store.range(Range::new("m")).await.unwrap().header.revision, before);
}

/// Go's package sends five requests, and starts its watch at an older revision, which etcd serves
/// from a loop of 100 ms. Here the watch starts at the current revision, and before the wait the
/// position is read again only if anything was written between the enqueue and the start of the
/// watch.
#[tokio::test(start_paused = true)]
async fn lock_behind_holder_costs_three_or_four_requests() {
    for writes_before_watch in [false, true] {
        let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
        let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
        let watch_delay = Duration::from_millis(if writes_before_watch { 50 } else { 0 });
        let recording = recorder.clone();
        let rule = move |call: &Call| {
            recording.action(call);
            match call {
                Call::Watch(_) => Action::Delay(watch_delay),
                _ => Action::Pass,
            }
        };
        let session = session_on(intercepted(&store, rule)).await;
        recorder.take();
        let waiter = Mutex::new(&session, "m");
        let act = async {
            store.put("other", "").await.unwrap();
            settle().await;
            let expected = if writes_before_watch { "txn watch range" } else { "txn watch" };
            assert_eq!(recorder.take().names(), expected);
            holder.unlock().await.unwrap();
        };
        let (guard, ()) = while_waiting_after(Duration::from_millis(20), waiter.lock(), act).await;
        assert_eq!(recorder.take().names(), "range");
        guard.unwrap().unlock().await.unwrap();
        assert_eq!(recorder.take().names(), "txn");
    }
}

/// During a long wait, the waiter also watches its own key, to detect an eviction, and reads its
/// position once each TTL, in case a watch is silent.
#[tokio::test(start_paused = true)]
async fn long_wait_costs_own_key_watch_and_a_read_per_ttl() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let _holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let recording = recorder.clone();
    let rule = move |call: &Call| {
        if !is_keep_alive(call) {
            recording.action(call);
        }
        Action::Pass
    };
    let session = session_on(intercepted(&store, rule)).await;
    let waiter = Mutex::new(&session, "m");
    let (acquired, ()) = while_waiting(timeout(secs(25), waiter.lock()), async {
        assert_eq!(recorder.take().names(), "lease_grant txn watch");
        settle().await;
        assert_eq!(
            recorder.take().names(),
            "watch",
            "only the watch of its own key: nothing was written"
        );
        sleep(secs(20)).await;
        assert_eq!(recorder.take().names(), "range range", "a read in each TTL");
        store.put("other", "").await.unwrap();
    })
    .await;
    assert!(acquired.is_err());
}

#[tokio::test(start_paused = true)]
async fn rarer_lock_paths_cost_as_documented() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    let mutex = Mutex::new(&session, "m");

    let child_guard = Mutex::new(&session, "m/below").lock().await.unwrap();
    recorder.take();
    let guard = mutex.try_lock().await.unwrap().unwrap();
    assert_eq!(recorder.take().names(), "txn txn", "try_lock while a child name is held");
    child_guard.unlock().await.unwrap();
    recorder.take();

    guard.txn(Txn::new()).await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "a guarded transaction");
    guard.run_while_held(settle()).await.unwrap();
    assert_eq!(recorder.take().names(), "watch", "run_while_held");

    assert!(timeout(secs(1), mutex.lock()).await.is_err());
    settle().await;
    assert_eq!(recorder.take().names(), "txn watch watch txn", "a long wait that is cancelled");
}

/// The predecessor of a waiter is cancelled, and the waiter finds its new predecessor.
#[tokio::test(start_paused = true)]
async fn cancelled_predecessor_costs_one_read_and_one_watch() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let _holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let predecessor = Mutex::new(&session(&store).await, "m");
    let last = Mutex::new(&session_on(intercepted(&store, recorder.clone())).await, "m");
    let cancelled = timeout(secs(1), predecessor.lock());
    let waiting = async {
        settle().await;
        timeout(secs(2), last.lock()).await
    };
    let (cancelled, waited, ()) = tokio::join!(cancelled, waiting, async {
        sleep(secs(1) / 2).await;
        assert_eq!(recorder.take().names(), "lease_grant txn watch watch");
        sleep(secs(1)).await;
        assert_eq!(
            recorder.take().names(),
            "range watch",
            "reads the queue, and watches the holder"
        );
    });
    assert!(cancelled.is_err() && waited.is_err());
}

/// Lets a thousand waiters, each with its own client or all with one, acquire and unlock one mutex.
/// Returns the number of requests and of watch events since the holder unlocked.
async fn cost_of_a_thousand_waiters(in_one_client: bool) -> Result<(usize, usize), PrimitiveError> {
    let (store, recorder, waiters) = (Client::new(MemBackend::new()), Recorder::new(), 1_000);
    let holder_session = session_on(intercepted(&store, recorder.clone())).await;
    let holder = Mutex::new(&holder_session, "m").lock().await?;
    recorder.take();
    let mut tasks = JoinSet::new();
    for _ in 0..waiters {
        let session = if in_one_client {
            holder_session.clone()
        } else {
            session_on(intercepted(&store, recorder.clone())).await
        };
        tasks.spawn(async move {
            let guard = Mutex::new(&session, "m").lock().await?;
            guard.unlock().await?;
            Ok::<_, PrimitiveError>(())
        });
    }
    settle().await;
    let calls = recorder.take();
    let watches = if in_one_client { 0 } else { waiters };
    assert_eq!((calls.count("txn"), calls.count("watch")), (waiters, watches), "to wait");
    assert!(calls.count("range") == 0 && recorder.take_events() == 0);

    holder.unlock().await?;
    for unlocked in tasks.join_all().await {
        unlocked?;
    }
    let calls = recorder.take();
    assert_eq!(calls.count("watch"), 0);
    Ok((calls.count("txn") + calls.count("range"), recorder.take_events()))
}

/// Each release wakes one waiter, so the cost for each waiter does not depend on the length of the
/// queue: one request and one watch to wait; one event and one read to wake up; one request to
/// release.
#[tokio::test(start_paused = true)]
async fn contender_cost_is_constant_with_a_thousand_waiters() {
    let cost = cost_of_a_thousand_waiters(false).await.unwrap();
    assert_eq!(cost, (2_001, 1_000), "a read, an unlock and an event for each");
}

/// The release of a predecessor hands over the position of its successor.
#[tokio::test(start_paused = true)]
async fn thousand_waiters_of_one_client_save_a_request_each() {
    let cost = cost_of_a_thousand_waiters(true).await.unwrap();
    assert_eq!(cost, (1_001, 0), "an unlock for each");
}

/// A deleted key stays in etcd's index until the next compaction, and every read of the queue steps
/// over it. With a new key for each attempt, the ten thousandth lock took ten times as long as the
/// first.
#[tokio::test(start_paused = true)]
async fn sequential_locks_reuse_one_key() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    let mut keys = BTreeSet::new();
    for round in 0..100 {
        let guard = mutex.lock().await.unwrap();
        keys.insert(guard.key().clone());
        assert!(mutex.try_lock().await.unwrap().is_none());
        if round % 3 == 0 {
            drop(guard);
            settle().await;
        } else {
            guard.unlock().await.unwrap();
        }
        drop(mutex.try_lock().await.unwrap().expect("the lock is free"));
        settle().await;
    }
    assert_eq!(keys.len(), 1, "{keys:?}");
}

/// After an enqueue with unknown outcome, cleanup deletes its key, perhaps late. It must not delete
/// the key of a later holder, so that key is not used again.
#[tokio::test(start_paused = true)]
async fn key_of_lock_with_unknown_outcome_is_not_reused() {
    let store = Client::new(MemBackend::new());
    let session = session_on(intercepted(&store, nth("txn", 1, 1, Action::DropResponse))).await;
    let mutex = Mutex::new(&session, "m");
    mutex.lock().await.unwrap_err();
    sleep(secs(30)).await;
    let guard = mutex.lock().await.unwrap();
    assert_eq!(guard.key(), &format!("m/{}-1", session.lease_id()), "the suffix 0 is retired");
}

#[tokio::test(start_paused = true)]
async fn alternating_contenders_of_one_client_watch_nothing() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let client = intercepted(&store, recorder.clone());
    let mutexes = [
        Mutex::new(&session_on(client.clone()).await, "m"),
        Mutex::new(&session_on(client.clone()).await, "m"),
    ];
    recorder.take();
    let mut holder = mutexes[0].lock().await.unwrap();
    for n in 1..50 {
        let unlock = async { holder.unlock().await.unwrap() };
        let lock = mutexes[n % 2].lock();
        let (next, ()) = while_waiting_after(Duration::from_millis(20), lock, unlock).await;
        holder = next.unwrap();
    }
    holder.unlock().await.unwrap();
    let calls = recorder.take();
    assert_eq!(calls.count("watch"), 0);
    assert_eq!(calls.count("txn") + calls.count("range"), 50 + 50, "enqueue, release");
}
