//! The semaphore: limits, the order of contenders, and the stored limit.

mod cancellation;
mod cost;
mod known_faults;
mod waiting;

use coord_core::error::{ErrorKind, LossReason, PrimitiveError};
use coord_core::kv::{Compare, CompareOp, Put, Range, Txn};
use coord_core::recipes::{Semaphore, SemaphoreError, SemaphorePermits};
use coord_core::{Client, Mutex};
use coord_mem::MemBackend;
use coord_testkit::Recorder;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{
    enqueue_like_go, intercepted, keys, newest_revision, secs, session, session_on, settle,
};
use crate::while_waiting::while_waiting;

/// The semaphore `s` on a client and a session of its own.
async fn semaphore(store: &Client, limit: u32) -> Semaphore {
    Semaphore::new(&session(store).await, "s", limit)
}

/// Acquires without waiting.
async fn acquire_now(semaphore: &Semaphore, permits: u32) -> SemaphorePermits {
    semaphore.try_acquire(permits).await.unwrap().expect("the permits are free")
}

#[tokio::test(start_paused = true)]
async fn permits_are_limited_across_clients() {
    let store = Client::new(MemBackend::new());
    let (one, other) = (semaphore(&store, 3).await, semaphore(&store, 3).await);
    let first = one.acquire(2).await.unwrap();
    let second = other.acquire(1).await.unwrap();
    assert_eq!((first.permits(), second.permits()), (2, 1));
    assert!(one.try_acquire(1).await.unwrap().is_none());
    assert!(timeout(secs(60), other.acquire(1)).await.is_err());
    settle().await;
    first.release().await.unwrap();
    let both = [acquire_now(&one, 1).await, acquire_now(&one, 1).await];
    assert!(other.try_acquire(1).await.unwrap().is_none());
    drop((both, second));
    settle().await;
    assert_eq!(keys(&store, "").await, ["coord/limit/s"], "the limit is stored");
}

#[tokio::test(start_paused = true)]
async fn permits_are_acquired_all_or_nothing() {
    let store = Client::new(MemBackend::new());
    let semaphore = semaphore(&store, 3).await;
    let first = semaphore.acquire(1).await.unwrap();
    let second = semaphore.acquire(1).await.unwrap();
    let act = async {
        first.release().await.unwrap();
        settle().await;
        let revision = newest_revision(&store).await;
        settle().await;
        assert_eq!(newest_revision(&store).await, revision, "two permits are free: none is taken");
        second.release().await.unwrap();
    };
    let (all, ()) = while_waiting(semaphore.acquire(3), act).await;
    assert_eq!(all.unwrap().permits(), 3);
}

/// A contender for many permits is not starved by contenders for few.
#[tokio::test(start_paused = true)]
async fn wide_waiter_is_not_overtaken() {
    let store = Client::new(MemBackend::new());
    let semaphore = semaphore(&store, 3).await;
    let holder = semaphore.acquire(2).await.unwrap();
    let mut waiters = JoinSet::new();
    for permits in [3, 1, 1] {
        let semaphore = semaphore.clone();
        waiters.spawn(async move { semaphore.acquire(permits).await.unwrap() });
        settle().await;
    }
    assert!(semaphore.try_acquire(1).await.unwrap().is_none(), "one permit is free");
    assert!(waiters.try_join_next().is_none());
    holder.release().await.unwrap();
    settle().await;
    let wide = waiters.try_join_next().expect("the first waiter").unwrap();
    assert_eq!(wide.permits(), 3);
    assert!(waiters.try_join_next().is_none());
    wide.release().await.unwrap();
    settle().await;
    assert_eq!(waiters.join_all().await.len(), 2, "both at once");
}

#[tokio::test(start_paused = true)]
async fn semaphore_contenders_are_admitted_in_order() {
    let store = Client::new(MemBackend::new());
    let holder = semaphore(&store, 2).await.acquire(2).await.unwrap();
    let mut waiters = JoinSet::new();
    for n in 0..20 {
        let semaphore = semaphore(&store, 2).await;
        waiters.spawn(async move {
            let permits = semaphore.acquire(1 + n % 2).await.unwrap();
            let admitted = permits.header().revision;
            tokio::time::sleep(secs(1)).await;
            permits.release().await.unwrap();
            (admitted, n)
        });
        settle().await;
    }
    holder.release().await.unwrap();
    let mut admitted = waiters.join_all().await;
    admitted.sort_by_key(|(revision, n)| (*revision, *n));
    let order: Vec<_> = admitted.iter().map(|(_, n)| *n).collect();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn available_counts_live_keys_and_waiters() {
    let store = Client::new(MemBackend::new());
    let semaphore = semaphore(&store, 5).await;
    assert_eq!(semaphore.available().await.unwrap(), 5, "no limit is stored yet");
    let holder = semaphore.acquire(2).await.unwrap();
    assert_eq!(semaphore.available().await.unwrap(), 3);
    let (waiting, available) =
        while_waiting(timeout(secs(5), semaphore.acquire(4)), semaphore.available()).await;
    assert!(waiting.is_err());
    assert_eq!(available.unwrap(), 0, "a later contender waits behind the waiter");
    settle().await;
    assert_eq!(semaphore.available().await.unwrap(), 3, "the waiter is gone");
    store.delete(holder.key()).await.unwrap();
    assert_eq!(semaphore.available().await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn invalid_number_of_permits_is_refused_before_sending() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    recorder.take();
    let semaphore = Semaphore::new(&session, "s", 3);
    for (permits, text) in [(0, "0: must be from 1 to the limit 3"), (4, "4: must be from 1")] {
        let error = semaphore.acquire(permits).await.unwrap_err();
        let tried = semaphore.try_acquire(permits).await.unwrap_err();
        for error in [error, tried] {
            let SemaphoreError::InvalidPermits { permits: given, limit: 3 } = error else {
                panic!("{error}")
            };
            assert_eq!(given, permits);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
    let error = Semaphore::new(&session, "s", 0).acquire(1).await.unwrap_err();
    assert!(matches!(error, SemaphoreError::InvalidLimit { limit: 0 }), "{error}");
    let error = semaphore.set_limit(0).await.unwrap_err();
    assert!(matches!(error, SemaphoreError::InvalidLimit { limit: 0 }), "{error}");
    assert_eq!(recorder.take().names(), "");
}

#[tokio::test(start_paused = true)]
async fn limit_that_differs_from_the_stored_one_is_an_error() {
    let store = Client::new(MemBackend::new());
    let first = semaphore(&store, 3).await;
    let held = first.acquire(1).await.unwrap();
    let other = semaphore(&store, 2).await;
    let before = newest_revision(&store).await;
    let acquired = other.acquire(1).await.unwrap_err();
    let tried = other.try_acquire(1).await.unwrap_err();
    for error in [acquired, tried] {
        let SemaphoreError::LimitDiffers { name, stored: 3, given: 2 } = &error else {
            panic!("{error}")
        };
        assert_eq!(name, "s");
        assert!(error.to_string().contains("create it with 3, or call `set_limit(2)`"), "{error}");
        assert!(!error.is_retryable() && error.loss().is_none());
    }
    assert_eq!(newest_revision(&store).await, before, "nothing was written");
    assert_eq!(other.limit().await.unwrap(), 3);
    other.set_limit(2).await.unwrap();
    other.acquire(1).await.unwrap().release().await.unwrap();
    let error = first.acquire(1).await.unwrap_err();
    assert!(matches!(error, SemaphoreError::LimitDiffers { stored: 2, given: 3, .. }), "{error}");
    held.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_semaphore_share_a_changed_limit() {
    let store = Client::new(MemBackend::new());
    let semaphore = semaphore(&store, 1).await;
    let clone = semaphore.clone();
    semaphore.set_limit(2).await.unwrap();
    let _both = [acquire_now(&clone, 1).await, acquire_now(&clone, 1).await];
    assert!(clone.try_acquire(1).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn lowered_limit_takes_nothing_from_holders() {
    let store = Client::new(MemBackend::new());
    let semaphore = semaphore(&store, 3).await;
    let held = [acquire_now(&semaphore, 2).await, acquire_now(&semaphore, 1).await];
    semaphore.set_limit(1).await.unwrap();
    assert_eq!(semaphore.available().await.unwrap(), 0);
    for permits in &held {
        permits.txn(Txn::new()).await.unwrap();
    }
    let [two, one] = held;
    one.release().await.unwrap();
    assert!(semaphore.try_acquire(1).await.unwrap().is_none(), "two permits are still held");
    two.release().await.unwrap();
    drop(acquire_now(&semaphore, 1).await);
}

/// Otherwise the waiter would never be admitted, and neither would any contender behind it.
#[tokio::test(start_paused = true)]
async fn waiter_for_more_than_a_lowered_limit_fails() {
    let store = Client::new(MemBackend::new());
    let semaphore = semaphore(&store, 3).await;
    let holder = semaphore.acquire(1).await.unwrap();
    let (waited, ()) = while_waiting(timeout(secs(1), semaphore.acquire(3)), async {
        semaphore.set_limit(2).await.unwrap();
    })
    .await;
    let error = waited.expect("fails at once").unwrap_err();
    let SemaphoreError::InvalidPermits { permits: 3, limit: 2 } = error else { panic!("{error}") };
    settle().await;
    acquire_now(&semaphore, 1).await.release().await.unwrap();
    holder.release().await.unwrap();
}

/// A foreign key may be a holder of another program. Without a number, it counts for all permits.
#[tokio::test(start_paused = true)]
async fn key_without_a_number_counts_for_all_permits() {
    for value in ["", "many", "0"] {
        let store = Client::new(MemBackend::new());
        let semaphore = semaphore(&store, 3).await;
        let (_, foreign) = enqueue_like_go(&store, "s/permits", value).await;
        assert_eq!(semaphore.available().await.unwrap(), 0);
        assert!(semaphore.try_acquire(1).await.unwrap().is_none());
        let (acquired, deleted) = while_waiting(semaphore.acquire(1), store.delete(&foreign)).await;
        deleted.unwrap();
        acquired.unwrap().release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_limit_is_an_error_that_names_the_key() {
    let store = Client::new(MemBackend::new());
    let semaphore = semaphore(&store, 3).await;
    store.put("coord/limit/s", "three").await.unwrap();
    let errors = [
        semaphore.acquire(1).await.map(drop).unwrap_err(),
        semaphore.try_acquire(1).await.map(drop).unwrap_err(),
        semaphore.available().await.map(drop).unwrap_err(),
        semaphore.limit().await.map(drop).unwrap_err(),
    ];
    for error in errors {
        let text = "\"coord/limit/s\" has the value \"three\"";
        assert!(error.to_string().contains(text), "{error}");
    }
    semaphore.set_limit(3).await.unwrap();
    drop(acquire_now(&semaphore, 3).await);
}

/// The keys of a semaphore are below child names of a lock with its name.
#[tokio::test(start_paused = true)]
async fn lock_of_the_same_name_is_independent() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let (semaphore, mutex) = (Semaphore::new(&session, "s", 1), Mutex::new(&session, "s"));
    let below = Semaphore::new(&session, "s/permits/x", 1);
    let _permits = semaphore.acquire(1).await.unwrap();
    let guard = mutex.try_lock().await.unwrap().expect("the lock is free");
    guard.unlock().await.unwrap();
    drop(acquire_now(&below, 1).await);
    assert!(semaphore.try_acquire(1).await.unwrap().is_none());
}

/// Regression: the stored limit, which has no lease, blocked Go's contenders for a lock of the same
/// name, or of a name above, without end.
#[tokio::test(start_paused = true)]
async fn stored_limit_does_not_block_a_lock_of_go() {
    let store = Client::new(MemBackend::new());
    acquire_now(&Semaphore::new(&session(&store).await, "jobs/s", 1), 1)
        .await
        .release()
        .await
        .unwrap();
    assert_eq!(keys(&store, "").await, ["coord/limit/jobs/s"]);
    for name in ["jobs/s", "jobs"] {
        // Go's package waits for every key below the name with an older create revision.
        let (lease, go_key) = enqueue_like_go(&store, name, "").await;
        assert_eq!(keys(&store, &format!("{name}/")).await, [go_key]);
        store.lease_revoke(lease).await.unwrap();
    }
    let session = session(&store).await;
    drop(Mutex::new(&session, "jobs/s/limit").try_lock().await.unwrap().expect("it is free"));
}

#[tokio::test(start_paused = true)]
async fn transaction_of_lost_permits_is_refused() {
    let store = Client::new(MemBackend::new());
    let permits = semaphore(&store, 2).await.acquire(1).await.unwrap();
    let created = permits.header().revision;
    let expected = Compare::create_revision(permits.key(), CompareOp::Equal, created);
    assert_eq!(permits.held_condition(), expected);
    permits.txn(Txn::new().and_then([Put::new("a", "1")])).await.unwrap();
    let (reason, deleted) = while_waiting(permits.lost(), store.delete(permits.key())).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    let late = permits.txn(Txn::new().and_then([Put::new("a", "2")])).await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "1");
    assert_eq!(permits.release().await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}

#[tokio::test(start_paused = true)]
async fn semaphore_token_is_cancelled_when_permits_are_released() {
    let store = Client::new(MemBackend::new());
    let permits = semaphore(&store, 2).await.acquire(1).await.unwrap();
    let token = permits.cancellation_token();
    assert!(!token.is_cancelled());
    permits.release().await.unwrap();
    assert!(token.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn acquire_returns_backend_error_and_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let too_long = "s".repeat(2 << 20);
    let semaphore = Semaphore::new(&session(&store).await, too_long.as_str(), 1);
    let error = semaphore.acquire(1).await.unwrap_err();
    let SemaphoreError::Primitive(PrimitiveError::Backend(error)) = error else {
        panic!("{error}")
    };
    assert_eq!(error.kind(), ErrorKind::RequestTooLarge);
    assert_eq!(store.range(Range::prefix("s")).await.unwrap().kvs, []);
}
