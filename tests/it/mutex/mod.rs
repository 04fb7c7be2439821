//! What a mutex promises: exclusion, order, cost.

mod cancel;
mod loss;
mod storm;

use std::sync::{Arc, Mutex as StdMutex};

use coord_core::{
    Compact, Compare, CompareOp, ErrorKind, KvBackend as _, KvBackendExt as _, LeaseGrant, Mutex,
    PrimitiveError, Put, Range, Txn,
};
use coord_mem::MemBackend;
use coord_testkit::Record;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{behind, keys, secs, session, session_on, settle};

#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_the_order_in_which_they_came() {
    let store = MemBackend::new();
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let served = Arc::new(StdMutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for n in 0..20 {
        let (mutex, served) = (Mutex::new(&session(&store).await, "m"), Arc::clone(&served));
        waiters.spawn(async move {
            let guard = mutex.lock().await.unwrap();
            served.lock().unwrap().push((n, guard.fencing_token()));
            sleep(secs(1)).await;
            guard.unlock().await.unwrap();
        });
        settle().await;
    }
    holder.unlock().await.unwrap();
    waiters.join_all().await;
    let served = served.lock().unwrap();
    assert_eq!(served.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(served.is_sorted_by(|a, b| a.1 < b.1), "fencing tokens grow: {served:?}");
}

#[tokio::test(start_paused = true)]
async fn two_handles_of_one_session_exclude_each_other() {
    let store = MemBackend::new();
    let session = session(&store).await;
    let (one, two) = (Mutex::new(&session, "m"), Mutex::new(&session, "m"));
    let guard = one.lock().await.unwrap();
    assert!(two.try_lock().await.unwrap().is_none());
    assert!(timeout(secs(60), two.lock()).await.is_err());
    guard.unlock().await.unwrap();
    two.lock().await.unwrap().unlock().await.unwrap();
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

/// etcd issue 6278, and a held `p/q` that blocks `p` in Go's package: names that nest are two
/// locks, in whatever order they are taken, tried or waited for.
#[tokio::test(start_paused = true)]
async fn names_that_nest_do_not_collide() {
    let store = MemBackend::new();
    let session = session(&store).await;
    let (outer, inner) = (Mutex::new(&session, "p"), Mutex::new(&session, "p/q"));
    let hex = Mutex::new(&session, "p/a1");

    let held_inner = inner.lock().await.unwrap();
    let held_hex = hex.lock().await.unwrap();
    let held_outer = timeout(secs(1), outer.lock()).await.expect("nobody holds p").unwrap();
    assert!(outer.try_lock().await.unwrap().is_none(), "held by ourselves");
    assert!(inner.try_lock().await.unwrap().is_none());

    // A waiter for p, with a contender of another line created between it and the holder.
    let waiting = tokio::join!(
        async {
            settle().await;
            let guard = outer.lock().await.unwrap();
            guard.unlock().await.unwrap();
        },
        async {
            let other = Mutex::new(&session, "p/z").lock().await.unwrap();
            settle().await;
            settle().await;
            held_outer.unlock().await.unwrap();
            settle().await;
            other.unlock().await.unwrap();
        }
    );
    assert_eq!(waiting, ((), ()));
    let tried = outer.try_lock().await.unwrap().expect("only lines below are held");
    tried.unlock().await.unwrap();
    drop((held_inner, held_hex));
    settle().await;
    assert_eq!(keys(&store, "p/").await, [""; 0]);
}

/// Go's clients use the key `name/<lease>` and the order of create revisions: we stand in one line.
#[tokio::test(start_paused = true)]
async fn contender_of_go_stands_in_the_same_line() {
    let store = MemBackend::new();
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    let go = format!("m/{lease}");
    store.put_with(Put::new(&go, "").lease(lease)).await.unwrap();

    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    assert!(mutex.try_lock().await.unwrap().is_none());
    let (guard, ()) = tokio::join!(mutex.lock(), async {
        settle().await;
        store.delete(&go).await.unwrap();
    });
    let key = guard.unwrap().key().clone();
    assert_eq!(key, format!("m/{}-1", session.lease_id()), "their own layout, and a number");
}

#[tokio::test(start_paused = true)]
async fn uncontended_lock_and_unlock_cost_one_request_each() {
    let record = Record::new();
    let session = session_on(behind(&MemBackend::new(), record.clone())).await;
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
async fn failed_try_lock_costs_one_request_and_writes_nothing() {
    let (store, record) = (MemBackend::new(), Record::new());
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
/// of 100 ms. Here the watch begins before the look, at "from now on".
#[tokio::test(start_paused = true)]
async fn lock_behind_one_holder_costs_four_requests_and_two_watches() {
    let (store, record) = (MemBackend::new(), Record::new());
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let session = session_on(behind(&store, record.clone())).await;
    record.take();
    let waiter = Mutex::new(&session, "m");
    let (guard, ()) = tokio::join!(waiter.lock(), async {
        settle().await;
        assert_eq!(record.take().names(), "txn watch watch range");
        holder.unlock().await.unwrap();
    });
    assert_eq!(record.take().names(), "range");
    guard.unwrap().unlock().await.unwrap();
    assert_eq!(record.take().names(), "txn");
}

#[tokio::test(start_paused = true)]
async fn other_paths_cost_what_the_docs_say() {
    let (store, record) = (MemBackend::new(), Record::new());
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
    assert_eq!(record.take().names(), "txn watch watch range txn", "waiting, and giving up");
}

/// Whoever stood before a waiter gives up: the waiter finds the next one to wait for.
#[tokio::test(start_paused = true)]
async fn neighbour_that_leaves_costs_its_successor_a_watch_and_two_looks() {
    let (store, record) = (MemBackend::new(), Record::new());
    let _held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let (one, other) = (session(&store).await, session_on(behind(&store, record.clone())).await);
    let (neighbour, last) = (Mutex::new(&one, "m"), Mutex::new(&other, "m"));
    let neighbour = timeout(secs(1), neighbour.lock());
    let last = async {
        settle().await;
        timeout(secs(2), last.lock()).await
    };
    let (gave_up, waited, ()) = tokio::join!(neighbour, last, async {
        settle().await;
        settle().await;
        assert_eq!(record.take().names(), "lease_grant txn watch watch range");
        sleep(secs(1)).await;
        assert_eq!(record.take().names(), "range watch range");
    });
    assert!(gave_up.is_err() && waited.is_err());
}

/// Each release wakes one waiter, so a line of many costs each of them what a line of two costs.
#[tokio::test(start_paused = true)]
async fn cost_of_waiting_does_not_grow_with_the_line() {
    let (store, record) = (MemBackend::new(), Record::new());
    let kv = behind(&store, record.clone());
    let session = session_on(kv).await;
    let waiters = 100;
    let holder = Mutex::new(&session, "m").lock().await.unwrap();
    let mut line = JoinSet::new();
    for _ in 0..waiters {
        let mutex = Mutex::new(&session, "m");
        line.spawn(async move { mutex.lock().await.unwrap().unlock().await.unwrap() });
    }
    settle().await;
    record.take();
    holder.unlock().await.unwrap();
    line.join_all().await;
    let calls = record.take();
    assert_eq!(calls.count("range"), waiters, "one look for each that was woken");
    assert_eq!(calls.count("txn"), waiters + 1, "one unlock each");
    assert_eq!(calls.count("watch"), 0);
}

#[tokio::test(start_paused = true)]
async fn compaction_while_waiting_is_not_noticed() {
    let store = MemBackend::new();
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter = Mutex::new(&session(&store).await, "m");
    let (guard, ()) = tokio::join!(waiter.lock(), async {
        settle().await;
        let revision = store.put("other", "1").await.unwrap().header.revision;
        store.compact(Compact::new(revision)).await.unwrap();
        settle().await;
        holder.unlock().await.unwrap();
    });
    guard.unwrap().unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn guarded_transaction_keeps_its_own_conditions_and_answers() {
    let store = MemBackend::new();
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let create = Txn::new()
        .when([Compare::absent("a")])
        .and_then([Put::new("a", "1")])
        .or_else([Range::new("a")]);
    let created = guard.txn(create.clone()).await.unwrap();
    assert!(created.succeeded);
    assert_eq!(store.get("a").await.unwrap().unwrap().mod_revision, created.header.revision);
    let again = guard.txn(create).await.unwrap();
    assert!(!again.succeeded, "its own condition, not the lock's");
    assert_eq!(again.responses[0].as_range().unwrap().kvs[0].value, "1");
}

#[tokio::test(start_paused = true)]
async fn guarded_transaction_has_one_operation_less_than_the_limit() {
    let store = MemBackend::new();
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let puts = |n: usize| Txn::new().and_then((0..n).map(|i| Put::new(format!("k{i}"), "")));
    guard.txn(puts(127)).await.unwrap();
    let error = guard.txn(puts(128)).await.unwrap_err();
    assert!(error.to_string().contains("128 operations"), "{error}");
    let all = Txn::new().when([guard.is_owner()]).and_then(puts(128).success);
    store.txn(all).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn backend_error_of_a_lock_is_handed_on_and_leaves_no_key() {
    let store = MemBackend::new();
    let session = session(&store).await;
    let too_long = "m".repeat(2 << 20);
    let error = Mutex::new(&session, too_long.as_str()).lock().await.unwrap_err();
    let PrimitiveError::Backend(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::RequestTooLarge);
    assert_eq!(keys(&store, "m").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn is_owner_compares_the_create_revision_of_the_key() {
    let store = MemBackend::new();
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let token = guard.fencing_token();
    let expected = Compare::create_revision(guard.key(), CompareOp::Equal, token.0);
    assert_eq!(guard.is_owner(), expected);
    assert_eq!(guard.header().revision, token.0);
    let kv = store.get(guard.key()).await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.lease), (token.0, Some(guard.session().lease_id())));
}

/// Futures and guards can be moved into tasks: this is checked by the compiler.
#[tokio::test(start_paused = true)]
async fn guards_and_futures_can_be_sent_to_tasks() {
    let session = session(&MemBackend::new()).await;
    let mutex = Mutex::new(&session, "m");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let guard = mutex.lock().await.unwrap();
        let done = guard.run_while_held(async { 1 }).await;
        guard.txn(Txn::new()).await.unwrap();
        guard.unlock().await.unwrap();
        done.unwrap()
    });
    assert_eq!(tasks.join_all().await, [1]);
}
