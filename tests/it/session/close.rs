//! Closing a session: `close`, the drop of its last handle, and the shutdown of its runtime.

use std::sync::{Arc, Mutex as StdMutex};

use coord_core::{
    Client, Session,
    error::{ErrorKind, LossReason},
    kv::Put,
    session::SessionState,
};
use coord_mem::MemBackend;
use coord_testkit::{Action, poll_at_most};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::support::{intercepted, nth, only, secs, session, session_on, settle, timed};

#[tokio::test(start_paused = true)]
async fn close_revokes_the_lease_and_is_idempotent() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
    session.close().await.unwrap();
    assert!(store.get("a").await.unwrap().is_none());
    assert!(store.leases().await.unwrap().leases.is_empty());
    assert_eq!(session.state(), SessionState::Lost(LossReason::Closed));
    session.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_notifies_holders_before_their_keys_are_deleted() {
    let store = Client::new(MemBackend::new());
    let session =
        session_on(intercepted(&store, only("lease_revoke", Action::Delay(secs(1))))).await;
    store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
    let (closed, key_exists) = tokio::join!(session.close(), async {
        assert_eq!(session.lost().await, LossReason::Closed);
        store.get("a").await.unwrap().is_some()
    });
    closed.unwrap();
    assert!(key_exists, "the key was deleted before the holder was notified");
}

#[tokio::test(start_paused = true)]
async fn close_times_out_when_the_store_does_not_respond() {
    let store = Client::new(MemBackend::new());
    let session = session_on(intercepted(&store, only("lease_revoke", Action::Hang))).await;
    let (closed, after) = timed(session.close()).await;
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(after <= secs(10), "took {after:?}");
    assert_eq!(session.state(), SessionState::Lost(LossReason::Closed));
}

#[tokio::test(start_paused = true)]
async fn close_retries_while_the_store_is_unavailable() {
    let store = Client::new(MemBackend::new());
    let session =
        session_on(intercepted(&store, nth("lease_revoke", 1, 3, Action::DropRequest))).await;
    session.close().await.unwrap();
    assert!(store.leases().await.unwrap().leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn dropped_close_still_closes_the_session() {
    let store = Client::new(MemBackend::new());
    let session = session_on(intercepted(&store, only("lease_revoke", Action::Yield))).await;
    assert!(poll_at_most(1, session.close()).await.is_none());
    settle().await;
    assert!(store.leases().await.unwrap().leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn last_handle_dropped_revokes_the_lease() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let other = session.clone();
    drop(session);
    sleep(secs(60)).await;
    assert_eq!(other.state(), SessionState::Alive);
    drop(other);
    settle().await;
    assert!(store.leases().await.unwrap().leases.is_empty());
}

/// Regression: tokio's watch channel, which woke the waiters, uses a random order. Runs of a test
/// with several waiters differed.
#[tokio::test(start_paused = true)]
async fn waiters_for_the_loss_are_woken_in_order() {
    let session = session(&Client::new(MemBackend::new())).await;
    let woken = Arc::new(StdMutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for n in 0..20 {
        let (session, woken) = (session.clone(), Arc::clone(&woken));
        waiters.spawn(async move {
            session.lost().await;
            woken.lock().unwrap().push(n);
        });
    }
    settle().await;
    session.close().await.unwrap();
    waiters.join_all().await;
    assert_eq!(*woken.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

#[test]
fn session_is_lost_when_its_runtime_shuts_down() {
    let runtime =
        || Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (session_runtime, waiter_runtime) = (runtime(), runtime());
    let session = session_runtime.block_on(session(&Client::new(MemBackend::new())));
    let mut waiters = JoinSet::new();
    waiter_runtime.block_on(async {
        let session = session.clone();
        waiters.spawn(async move { session.lost().await });
        yield_now().await;
    });
    drop(session_runtime);
    waiter_runtime.block_on(async {
        let reason = timeout(secs(60), waiters.join_next()).await.expect("the waiter is notified");
        assert_eq!(reason.unwrap().unwrap(), LossReason::Expired);
        assert_eq!(session.lost().await, LossReason::Expired, "a later call returns the same");
    });
}

/// Regression: the drop of the session task left the state at `Alive`.
#[test]
fn supervisor_is_lost_when_its_runtime_shuts_down() {
    let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime();
    let (session, supervisor) = first.block_on(async {
        let kv = Client::new(MemBackend::new());
        (session_on(kv.clone()).await, Session::builder(&kv).supervise().await.unwrap())
    });
    drop(first);
    assert_eq!(session.state(), SessionState::Lost(LossReason::Expired));
    assert_eq!(supervisor.session().state(), SessionState::Lost(LossReason::Expired));
    let second = runtime();
    assert_eq!(second.block_on(session.lost()), LossReason::Expired);
    let ready = second.block_on(supervisor.ready());
    assert_eq!(ready.unwrap_err().loss(), Some(LossReason::Expired));
}
