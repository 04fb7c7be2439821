//! Cancellation of read-write locks, and requests with unknown outcome.

use coord_core::Client;
use coord_core::recipes::RwLock;
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, poll_at_most};
use tokio::time::{sleep, timeout};

use super::rwlock;
use crate::support::{POLLS_MAX, intercepted, keys, nth, secs, session_on, settle};

/// A lock whose requests take a step each, so that a future can be dropped at each of them.
async fn stepped(store: &Client) -> RwLock {
    RwLock::new(&session_on(intercepted(store, |_: &Call| Action::Yield)).await, "l")
}

#[tokio::test(start_paused = true)]
async fn waiting_write_dropped_at_any_await_admits_readers_behind() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let reader = rwlock(&store).await.read().await.unwrap();
        let (waiter, next) = (stepped(&store).await, stepped(&store).await);
        let dropped = timeout(secs(3), poll_at_most(polls, waiter.write()));
        let (is_complete, next, ()) = tokio::join!(
            async { dropped.await.is_ok_and(|written| written.is_some()) },
            async {
                settle().await;
                next.read().await
            },
            async {
                sleep(secs(1)).await;
                reader.unlock().await.unwrap();
            }
        );
        drop(next.unwrap());
        settle().await;
        assert_eq!(keys(&store, "l/").await, [""; 0], "dropped after {polls} polls");
        if is_complete {
            assert!(polls > 6, "complete after {polls} polls: never dropped while waiting");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

/// Both keys are gone, that of the reader too.
#[tokio::test(start_paused = true)]
async fn upgrade_dropped_at_any_await_unlocks() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let beside = rwlock(&store).await.read().await.unwrap();
        let reader = stepped(&store).await.read().await.unwrap();
        let dropped = timeout(secs(3), poll_at_most(polls, reader.upgrade()));
        let (is_complete, ()) =
            tokio::join!(async { dropped.await.is_ok_and(|upgraded| upgraded.is_some()) }, async {
                sleep(secs(1)).await;
                beside.unlock().await.unwrap();
            });
        settle().await;
        assert_eq!(keys(&store, "l/").await, [""; 0], "dropped after {polls} polls");
        if is_complete {
            assert!(polls > 6, "complete after {polls} polls: never dropped while waiting");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn downgrade_and_unlock_dropped_at_any_await_unlock() {
    for is_downgrade in [false, true] {
        for polls in 1..POLLS_MAX {
            let store = Client::new(MemBackend::new());
            let writer = stepped(&store).await.write().await.unwrap();
            let is_complete = if is_downgrade {
                poll_at_most(polls, writer.downgrade()).await.is_some()
            } else {
                poll_at_most(polls, writer.unlock()).await.is_some()
            };
            settle().await;
            assert_eq!(keys(&store, "l/").await, [""; 0], "dropped after {polls} polls");
            if is_complete {
                assert!(polls > 1);
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn write_with_unknown_outcome_leaves_neither_key() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 1, 1, action))).await;
        let lock = RwLock::new(&session, "l");
        lock.write().await.unwrap_err();
        settle().await;
        assert_eq!(keys(&store, "l/").await, [""; 0]);
        lock.write().await.unwrap().unlock().await.unwrap();
    }
}

/// The keys are created after their future was dropped.
#[tokio::test(start_paused = true)]
async fn late_write_leaves_neither_key() {
    for delay in [1, 7, 100] {
        let store = Client::new(MemBackend::new());
        let delayed = nth("txn", 1, 1, Action::Delay(secs(delay)));
        let late = RwLock::new(&session_on(intercepted(&store, delayed)).await, "l");
        assert!(timeout(secs(1) / 2, late.write()).await.is_err());
        sleep(secs(2 * delay + 20)).await;
        assert_eq!(keys(&store, "l/").await, [""; 0], "delayed by {delay} s");
    }
}

/// If only the response to the downgrade is lost, a second attempt finds the writer's key deleted.
#[tokio::test(start_paused = true)]
async fn downgrade_with_unknown_outcome_can_be_repeated() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 2, 2, action))).await;
        let writer = RwLock::new(&session, "l").write().await.unwrap();
        let error = writer.downgrade().await.unwrap_err();
        assert!(error.cause.is_retryable(), "{error}");
        let reader = error.held.downgrade().await.unwrap();
        assert_eq!(keys(&store, "l/").await, [reader.key().escape_ascii().to_string()]);
        reader.unlock().await.unwrap();
        assert_eq!(keys(&store, "l/").await, [""; 0]);
    }
}

/// Regression: the unlock found the writer's key deleted, and left the reader's key to the session
/// task.
#[tokio::test(start_paused = true)]
async fn unlock_after_an_unknown_downgrade_deletes_both_keys() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 2, 2, action))).await;
        let writer = RwLock::new(&session, "l").write().await.unwrap();
        let error = writer.downgrade().await.unwrap_err();
        error.held.unlock().await.unwrap();
        assert_eq!(keys(&store, "l/").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_upgrade_request_keeps_the_read_lock() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 2, 2, action))).await;
        let reader = RwLock::new(&session, "l").read().await.unwrap();
        let error = reader.upgrade().await.unwrap_err();
        assert!(error.loss().is_none() && !error.is_refused(), "{error}");
        settle().await;
        assert_eq!(keys(&store, "l/").await, [error.held.key().escape_ascii().to_string()]);
        error.held.upgrade().await.unwrap().unlock().await.unwrap();
        assert_eq!(keys(&store, "l/").await, [""; 0]);
    }
}
