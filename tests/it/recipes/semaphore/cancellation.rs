//! Cancellation of `acquire`, `try_acquire` and `release`, and requests with unknown outcome.

use coord_core::Client;
use coord_core::error::{ErrorKind, PrimitiveError};
use coord_core::recipes::{Semaphore, SemaphoreError};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, poll_at_most};
use tokio::time::{sleep, timeout};

use super::{acquire_now, semaphore};
use crate::support::{POLLS_MAX, intercepted, keys, nth, secs, session_on, settle};

/// A semaphore whose requests take a step each, so that a future can be dropped at each of them.
async fn stepped(store: &Client, limit: u32) -> Semaphore {
    let session = session_on(intercepted(store, |_: &Call| Action::Yield)).await;
    Semaphore::new(&session, "s", limit)
}

#[tokio::test(start_paused = true)]
async fn uncontended_acquire_dropped_at_any_await_leaves_no_key() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let acquired = poll_at_most(polls, stepped(&store, 1).await.acquire(1)).await;
        let is_complete = acquired.is_some();
        drop(acquired);
        settle().await;
        assert_eq!(keys(&store, "s/permits/").await, [""; 0], "dropped after {polls} polls");
        if is_complete {
            assert!(polls > 2, "complete after {polls} polls: never dropped at an await");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn waiting_acquire_dropped_at_any_await_admits_the_next() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let holder = semaphore(&store, 2).await.acquire(2).await.unwrap();
        let (next, waiter) = (stepped(&store, 2).await, stepped(&store, 2).await);
        let dropped = timeout(secs(3), poll_at_most(polls, waiter.acquire(2)));
        let (is_complete, next, ()) = tokio::join!(
            async { dropped.await.is_ok_and(|acquired| acquired.is_some()) },
            async {
                settle().await;
                next.acquire(1).await
            },
            async {
                sleep(secs(1)).await;
                holder.release().await.unwrap();
            }
        );
        drop(next.unwrap());
        settle().await;
        assert_eq!(keys(&store, "s/permits/").await, [""; 0], "dropped after {polls} polls");
        if is_complete {
            assert!(polls > 6, "complete after {polls} polls: never dropped while waiting");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn try_acquire_dropped_at_any_await_leaves_no_key() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let _beside = semaphore(&store, 2).await.acquire(1).await.unwrap();
        let tried = poll_at_most(polls, stepped(&store, 2).await.try_acquire(1)).await;
        let is_complete = tried.is_some();
        drop(tried);
        settle().await;
        assert_eq!(keys(&store, "s/permits/").await.len(), 1, "dropped after {polls} polls");
        if is_complete {
            assert!(polls > 4, "complete after {polls} polls: never dropped at an await");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn release_dropped_at_any_await_still_releases() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let permits = stepped(&store, 1).await.acquire(1).await.unwrap();
        let released = poll_at_most(polls, permits.release()).await;
        settle().await;
        assert_eq!(keys(&store, "s/permits/").await, [""; 0], "dropped after {polls} polls");
        if released.is_some() {
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn acquire_with_unknown_outcome_fails_and_leaves_no_key() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        drop(acquire_now(&semaphore(&store, 1).await, 1).await);
        settle().await;
        let session = session_on(intercepted(&store, nth("txn", 1, 1, action))).await;
        let semaphore = Semaphore::new(&session, "s", 1);
        let error = semaphore.acquire(1).await.unwrap_err();
        let SemaphoreError::Primitive(PrimitiveError::Backend(error)) = error else {
            panic!("{error}")
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        settle().await;
        assert_eq!(keys(&store, "s/permits/").await, [""; 0]);
        semaphore.acquire(1).await.unwrap().release().await.unwrap();
    }
}

/// The request was sent, so dropping its future does not stop it: it creates the key later.
#[tokio::test(start_paused = true)]
async fn acquire_applied_after_its_future_dropped_leaves_no_key() {
    for delay in [1, 7, 100] {
        let store = Client::new(MemBackend::new());
        semaphore(&store, 1).await.acquire(1).await.unwrap().release().await.unwrap();
        let delayed = nth("txn", 1, 1, Action::Delay(secs(delay)));
        let late = Semaphore::new(&session_on(intercepted(&store, delayed)).await, "s", 1);
        assert!(timeout(secs(1) / 2, late.acquire(1)).await.is_err());
        sleep(secs(2 * delay + 20)).await;
        assert_eq!(keys(&store, "s/permits/").await, [""; 0], "delayed by {delay} s");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_release_of_permits_is_retried_in_background() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 3, 4, action))).await;
        let permits = Semaphore::new(&session, "s", 1).acquire(1).await.unwrap();
        let error = permits.release().await.unwrap_err();
        drop(error);
        sleep(secs(1)).await;
        assert_eq!(keys(&store, "s/permits/").await, [""; 0]);
    }
}
