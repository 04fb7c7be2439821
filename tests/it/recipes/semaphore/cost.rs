//! The cost of a semaphore, in requests and watch events.

use std::time::Duration;

use coord_core::Client;
use coord_core::recipes::{Semaphore, SemaphoreError};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::semaphore;
use crate::support::{intercepted, is_keep_alive, newest_revision, secs, session_on, settle};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// The semaphore `s` on a session whose requests are recorded.
async fn recorded(store: &Client, limit: u32, recorder: &Recorder) -> Semaphore {
    let recording = recorder.clone();
    let rule = move |call: &Call| {
        if !is_keep_alive(call) {
            recording.action(call);
        }
        Action::Pass
    };
    Semaphore::new(&session_on(intercepted(store, rule)).await, "s", limit)
}

#[tokio::test(start_paused = true)]
async fn uncontended_acquire_and_release_cost_one_request_each() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let semaphore = recorded(&store, 3, &recorder).await;
    recorder.take();
    let first = semaphore.acquire(1).await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn", "the first contender stores the limit");
    let second = semaphore.acquire(2).await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "beside another holder");
    second.release().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    drop(first);
    settle().await;
    assert_eq!(recorder.take().names(), "txn", "a drop costs the same as a release");
    for request in [semaphore.available().await.unwrap(), semaphore.limit().await.unwrap()] {
        assert_eq!(request, 3);
    }
    semaphore.set_limit(2).await.unwrap();
    assert_eq!(recorder.take().names(), "txn range put");
}

#[tokio::test(start_paused = true)]
async fn try_acquire_costs_one_or_two_requests() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    semaphore(&store, 3).await.acquire(1).await.unwrap().release().await.unwrap();
    let semaphore = recorded(&store, 3, &recorder).await;
    recorder.take();
    let first = semaphore.try_acquire(2).await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "no permit is taken");
    let second = semaphore.try_acquire(1).await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn", "a permit is taken, and one is free");
    let before = newest_revision(&store).await;
    assert!(semaphore.try_acquire(1).await.unwrap().is_none());
    assert_eq!(recorder.take().names(), "txn", "no permit is free");
    assert_eq!(newest_revision(&store).await, before, "nothing was written");
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn waiting_acquire_costs_three_or_four_requests() {
    for writes_before_watch in [false, true] {
        let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
        let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
        let watch_delay = Duration::from_millis(if writes_before_watch { 50 } else { 0 });
        let recording = recorder.clone();
        let rule = move |call: &Call| {
            recording.action(call);
            match call {
                Call::Watch(_) => Action::Delay(watch_delay),
                _ => Action::Pass,
            }
        };
        let waiter = Semaphore::new(&session_on(intercepted(&store, rule)).await, "s", 1);
        recorder.take();
        let act = async {
            store.put("other", "").await.unwrap();
            settle().await;
            let expected =
                if writes_before_watch { "txn watch watch txn" } else { "txn watch watch" };
            assert_eq!(recorder.take().names(), expected);
            holder.release().await.unwrap();
        };
        let (permits, ()) =
            while_waiting_after(Duration::from_millis(20), waiter.acquire(1), act).await;
        assert_eq!(recorder.take().names(), "txn", "the read that confirms the permits");
        permits.unwrap().release().await.unwrap();
        assert_eq!(recorder.take().names(), "txn");
    }
}

#[tokio::test(start_paused = true)]
async fn long_semaphore_wait_costs_watches_and_a_read_per_ttl() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let _holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
    let waiter = recorded(&store, 1, &recorder).await;
    recorder.take();
    let (acquired, ()) = while_waiting(timeout(secs(25), waiter.acquire(1)), async {
        assert_eq!(recorder.take().names(), "txn watch watch");
        settle().await;
        assert_eq!(recorder.take().names(), "watch", "the watch of its own key");
        sleep(secs(20)).await;
        assert_eq!(recorder.take().names(), "txn txn", "a read in each TTL");
    })
    .await;
    assert!(acquired.is_err());
}

/// The number of requests from the release of the holder on, in which 300 waiters for one permit
/// each acquire and release.
async fn requests_of_waiters(limit: u32) -> Result<usize, SemaphoreError> {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let holder = recorded(&store, limit, &recorder).await.acquire(limit).await?;
    recorder.take();
    let mut waiters = JoinSet::new();
    for _ in 0..300 {
        let waiter = recorded(&store, limit, &recorder).await;
        waiters.spawn(async move {
            waiter.acquire(1).await?.release().await?;
            Ok::<_, SemaphoreError>(())
        });
        sleep(Duration::from_millis(1)).await;
    }
    settle().await;
    settle().await;
    let waiting = recorder.take();
    assert_eq!(waiting.count("watch"), 900, "of the keys ahead, the limit, and the own key");
    holder.release().await?;
    for waited in waiters.join_all().await {
        waited?;
    }
    let calls = recorder.take();
    assert_eq!(calls.count("watch"), 0);
    Ok(calls.count("txn") + calls.count("range"))
}

/// Every waiter receives the event of each release, but only the waiter that it admits sends a
/// request.
#[tokio::test(start_paused = true)]
async fn admission_of_permits_costs_one_request_of_many_waiters() {
    for limit in [1, 7] {
        let requests = requests_of_waiters(limit).await.unwrap();
        assert_eq!(requests, 1 + 2 * 300, "limit {limit}: a read and a release for each waiter");
    }
}
