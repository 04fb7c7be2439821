//! What a mutex costs, in requests and events.

use coord_core::error::PrimitiveError;
use coord_mem::MemBackend;
use std::collections::BTreeSet;
use std::time::Duration;

use coord_core::{
    Client, Mutex,
    kv::{Range, Txn},
};
use coord_testkit::{Action, Call, Recorder, Rule as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{behind, is_keep_alive, nth, secs, session, session_on, settle};

#[tokio::test(start_paused = true)]
async fn uncontended_lock_and_unlock_cost_one_request_each() {
    let record = Recorder::new();
    let session = session_on(behind(&Client::new(MemBackend::new()), record.clone())).await;
    let mutex = Mutex::new(&session, "m");
    record.take();
    let guard = mutex.lock().await.unwrap();
    assert_eq!(record.take().names(), "txn");
    guard.unlock().await.unwrap();
    assert_eq!(record.take().names(), "txn");
    let guard = mutex.try_lock().await.unwrap().unwrap();
    assert_eq!(record.take().names(), "txn");
    drop(guard);
    settle().await;
    assert_eq!(record.take().names(), "txn", "dropping costs what unlocking costs");
}

#[tokio::test(start_paused = true)]
async fn dropped_guard_with_deleted_key_costs_one_request() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(behind(&store, record.clone())).await;
    let mutex = Mutex::new(&session, "m");
    let guard = mutex.lock().await.unwrap();
    let key = guard.key().clone();
    store.delete(&key).await.unwrap();
    record.take();
    drop(guard);
    sleep(secs(100)).await;
    let calls = record.take();
    assert_eq!(calls.count("txn"), 1, "{calls}");
    assert_eq!(mutex.lock().await.unwrap().key(), &key);
}

#[tokio::test(start_paused = true)]
async fn failed_try_lock_costs_one_request_and_writes_nothing() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(behind(&store, record.clone())).await;
    let mutex = Mutex::new(&session, "m");
    let _held = mutex.lock().await.unwrap();
    let before = store.range(Range::new("m")).await.unwrap().header.revision;
    record.take();
    assert!(mutex.try_lock().await.unwrap().is_none());
    assert_eq!(record.take().names(), "txn");
    assert_eq!(store.range(Range::new("m")).await.unwrap().header.revision, before);
}

/// Go's package takes five requests for this, and is woken by a watch that etcd serves from a loop
/// of 100 ms. Here the watch begins at "from now on", and a look is needed only if anything was
/// written between joining and its beginning.
#[tokio::test(start_paused = true)]
async fn lock_behind_holder_costs_three_or_four_requests() {
    for busy in [false, true] {
        let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
        let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
        let late = Duration::from_millis(if busy { 50 } else { 0 });
        let recorded = record.clone();
        let rule = move |call: &Call| {
            recorded.action(call);
            if matches!(call, Call::Watch(_)) { Action::Delay(late) } else { Action::Pass }
        };
        let session = session_on(behind(&store, rule)).await;
        record.take();
        let waiter = Mutex::new(&session, "m");
        let (guard, ()) = tokio::join!(waiter.lock(), async {
            sleep(Duration::from_millis(20)).await;
            store.put("other", "").await.unwrap();
            settle().await;
            assert_eq!(record.take().names(), if busy { "txn watch range" } else { "txn watch" });
            holder.unlock().await.unwrap();
        });
        assert_eq!(record.take().names(), "range");
        guard.unwrap().unlock().await.unwrap();
        assert_eq!(record.take().names(), "txn");
    }
}

/// Whoever waits for long watches its own key too, and looks if it may have missed anything.
#[tokio::test(start_paused = true)]
async fn long_wait_costs_own_key_watch_and_a_read_per_ttl() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let _held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let recorded = record.clone();
    let rule = move |call: &Call| {
        if !is_keep_alive(call) {
            recorded.action(call);
        }
        Action::Pass
    };
    let session = session_on(behind(&store, rule)).await;
    let waiter = Mutex::new(&session, "m");
    let wait = timeout(secs(25), waiter.lock());
    let (waited, ()) = tokio::join!(wait, async {
        settle().await;
        assert_eq!(record.take().names(), "lease_grant txn watch");
        settle().await;
        assert_eq!(record.take().names(), "watch", "its own key; nothing was written meanwhile");
        sleep(secs(20)).await;
        assert_eq!(record.take().names(), "range range", "a read in each TTL");
        store.put("other", "").await.unwrap();
    });
    assert!(waited.is_err());
}

#[tokio::test(start_paused = true)]
async fn rarer_lock_paths_cost_as_documented() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(behind(&store, record.clone())).await;
    let mutex = Mutex::new(&session, "m");

    let below = Mutex::new(&session, "m/below").lock().await.unwrap();
    record.take();
    let guard = mutex.try_lock().await.unwrap().unwrap();
    assert_eq!(record.take().names(), "txn txn", "a try above a lock that is held");
    below.unlock().await.unwrap();
    record.take();

    guard.txn(Txn::new()).await.unwrap();
    assert_eq!(record.take().names(), "txn", "a guarded transaction");
    guard.run_while_held(settle()).await.unwrap();
    assert_eq!(record.take().names(), "watch", "work that is to stop when the lock is lost");

    assert!(timeout(secs(1), mutex.lock()).await.is_err());
    settle().await;
    assert_eq!(record.take().names(), "txn watch watch txn", "waiting for long, and giving up");
}

/// Whoever stood before a waiter gives up: the waiter finds the next one to wait for.
#[tokio::test(start_paused = true)]
async fn leaving_predecessor_costs_one_read_and_one_watch() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let _held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let (one, other) = (session(&store).await, session_on(behind(&store, record.clone())).await);
    let (neighbour, last) = (Mutex::new(&one, "m"), Mutex::new(&other, "m"));
    let neighbour = timeout(secs(1), neighbour.lock());
    let last = async {
        settle().await;
        timeout(secs(2), last.lock()).await
    };
    let (gave_up, waited, ()) = tokio::join!(neighbour, last, async {
        sleep(secs(1) / 2).await;
        assert_eq!(record.take().names(), "lease_grant txn watch watch");
        sleep(secs(1)).await;
        assert_eq!(record.take().names(), "range watch", "reads the queue, and watches the holder");
    });
    assert!(gave_up.is_err() && waited.is_err());
}

/// A thousand who wait for one lock, each in a process of its own or all in one: what they ask of
/// the store when the holder leaves, until all have been served, and the events they are told.
async fn thousand_are_served(in_one_process: bool) -> (usize, usize) {
    let (store, record, waiters) = (Client::new(MemBackend::new()), Recorder::new(), 1_000);
    let process = session_on(behind(&store, record.clone())).await;
    let holder = Mutex::new(&process, "m").lock().await.expect("the store is there");
    record.take();
    let mut line = JoinSet::new();
    for _ in 0..waiters {
        let own = if in_one_process {
            process.clone()
        } else {
            session_on(behind(&store, record.clone())).await
        };
        line.spawn(async move {
            let guard = Mutex::new(&own, "m").lock().await?;
            guard.unlock().await?;
            Ok::<_, PrimitiveError>(())
        });
    }
    settle().await;
    let calls = record.take();
    let watches = if in_one_process { 0 } else { waiters };
    assert_eq!((calls.count("txn"), calls.count("watch")), (waiters, watches), "to wait");
    assert!(calls.count("range") == 0 && record.take_events() == 0);

    holder.unlock().await.expect("the store is there");
    for served in line.join_all().await {
        served.expect("the store is there");
    }
    let calls = record.take();
    assert_eq!(calls.count("watch"), 0);
    (calls.count("txn") + calls.count("range"), record.take_events())
}

/// Each release wakes one waiter, so a line of a thousand costs each of them what a line of a few
/// costs: to wait, one request and a watch, none of whose events is another's; to be woken, one
/// event and one look; to leave, one request.
#[tokio::test(start_paused = true)]
async fn contender_cost_is_constant_with_a_thousand_waiters() {
    assert_eq!(thousand_are_served(false).await, (2_001, 1_000), "a look, an unlock, an event");
}

/// In one process each is served by what the one before it has seen when it left.
#[tokio::test(start_paused = true)]
async fn thousand_waiters_of_one_client_save_a_request_each() {
    assert_eq!(thousand_are_served(true).await, (1_001, 0), "an unlock");
}

/// A key that was deleted stays in etcd's index until the next compaction, and every read of the
/// line passes it by: with a key of its own for each attempt, the ten thousandth lock took ten
/// times as long as the first.
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
        drop(mutex.try_lock().await.unwrap().expect("nobody has it"));
        settle().await;
    }
    assert_eq!(keys.len(), 1, "{keys:?}");
}

/// A join whose answer was lost, and a deletion of its key that is late: the deletion must not hit
/// a later holder that has the same key, so that key is not used again.
#[tokio::test(start_paused = true)]
async fn key_of_lock_with_unknown_outcome_is_not_reused() {
    let store = Client::new(MemBackend::new());
    let session = session_on(behind(&store, nth("txn", 1, 1, Action::DropResponse))).await;
    let mutex = Mutex::new(&session, "m");
    mutex.lock().await.unwrap_err();
    sleep(secs(30)).await;
    let guard = mutex.lock().await.unwrap();
    assert_eq!(guard.key(), &format!("m/{}-1", session.lease_id()), "0 is burnt");
}

/// Two contenders of one client take turns: neither watches the other.
#[tokio::test(start_paused = true)]
async fn alternating_contenders_of_one_client_watch_nothing() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let client = behind(&store, record.clone());
    let mutexes = [
        Mutex::new(&session_on(client.clone()).await, "m"),
        Mutex::new(&session_on(client.clone()).await, "m"),
    ];
    record.take();
    let mut held = mutexes[0].lock().await.unwrap();
    for turn in 1..50 {
        let (next, ()) = tokio::join!(mutexes[turn % 2].lock(), async {
            sleep(Duration::from_millis(20)).await;
            held.unlock().await.unwrap();
        });
        held = next.unwrap();
    }
    held.unlock().await.unwrap();
    let calls = record.take();
    assert_eq!(calls.count("watch"), 0);
    assert_eq!(calls.count("txn") + calls.count("range"), 50 + 50, "enqueue, release");
}
