//! The mutex: mutual exclusion, the order of waiters, and guarded transactions.

mod cancellation;
mod cost;
mod loss;
mod overwritten_keys;
mod random_faults;
mod restored_store;

use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use coord_core::{
    Client, Mutex,
    error::{ErrorKind, LossReason, PrimitiveError},
    kv::{Compact, Compare, CompareOp, Put, Range, Txn},
};
use coord_mem::MemBackend;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{enqueue_like_go, keys, secs, session, settle};
use crate::while_waiting::{while_waiting, while_waiting_after};

#[tokio::test(start_paused = true)]
async fn mutex_waiters_acquire_in_enqueue_order() {
    let store = Client::new(MemBackend::new());
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let acquired = Arc::new(StdMutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for n in 0..20 {
        let (mutex, acquired) = (Mutex::new(&session(&store).await, "m"), Arc::clone(&acquired));
        waiters.spawn(async move {
            let guard = mutex.lock().await.unwrap();
            acquired.lock().unwrap().push((n, guard.fencing_token()));
            sleep(secs(1)).await;
            guard.unlock().await.unwrap();
        });
        settle().await;
    }
    holder.unlock().await.unwrap();
    waiters.join_all().await;
    let acquired = acquired.lock().unwrap();
    assert_eq!(acquired.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(acquired.is_sorted_by(|a, b| a.1 < b.1), "fencing tokens increase: {acquired:?}");
}

#[tokio::test(start_paused = true)]
async fn two_handles_of_one_session_exclude_each_other() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let (first, second) = (Mutex::new(&session, "m"), Mutex::new(&session, "m"));
    let guard = first.lock().await.unwrap();
    assert!(second.try_lock().await.unwrap().is_none());
    assert!(timeout(secs(60), second.lock()).await.is_err());
    guard.unlock().await.unwrap();
    second.lock().await.unwrap().unlock().await.unwrap();
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

/// A scheduled job runs on one machine only if the lock outlasts the difference of the machines'
/// clocks. A job that finished sooner ran again on a machine whose clock was late.
#[tokio::test(start_paused = true)]
async fn unlock_after_holds_the_lock_for_the_minimum() {
    let store = Client::new(MemBackend::new());
    let other = Mutex::new(&session(&store).await, "m");
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let acquired_at = Instant::now();
    sleep(secs(10)).await;
    let unlock = guard.unlock_after(secs(300));
    let (unlocked, is_free) =
        while_waiting_after(secs(289), unlock, async { other.try_lock().await.unwrap().is_some() })
            .await;
    unlocked.unwrap();
    assert!(!is_free, "held for 300 s since it was acquired");
    assert_eq!(acquired_at.elapsed(), secs(300));
    let guard = other.try_lock().await.unwrap().expect("the lock is free");
    sleep(secs(20)).await;
    guard.unlock_after(secs(20)).await.unwrap();
    assert_eq!(acquired_at.elapsed(), secs(320), "no wait after the minimum has passed");
}

#[tokio::test(start_paused = true)]
async fn unlock_after_reports_loss_and_unlocks_when_dropped() {
    let store = Client::new(MemBackend::new());
    let mutex = Mutex::new(&session(&store).await, "m");
    let guard = mutex.lock().await.unwrap();
    assert!(timeout(secs(1), guard.unlock_after(secs(300))).await.is_err());
    settle().await;
    let guard = mutex.try_lock().await.unwrap().expect("dropping the future unlocks");
    let (acquired_at, key) = (Instant::now(), guard.key().clone());
    let unlock = guard.unlock_after(Duration::MAX);
    let (unlocked, deleted) = while_waiting_after(secs(1), unlock, store.delete(key)).await;
    deleted.unwrap();
    assert_eq!(unlocked.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert_eq!(acquired_at.elapsed(), secs(1));
}

/// etcd issue 6278: in Go's package a held `p/q` blocks `p`. Here they are two locks, in whatever
/// order they are acquired, tried and waited for.
#[tokio::test(start_paused = true)]
async fn child_name_is_a_separate_mutex() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let (parent, child) = (Mutex::new(&session, "p"), Mutex::new(&session, "p/q"));
    // This child name has the form of a lease id.
    let hex_child = Mutex::new(&session, "p/a1");

    let child_guard = child.lock().await.unwrap();
    let hex_child_guard = hex_child.lock().await.unwrap();
    let parent_guard = timeout(secs(1), parent.lock()).await.expect("p is free").unwrap();
    assert!(parent.try_lock().await.unwrap().is_none(), "held by this session");
    assert!(child.try_lock().await.unwrap().is_none());

    // The key of `p/z` is created between the keys of the holder and the waiter of `p`.
    let outputs = tokio::join!(
        async {
            settle().await;
            let guard = parent.lock().await.unwrap();
            guard.unlock().await.unwrap();
        },
        async {
            let other = Mutex::new(&session, "p/z").lock().await.unwrap();
            settle().await;
            settle().await;
            parent_guard.unlock().await.unwrap();
            settle().await;
            other.unlock().await.unwrap();
        }
    );
    assert_eq!(outputs, ((), ()));
    let tried = parent.try_lock().await.unwrap().expect("only child names are held");
    tried.unlock().await.unwrap();
    drop((child_guard, hex_child_guard));
    settle().await;
    assert_eq!(keys(&store, "p/").await, [""; 0]);
}

/// Go's clients use the key `name/<lease>`, in the order of create revisions.
#[tokio::test(start_paused = true)]
async fn go_contender_shares_the_mutex_queue() {
    let store = Client::new(MemBackend::new());
    let (_, go_key) = enqueue_like_go(&store, "m", "").await;
    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    assert!(mutex.try_lock().await.unwrap().is_none());
    let (guard, deleted) = while_waiting(mutex.lock(), store.delete(&go_key)).await;
    deleted.unwrap();
    let key = guard.unwrap().key().clone();
    assert_eq!(key, format!("m/{}-0", session.lease_id()), "Go's layout with a suffix");
}

#[tokio::test(start_paused = true)]
async fn lock_ignores_compaction_while_waiting() {
    let store = Client::new(MemBackend::new());
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter = Mutex::new(&session(&store).await, "m");
    let (guard, ()) = while_waiting(waiter.lock(), async {
        let revision = store.put("other", "1").await.unwrap().header.revision;
        store.compact(Compact::new(revision)).await.unwrap();
        settle().await;
        holder.unlock().await.unwrap();
    })
    .await;
    guard.unwrap().unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn guarded_transaction_keeps_its_compares_and_responses() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let create = Txn::new()
        .when([Compare::absent("a")])
        .and_then([Put::new("a", "1")])
        .or_else([Range::new("a")]);
    let created = guard.txn(create.clone()).await.unwrap();
    assert!(created.succeeded);
    assert_eq!(store.get("a").await.unwrap().unwrap().mod_revision, created.header.revision);
    let repeated = guard.txn(create).await.unwrap();
    assert!(!repeated.succeeded, "the result of its own compare, not the lock's");
    assert_eq!(repeated.responses[0].as_range().unwrap().kvs[0].value, "1");
}

#[tokio::test(start_paused = true)]
async fn guarded_transaction_limit_is_one_operation_lower() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let puts = |n: usize| Txn::new().and_then((0..n).map(|i| Put::new(format!("k{i}"), "")));
    guard.txn(puts(127)).await.unwrap();
    let error = guard.txn(puts(128)).await.unwrap_err();
    assert!(error.to_string().contains("128 operations"), "{error}");
    let plain = Txn::new().when([guard.held_condition()]).and_then(puts(128).success);
    store.txn(plain).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lock_returns_backend_error_and_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let too_long = "m".repeat(2 << 20);
    let error = Mutex::new(&session, too_long.as_str()).lock().await.unwrap_err();
    let PrimitiveError::Backend(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::RequestTooLarge);
    assert_eq!(keys(&store, "m").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn mutex_held_condition_compares_the_create_revision() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let token = guard.fencing_token();
    let expected = Compare::create_revision(guard.key(), CompareOp::Equal, token.0);
    assert_eq!(guard.held_condition(), expected);
    assert_eq!(guard.header().revision, token.0);
    let kv = store.get(guard.key()).await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.lease), (token.0, Some(guard.session().lease_id())));
}

/// The compiler checks that guards and futures can be moved into tasks.
#[tokio::test(start_paused = true)]
async fn mutex_guards_and_futures_are_send() {
    let session = session(&Client::new(MemBackend::new())).await;
    let mutex = Mutex::new(&session, "m");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let guard = mutex.lock().await.unwrap();
        let output = guard.run_while_held(async { 1 }).await;
        guard.txn(Txn::new()).await.unwrap();
        guard.unlock().await.unwrap();
        output.unwrap()
    });
    assert_eq!(tasks.join_all().await, [1]);
}
