//! The barrier: holding, waiting, loss, late requests, and requests per operation.

use std::time::Duration;

use coord_core::error::LossReason;
use coord_core::kv::{Compact, Put, Txn};
use coord_core::recipes::Barrier;
use coord_core::{Client, Session};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    SilentWatches, intercepted, keys, nth, secs, separate_client, session, session_on, settle,
};
use crate::while_waiting::{while_waiting, while_waiting_after};

fn store() -> Client {
    Client::new(MemBackend::new())
}

async fn hold(session: &Session) -> coord_core::recipes::BarrierGuard {
    Barrier::new(session.client(), "b").hold(session).await.unwrap().expect("it is free")
}

/// Go's `TestBarrierSingleNode` and `TestBarrierMultiNode`.
#[tokio::test(start_paused = true)]
async fn five_waiters_wait_and_wake_within_half_a_second() {
    for in_one_client in [true, false] {
        let store = store();
        let holder = session(&store).await;
        let held = hold(&holder).await;
        let again = Barrier::new(&store, "b").hold(&session(&store).await).await.unwrap();
        assert!(again.is_none(), "held already");
        let clients =
            (0..5).map(|_| if in_one_client { store.clone() } else { separate_client(&store) });
        let waiting = clients.map(async |client| {
            Barrier::new(&client, "b").wait().await.unwrap();
            Instant::now()
        });
        let (woken, released) = while_waiting(join_all(waiting), async {
            store.put("other", "").await.unwrap();
            sleep(secs(40)).await;
            held.release().await.unwrap();
            Instant::now()
        })
        .await;
        assert!(woken.iter().all(|at| *at >= released && *at - released < secs(1) / 2));
        assert_eq!(keys(&store, "b").await, [""; 0]);
    }
}

/// Go's `TestBarrierWaitNonexistentKey`.
#[tokio::test(start_paused = true)]
async fn absent_barrier_passes_although_longer_names_exist() {
    let store = store();
    store.put("bar", "").await.unwrap();
    store.put("b/below", "").await.unwrap();
    timeout(secs(1), Barrier::new(&store, "b").wait()).await.unwrap().unwrap();
}

/// Go's barrier has no lease: after a crash of the holder it is held until an operator deletes it.
#[tokio::test(start_paused = true)]
async fn barrier_of_a_lost_holder_is_released() {
    let store = store();
    let partitioned = intercepted(&store, crate::support::only("lease_keep_alive", Action::Hang));
    let held = hold(&session_on(partitioned).await).await;
    let barrier = Barrier::new(&store, "b");
    let ((reason, lost_at), passed_at) =
        tokio::join!(async { (held.lost().await, Instant::now()) }, async {
            barrier.wait().await.unwrap();
            Instant::now()
        });
    assert_eq!(reason, LossReason::DeadlineUnconfirmed);
    assert!(lost_at < passed_at, "the holder is notified first");
}

#[tokio::test(start_paused = true)]
async fn barrier_guard_reports_a_deleted_key() {
    let store = store();
    let held = hold(&session(&store).await).await;
    assert_eq!(held.run_while_held(async { 1 }).await, Ok(1));
    held.txn(Txn::new().and_then([Put::new("n", "1")])).await.unwrap();
    let (reason, deleted) = while_waiting(held.lost(), store.delete("b")).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    let late = held.txn(Txn::new().and_then([Put::new("n", "2")])).await;
    assert_eq!(late.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert_eq!(held.release().await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}

/// Go's waiter returns, or hangs, when its watch is broken by a compaction.
#[tokio::test(start_paused = true)]
async fn waiter_keeps_waiting_after_compaction() {
    let store = store();
    let held = hold(&session(&store).await).await;
    let barrier = Barrier::new(&store, "b");
    let (passed, released) = while_waiting(
        async {
            barrier.wait().await.unwrap();
            Instant::now()
        },
        async {
            let revision = store.put("other", "1").await.unwrap().header.revision;
            store.compact(Compact::new(revision)).await.unwrap();
            sleep(secs(70)).await;
            held.release().await.unwrap();
            Instant::now()
        },
    )
    .await;
    assert!(passed >= released);
}

#[tokio::test(start_paused = true)]
async fn silent_watch_delays_a_waiter_by_half_a_minute() {
    let store = store();
    let held = hold(&session(&store).await).await;
    let silent = intercepted(&store, SilentWatches(Recorder::new()));
    let barrier = Barrier::new(&silent, "b");
    let (passed, ()) = while_waiting(timeout(secs(31), barrier.wait()), async {
        held.release().await.unwrap();
        // Held again: the waiter that has waited for the former holder passes.
        drop(hold(&session(&store).await).await);
    })
    .await;
    passed.expect("within half a minute").unwrap();
}

/// The request of a dropped attempt creates the key late, or its cleanup comes late. Neither
/// releases what the same session holds by then.
#[tokio::test(start_paused = true)]
async fn cleanup_of_a_dropped_attempt_spares_a_later_holder() {
    for action in [Action::DropRequest, Action::DropResponse, Action::Delay(secs(3))] {
        let store = store();
        let session = session_on(intercepted(&store, nth("txn", 1, 1, action))).await;
        let barrier = Barrier::new(session.client(), "b");
        let first = timeout(secs(1), barrier.hold(&session)).await;
        assert!(!matches!(first, Ok(Ok(Some(_)))));
        drop(first);
        let held = loop {
            match barrier.hold(&session).await.unwrap() {
                Some(held) => break held,
                None => settle().await,
            }
        };
        assert!(timeout(secs(100), held.lost()).await.is_err(), "not deleted by the cleanup");
        held.release().await.unwrap();
        sleep(secs(30)).await;
        assert_eq!(keys(&store, "b").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn release_with_unknown_outcome_can_be_repeated() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = store();
        let held = hold(&session_on(intercepted(&store, nth("txn", 2, 2, action))).await).await;
        let error = held.release().await.unwrap_err();
        assert!(error.cause.is_retryable());
        error.held.release().await.unwrap();
        assert_eq!(keys(&store, "b").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn barrier_operations_cost_as_documented() {
    let (store, recorder) = (store(), Recorder::new());
    let client = intercepted(&store, recorder.clone());
    let session = session_on(client.clone()).await;
    let barrier = Barrier::new(&client, "b");
    recorder.take();
    barrier.wait().await.unwrap();
    assert_eq!(recorder.take().names(), "range", "not held");
    let held = hold(&session).await;
    assert_eq!(recorder.take().names(), "txn");
    assert!(barrier.hold(&session).await.unwrap().is_none());
    assert_eq!(recorder.take().names(), "txn", "held already");
    let (passed, released) =
        while_waiting_after(Duration::from_millis(20), barrier.wait(), held.release()).await;
    passed.unwrap();
    released.unwrap();
    assert_eq!(recorder.take().names(), "range watch txn", "wait, and release");
    drop(hold(&session).await);
    settle().await;
    assert_eq!(recorder.take().names(), "txn txn", "a drop costs the same as a release");
}
