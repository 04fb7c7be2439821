//! Closing a session: `close`, the drop of its last handle, and the shutdown of its runtime.

use std::sync::{Arc, Mutex as StdMutex};

use coord_core::{
    Client, Error, Session,
    error::{ErrorKind, LossReason},
    kv::Put,
    session::SessionState,
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder, poll_at_most};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::adopt;
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

/// Regression: `close` revoked the lease of a lost session, which an adopter may hold by then. A
/// dropped `close` did not, so its effect depended on the caller.
#[tokio::test(start_paused = true)]
async fn close_of_a_lost_session_spares_the_adopter() {
    for by in ["close", "supervisor", "run"] {
        let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
        let cut_off = intercepted(&store, only("lease_keep_alive", Action::DropRequest));
        // The supervisor opens no other session.
        let kv = intercepted(&cut_off, nth("lease_grant", 2, 99, Action::DropRequest));
        let kv = intercepted(&kv, record.clone());
        let builder = Session::builder(&kv).ttl(secs(10));
        let adopt_after_loss = async |old: &Session| {
            store.put_with(Put::new("a", "1").lease(old.lease_id())).await.unwrap();
            assert_eq!(old.lost().await, LossReason::DeadlineUnconfirmed);
            adopt(&store, old.lease_id()).await
        };
        let adopter = match by {
            "close" => {
                let old = builder.open().await.unwrap();
                let adopter = adopt_after_loss(&old).await;
                old.close().await.unwrap();
                adopter
            }
            "supervisor" => {
                let supervisor = builder.supervise().await.unwrap();
                let adopter = adopt_after_loss(&supervisor.session()).await;
                supervisor.close().await.unwrap();
                adopter
            }
            _ => {
                let work = async |old: Session| Ok::<_, Error>(adopt_after_loss(&old).await);
                builder.run(work).await.unwrap()
            }
        };
        sleep(secs(60)).await;
        assert_eq!(adopter.state(), SessionState::Alive, "{by}");
        assert!(store.get("a").await.unwrap().is_some(), "{by}");
        assert_eq!(record.take().count("lease_revoke"), 0, "{by}");
    }
}

/// Regression: a later `close` revoked the lease again, in the future of the caller.
#[tokio::test(start_paused = true)]
async fn later_close_returns_the_result_of_the_first() {
    let refused = Error::PermissionDenied { reason: "no".to_owned() };
    for (action, kind) in
        [(Action::Yield, None), (Action::Fail(refused), Some(ErrorKind::PermissionDenied))]
    {
        let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
        let faulty = intercepted(&store, only("lease_revoke", action));
        let session = session_on(intercepted(&faulty, record.clone())).await;
        let (first, second) = tokio::join!(session.close(), session.close());
        for closed in [first, second, session.close().await] {
            assert_eq!(closed.err().map(|error| error.kind()), kind);
        }
        assert_eq!(record.take().count("lease_revoke"), 1, "{kind:?}");
    }
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

/// The revocation ends with the runtime: its outcome is unknown.
#[test]
fn close_interrupted_by_runtime_shutdown_is_an_error() {
    let runtime =
        || Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (first, second) = (runtime(), runtime());
    let session = first.block_on(async {
        let kv = intercepted(&Client::new(MemBackend::new()), only("lease_revoke", Action::Hang));
        let session = session_on(kv).await;
        assert!(poll_at_most(1, session.close()).await.is_none());
        yield_now().await;
        session
    });
    drop(first);
    assert_eq!(session.state(), SessionState::Lost(LossReason::Closed));
    let closed = second.block_on(session.close());
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::Unavailable);
}
