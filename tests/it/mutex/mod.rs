//! What a mutex promises: exclusion and order.

mod cancel;
mod cost;
mod foreign;
mod loss;
mod storm;

use coord_mem::MemBackend;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use coord_core::{
    Client, Mutex,
    error::{ErrorKind, LossReason, PrimitiveError},
    kv::{Compact, Compare, CompareOp, Put, Range, Txn},
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{join_as_go, keys, secs, session, settle};

#[tokio::test(start_paused = true)]
async fn mutex_waiters_acquire_in_enqueue_order() {
    let store = Client::new(MemBackend::new());
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
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let (one, two) = (Mutex::new(&session, "m"), Mutex::new(&session, "m"));
    let guard = one.lock().await.unwrap();
    assert!(two.try_lock().await.unwrap().is_none());
    assert!(timeout(secs(60), two.lock()).await.is_err());
    guard.unlock().await.unwrap();
    two.lock().await.unwrap().unlock().await.unwrap();
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

/// A job that finished fast ran again on a machine whose clock was late.
#[tokio::test(start_paused = true)]
async fn unlock_after_holds_the_lock_for_the_minimum() {
    let store = Client::new(MemBackend::new());
    let other = Mutex::new(&session(&store).await, "m");
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let begun = Instant::now();
    sleep(secs(10)).await; // the work
    let unlock = guard.unlock_after(secs(300));
    let (unlocked, tried) = tokio::join!(unlock, async {
        sleep(secs(289)).await;
        other.try_lock().await.unwrap().is_some()
    });
    unlocked.unwrap();
    assert!(!tried, "it is held for 300 s from when it was acquired");
    assert_eq!(begun.elapsed(), secs(300));
    let guard = other.try_lock().await.unwrap().expect("it is free");
    sleep(secs(20)).await;
    guard.unlock_after(secs(20)).await.unwrap();
    assert_eq!(begun.elapsed(), secs(320), "work that took as long waits no more");
}

#[tokio::test(start_paused = true)]
async fn unlock_after_reports_loss_and_unlocks_when_dropped() {
    let store = Client::new(MemBackend::new());
    let mutex = Mutex::new(&session(&store).await, "m");
    let guard = mutex.lock().await.unwrap();
    assert!(timeout(secs(1), guard.unlock_after(secs(300))).await.is_err());
    settle().await;
    let guard = mutex.try_lock().await.unwrap().expect("dropping the future unlocks");
    let (begun, key) = (Instant::now(), guard.key().clone());
    let (kept, _) = tokio::join!(guard.unlock_after(Duration::MAX), async {
        sleep(secs(1)).await;
        store.delete(key).await.unwrap();
    });
    assert_eq!(kept.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert_eq!(begun.elapsed(), secs(1));
}

/// etcd issue 6278, and a held `p/q` that blocks `p` in Go's package: names that nest are two
/// locks, in whatever order they are taken, tried or waited for.
#[tokio::test(start_paused = true)]
async fn child_name_is_a_separate_mutex() {
    let store = Client::new(MemBackend::new());
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
async fn go_contender_shares_the_mutex_queue() {
    let store = Client::new(MemBackend::new());
    let (_, go) = join_as_go(&store, "m", "").await;

    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    assert!(mutex.try_lock().await.unwrap().is_none());
    let (guard, ()) = tokio::join!(mutex.lock(), async {
        settle().await;
        store.delete(&go).await.unwrap();
    });
    let key = guard.unwrap().key().clone();
    assert_eq!(key, format!("m/{}-0", session.lease_id()), "their own layout, and a number");
}

#[tokio::test(start_paused = true)]
async fn lock_ignores_compaction_while_waiting() {
    let store = Client::new(MemBackend::new());
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
    let again = guard.txn(create).await.unwrap();
    assert!(!again.succeeded, "its own condition, not the lock's");
    assert_eq!(again.responses[0].as_range().unwrap().kvs[0].value, "1");
}

#[tokio::test(start_paused = true)]
async fn guarded_transaction_limit_is_one_operation_lower() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let puts = |n: usize| Txn::new().and_then((0..n).map(|i| Put::new(format!("k{i}"), "")));
    guard.txn(puts(127)).await.unwrap();
    let error = guard.txn(puts(128)).await.unwrap_err();
    assert!(error.to_string().contains("128 operations"), "{error}");
    let all = Txn::new().when([guard.held_condition()]).and_then(puts(128).success);
    store.txn(all).await.unwrap();
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

/// Futures and guards can be moved into tasks: this is checked by the compiler.
#[tokio::test(start_paused = true)]
async fn mutex_guards_and_futures_are_send() {
    let session = session(&Client::new(MemBackend::new())).await;
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
