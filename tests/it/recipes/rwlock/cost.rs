//! The cost of a read-write lock, in requests.

use std::time::Duration;

use coord_core::Client;
use coord_core::error::PrimitiveError;
use coord_core::recipes::RwLock;
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _};
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::rwlock;
use crate::support::{intercepted, is_keep_alive, session_on, settle};
use crate::while_waiting::while_waiting_after;

/// The lock `l` on a session whose requests are recorded.
async fn recorded(store: &Client, recorder: &Recorder) -> RwLock {
    let recording = recorder.clone();
    let rule = move |call: &Call| {
        if !is_keep_alive(call) {
            recording.action(call);
        }
        Action::Pass
    };
    RwLock::new(&session_on(intercepted(store, rule)).await, "l")
}

#[tokio::test(start_paused = true)]
async fn each_uncontended_step_of_a_rwlock_costs_one_request() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    // A read lock is one request however many readers hold the lock.
    let others = join_all((0..20).map(|_| rwlock(&store))).await;
    let readers = join_all(others.iter().map(RwLock::read)).await;
    let lock = recorded(&store, &recorder).await;
    recorder.take();
    let reader = lock.read().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    reader.unlock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    drop(lock.try_read().await.unwrap().unwrap());
    settle().await;
    assert_eq!(recorder.take().names(), "txn txn", "try_read, and a drop");
    assert!(lock.try_write().await.unwrap().is_none());
    assert_eq!(recorder.take().names(), "txn");
    drop(readers);
    settle().await;

    let reader = lock.read().await.unwrap();
    let writer = reader.upgrade().await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn", "read, upgrade");
    let reader = writer.downgrade().await.unwrap();
    reader.unlock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn", "downgrade, unlock");
    let writer = lock.write().await.unwrap();
    writer.unlock().await.unwrap();
    lock.try_write().await.unwrap().unwrap().unlock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn txn txn");
}

#[tokio::test(start_paused = true)]
async fn waiting_writer_costs_three_or_four_requests() {
    for writes_before_watch in [false, true] {
        let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
        let reader = rwlock(&store).await.read().await.unwrap();
        let watch_delay = Duration::from_millis(if writes_before_watch { 50 } else { 0 });
        let recording = recorder.clone();
        let rule = move |call: &Call| {
            recording.action(call);
            match call {
                Call::Watch(_) => Action::Delay(watch_delay),
                _ => Action::Pass,
            }
        };
        let waiter = RwLock::new(&session_on(intercepted(&store, rule)).await, "l");
        recorder.take();
        let act = async {
            store.put("other", "").await.unwrap();
            settle().await;
            let expected = if writes_before_watch { "txn watch txn" } else { "txn watch" };
            assert_eq!(recorder.take().names(), expected);
            reader.unlock().await.unwrap();
        };
        let (writer, ()) =
            while_waiting_after(Duration::from_millis(20), waiter.write(), act).await;
        assert_eq!(recorder.take().names(), "txn", "the read that confirms the lock");
        writer.unwrap().unlock().await.unwrap();
        assert_eq!(recorder.take().names(), "txn");
    }
}

/// The number of requests from the unlock of the holder on, in which 100 waiters lock and unlock.
async fn requests_of_waiters(write: fn(usize) -> bool) -> Result<usize, PrimitiveError> {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let holder = recorded(&store, &recorder).await.write().await?;
    let mut waiters = JoinSet::new();
    for n in 0..100 {
        let lock = recorded(&store, &recorder).await;
        waiters.spawn(async move {
            if write(n) {
                lock.write().await?.unlock().await?;
            } else {
                lock.read().await?.unlock().await?;
            }
            Ok::<_, PrimitiveError>(())
        });
        sleep(Duration::from_millis(1)).await;
    }
    settle().await;
    settle().await;
    recorder.take();
    holder.unlock().await?;
    for waited in waiters.join_all().await {
        waited?;
    }
    let calls = recorder.take();
    assert_eq!(calls.count("watch"), 0);
    Ok(calls.count("txn") + calls.count("range"))
}

/// One event admits a writer, or all readers up to the next writer.
#[tokio::test(start_paused = true)]
async fn admission_of_a_rwlock_costs_one_request_per_waiter() {
    let only_readers = requests_of_waiters(|_| false).await.unwrap();
    let only_writers = requests_of_waiters(|_| true).await.unwrap();
    let mixed = requests_of_waiters(|n| n % 10 == 5).await.unwrap();
    for requests in [only_readers, only_writers, mixed] {
        assert_eq!(requests, 1 + 2 * 100, "a read and an unlock for each");
    }
}
