//! The multi-lock: exclusion by name, order, loss, invalid names, and requests.

use std::time::Duration;

use coord_core::error::{ErrorKind, LossReason, PrimitiveError};
use coord_core::kv::{Compare, CompareOp, Put, Txn};
use coord_core::recipes::{MultiLock, MultiLockError};
use coord_core::{Client, Mutex, Session};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{intercepted, keys, newest_revision, nth, secs, session, session_on, settle};
use crate::while_waiting::{while_waiting, while_waiting_after};

fn multi_lock(session: &Session, names: &[&str]) -> MultiLock {
    MultiLock::new(session, names.iter().map(ToString::to_string)).unwrap()
}

fn store() -> Client {
    Client::new(MemBackend::new())
}

#[tokio::test(start_paused = true)]
async fn multi_lock_excludes_mutexes_of_all_its_names() {
    let store = store();
    let session = session(&store).await;
    let both = multi_lock(&session, &["a", "b"]);
    let guard = both.lock().await.unwrap();
    for name in ["a", "b"] {
        assert!(Mutex::new(&session, name).try_lock().await.unwrap().is_none(), "{name} is held");
    }
    assert!(Mutex::new(&session, "c").try_lock().await.unwrap().is_some());
    guard.unlock().await.unwrap();

    let b = Mutex::new(&session, "b").lock().await.unwrap();
    let revision = newest_revision(&store).await;
    assert!(both.try_lock().await.unwrap().is_none());
    assert_eq!(newest_revision(&store).await, revision, "nothing was written");
    assert!(Mutex::new(&session, "a").try_lock().await.unwrap().is_some(), "all names or none");
    let (guard, unlocked) = while_waiting(both.lock(), b.unlock()).await;
    unlocked.unwrap();
    drop(guard.unwrap());
    settle().await;
    assert_eq!(keys(&store, "").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn invalid_names_are_refused_before_a_request() {
    let recorder = Recorder::new();
    let session = session_on(intercepted(&store(), recorder.clone())).await;
    recorder.take();
    let refused = |names: &[&str]| {
        MultiLock::new(&session, names.iter().map(ToString::to_string)).unwrap_err()
    };
    assert_eq!(refused(&[]), MultiLockError::NoNames);
    let twice = refused(&["b", "a", "b"]);
    assert_eq!(twice, MultiLockError::DuplicateName { name: "b".into() });
    assert_eq!(twice.to_string(), "the name \"b\" is given twice: give each name once");

    let names = |count: usize| (0..count).map(|n| format!("n{n:03}")).collect::<Vec<_>>();
    let too_many = MultiLock::new(&session, names(65)).unwrap_err();
    assert_eq!(too_many, MultiLockError::TooManyNames { count: 65, max_txn_ops: 128 });
    let text = "65 names need transactions of 130 operations, at most 128 are allowed: lock at \
                most 64 names, or raise the limit of the store";
    assert_eq!(too_many.to_string(), text);
    assert_eq!(recorder.take().names(), "", "nothing was sent");

    let most = MultiLock::new(&session, names(64)).unwrap();
    assert_eq!(most.names().count(), 64);
    most.lock().await.unwrap().unlock().await.unwrap();
    most.try_lock().await.unwrap().expect("all are free").unlock().await.unwrap();
}

/// Redisson's multi-lock and that of Curator acquire one name after the other, so two of them with
/// the names in opposite orders can wait for each other.
#[tokio::test(start_paused = true)]
async fn multi_locks_in_opposite_orders_do_not_deadlock() {
    let store = store();
    let names = ["a", "b", "c", "d"];
    let mut tasks = JoinSet::new();
    for n in 0..40 {
        let client = intercepted(&store, move |_: &coord_testkit::Call| {
            Action::Delay(Duration::from_millis(n % 7))
        });
        let n = usize::try_from(n).unwrap();
        tasks.spawn(async move {
            let session = session_on(client).await;
            if n % 5 == 0 {
                let guard = Mutex::new(&session, names[n % 4]).lock().await.unwrap();
                sleep(secs(1)).await;
                return guard.unlock().await.unwrap();
            }
            let mut own = names;
            own.rotate_left(n % 4);
            if n % 2 == 0 {
                own.reverse();
            }
            let guard = multi_lock(&session, &own[..2 + n % 3]).lock().await.unwrap();
            sleep(secs(1)).await;
            guard.unlock().await.unwrap();
        });
    }
    timeout(secs(60), tasks.join_all()).await.expect("every task acquires");
    assert_eq!(keys(&store, "").await, [""; 0]);
}

/// Curator's and Redisson's locks starve a waiter among hundreds.
#[tokio::test(start_paused = true)]
async fn three_hundred_multi_locks_acquire_in_order() {
    let store = store();
    let client = crate::support::separate_client(&store);
    let holder = multi_lock(&session(&store).await, &["a", "b"]).lock().await.unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..300 {
        let session = session_on(client.clone()).await;
        waiters.spawn(async move {
            let guard = multi_lock(&session, &["b", "a"]).lock().await.unwrap();
            let token = guard.fencing_token();
            guard.unlock().await.unwrap();
            (Instant::now(), token)
        });
    }
    settle().await;
    holder.unlock().await.unwrap();
    let mut acquired = timeout(secs(60), waiters.join_all()).await.expect("every waiter acquires");
    acquired.sort_by_key(|(_, token)| *token);
    assert!(acquired.is_sorted_by_key(|(at, _)| *at), "in the order of the fencing tokens");
}

#[tokio::test(start_paused = true)]
async fn keys_share_one_token_that_rises_for_each_name() {
    let store = store();
    let session = session(&store).await;
    let earlier = Mutex::new(&session, "b").lock().await.unwrap();
    let before = earlier.fencing_token();
    earlier.unlock().await.unwrap();
    let guard = multi_lock(&session, &["a", "b"]).lock().await.unwrap();
    let token = guard.fencing_token();
    assert!(before < token);
    let keys: Vec<_> = guard.keys().cloned().collect();
    let conditions: Vec<_> = guard.held_conditions().collect();
    assert_eq!((keys.len(), conditions.len()), (2, 2));
    for (key, condition) in keys.iter().zip(conditions) {
        assert_eq!(condition, Compare::create_revision(key, CompareOp::Equal, token.0));
        let kv = store.get(key).await.unwrap().unwrap();
        assert_eq!((kv.create_revision, kv.lease), (token.0, Some(guard.session().lease_id())));
    }
    guard.unlock().await.unwrap();
    let later = Mutex::new(&session, "a").lock().await.unwrap();
    assert!(token < later.fencing_token());
}

/// `p` and its child names have keys of one revision in the range of `p`: more keys than a read of
/// the queue returns at first.
#[tokio::test(start_paused = true)]
async fn name_and_its_child_names_are_locked_together() {
    let store = store();
    let session = session(&store).await;
    let names = ["p/a", "p/b", "p/c", "p/d", "p", "p/e", "p/f", "p/g"];
    let all = multi_lock(&session, &names);
    let other = crate::support::session(&store).await;

    let holder = Mutex::new(&other, "p").lock().await.unwrap();
    let (guard, unlocked) = while_waiting(all.lock(), async {
        assert_eq!(keys(&store, "p/").await.len(), 1 + names.len(), "enqueued behind p");
        holder.unlock().await
    })
    .await;
    unlocked.unwrap();
    let guard = guard.unwrap();
    for name in names {
        assert!(Mutex::new(&other, name).try_lock().await.unwrap().is_none(), "{name} is held");
    }
    // A mutex behind the multi-lock finds its predecessor among these keys.
    let behind = Mutex::new(&other, "p");
    assert!(timeout(secs(30), behind.lock()).await.is_err());
    settle().await;
    guard.unlock().await.unwrap();
    assert!(behind.try_lock().await.unwrap().is_some());
    settle().await;

    let child = Mutex::new(&other, "p/z").lock().await.unwrap();
    let tried = all.try_lock().await.unwrap().expect("p/z is another name");
    tried.unlock().await.unwrap();
    child.unlock().await.unwrap();
    settle().await;
    assert_eq!(keys(&store, "").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn guarded_transaction_needs_all_names() {
    let store = store();
    let guard = multi_lock(&session(&store).await, &["a", "b"]).lock().await.unwrap();
    let puts = |n: usize| Txn::new().and_then((0..n).map(|i| Put::new(format!("k{i}"), "1")));
    let applied = guard.txn(puts(126)).await.unwrap();
    assert_eq!(applied.header.revision, newest_revision(&store).await);
    let PrimitiveError::Backend(error) = guard.txn(puts(127)).await.unwrap_err() else {
        panic!("the limit is lower by the number of names");
    };
    assert_eq!(error.kind(), ErrorKind::TooManyOps);

    let second = guard.keys().nth(1).unwrap().clone();
    store.delete(second).await.unwrap();
    let late = guard.txn(Txn::new().and_then([Put::new("k0", "2")])).await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(store.get("k0").await.unwrap().unwrap().value, "1");
}

#[tokio::test(start_paused = true)]
async fn loss_of_one_name_is_reported_and_unlock_frees_the_others() {
    let store = store();
    for evicted in 0..3 {
        let session = session(&store).await;
        let guard = multi_lock(&session, &["a", "b", "c"]).lock().await.unwrap();
        let key = guard.keys().nth(evicted).unwrap().clone();
        let (reason, deleted) = while_waiting(guard.lost(), store.delete(key)).await;
        deleted.unwrap();
        assert_eq!(reason, LossReason::KeyDeleted);
        let endless = std::future::pending::<()>();
        assert_eq!(guard.run_while_held(endless).await, Err(LossReason::KeyDeleted));
        let revision = newest_revision(&store).await;
        let error = guard.unlock().await.unwrap_err();
        assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
        assert_eq!(newest_revision(&store).await, revision.next(), "the others, in one change");
        assert_eq!(keys(&store, "").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn holder_is_lost_before_its_names_are_free() {
    let store = store();
    let partitioned = intercepted(&store, crate::support::only("lease_keep_alive", Action::Hang));
    let holder = multi_lock(&session_on(partitioned).await, &["a", "b"]).lock().await.unwrap();
    let waiter = multi_lock(&session(&store).await, &["b", "a"]);
    let ((reason, lost_at), acquired_at) =
        tokio::join!(async { (holder.lost().await, Instant::now()) }, async {
            drop(waiter.lock().await.unwrap());
            Instant::now()
        });
    assert_eq!(reason, LossReason::DeadlineUnconfirmed);
    assert!(lost_at < acquired_at);
}

/// The waiter is first in `a` and waits for `b`. Its key in `a` is deleted.
#[tokio::test(start_paused = true)]
async fn waiter_fails_when_a_key_that_was_first_is_deleted() {
    for (delete_after, fails_within) in [(secs(1), secs(0)), (Duration::from_millis(100), secs(1))]
    {
        let store = store();
        let holder = Mutex::new(&session(&store).await, "b").lock().await.unwrap();
        let waiter = multi_lock(&session(&store).await, &["a", "b"]);
        let (failed, deleted_at) = while_waiting_after(
            delete_after,
            async { (waiter.lock().await.unwrap_err(), Instant::now()) },
            async {
                let first = keys(&store, "a/").await.pop().unwrap();
                store.delete(first).await.unwrap();
                let at = Instant::now();
                // Early deletions are found by the read before success.
                holder.unlock().await.unwrap();
                at
            },
        )
        .await;
        assert_eq!(failed.0.loss(), Some(LossReason::KeyDeleted));
        assert!(failed.1 - deleted_at <= fails_within);
        settle().await;
        assert_eq!(keys(&store, "").await, [""; 0], "the other key is deleted too");
    }
}

#[tokio::test(start_paused = true)]
async fn lock_with_unknown_outcome_leaves_no_key() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = store();
        let client = intercepted(&store, nth("txn", 1, 1, action));
        let both = multi_lock(&session_on(client).await, &["a", "b"]);
        both.lock().await.unwrap_err();
        settle().await;
        assert_eq!(keys(&store, "").await, [""; 0]);
        both.lock().await.unwrap().unlock().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn unlock_with_unknown_outcome_can_be_repeated() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = store();
        let client = intercepted(&store, nth("txn", 2, 2, action));
        let guard = multi_lock(&session_on(client).await, &["a", "b"]).lock().await.unwrap();
        let error = guard.unlock().await.unwrap_err();
        assert!(error.cause.is_retryable());
        error.held.unlock().await.unwrap();
        assert_eq!(keys(&store, "").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn uncontended_multi_lock_costs_one_request_each_way() {
    let (store, recorder) = (store(), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    let many = multi_lock(&session, &["a", "b", "c", "d"]);
    recorder.take();
    let guard = many.lock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    guard.txn(Txn::new()).await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    assert!(many.try_lock().await.unwrap().is_none());
    assert_eq!(recorder.take().names(), "txn", "when held");
    guard.unlock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    let guard = many.try_lock().await.unwrap().unwrap();
    assert_eq!(recorder.take().names(), "txn", "when free");
    drop(guard);
    settle().await;
    assert_eq!(recorder.take().names(), "txn txn txn txn", "a drop: one for each name");
}

/// One of two names is held by another client.
#[tokio::test(start_paused = true)]
async fn multi_lock_behind_a_holder_costs_one_read_more() {
    let (store, recorder) = (store(), Recorder::new());
    let holder = Mutex::new(&session(&store).await, "b").lock().await.unwrap();
    let session = session_on(intercepted(&store, recorder.clone())).await;
    let both = multi_lock(&session, &["a", "b"]);
    recorder.take();
    let act = async {
        assert_eq!(recorder.take().names(), "txn watch");
        holder.unlock().await.unwrap();
    };
    let (guard, ()) = while_waiting_after(Duration::from_millis(20), both.lock(), act).await;
    assert_eq!(recorder.take().names(), "range txn", "the position, then all keys");
    guard.unwrap().unlock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
}

/// A release reads the positions of the successors of the same client in all queues.
#[tokio::test(start_paused = true)]
async fn hand_off_within_a_client_needs_no_watch() {
    let recorder = Recorder::new();
    let client = intercepted(&store(), recorder.clone());
    let (one, two) = (session_on(client.clone()).await, session_on(client).await);
    let holder = multi_lock(&one, &["a", "b"]).lock().await.unwrap();
    let next = multi_lock(&two, &["b", "a"]);
    recorder.take();
    let short = Duration::from_millis(20);
    let (guard, unlocked) = while_waiting_after(short, next.lock(), holder.unlock()).await;
    unlocked.unwrap();
    assert_eq!(recorder.take().names(), "txn txn txn", "enqueue, release, confirm");
    guard.unwrap().unlock().await.unwrap();
}

/// The compiler checks that guards and futures can be moved into tasks.
#[tokio::test(start_paused = true)]
async fn multi_lock_guards_and_futures_are_send() {
    let both = multi_lock(&session(&store()).await, &["a", "b"]);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let guard = both.lock().await.unwrap();
        let output = guard.run_while_held(async { 1 }).await;
        guard.unlock().await.unwrap();
        output.unwrap()
    });
    assert_eq!(tasks.join_all().await, [1]);
}
