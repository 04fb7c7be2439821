//! Cancellation of `lock`, `try_lock` and `unlock`, and requests with unknown outcome.
//!
//! A future may be dropped at any await, a request may arrive after its future was dropped, and a
//! response may never arrive. In each case no key stays behind, and no lock is lost or kept by
//! accident.

use coord_core::{
    Client, Mutex, Session,
    error::{ErrorKind, PrimitiveError},
    kv::{LeaseGrant, Put},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, poll_at_most};
use tokio::time::{sleep, timeout};

use crate::support::{POLLS_MAX, intercepted, keys, nth, only, secs, session, session_on, settle};

#[tokio::test(start_paused = true)]
async fn uncontended_lock_dropped_at_any_await_leaves_no_key() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, |_: &Call| Action::Yield)).await;
        let locked = poll_at_most(polls, Mutex::new(&session, "m").lock()).await;
        let is_complete = locked.is_some();
        drop(locked);
        settle().await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "dropped after {polls} polls");
        if is_complete {
            assert!(polls > 2, "complete after {polls} polls: never dropped at an await");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn waiting_lock_dropped_at_any_await_wakes_successor() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
        let session = session_on(intercepted(&store, |_: &Call| Action::Yield)).await;
        let (next, mutex) = (Mutex::new(&session, "m"), Mutex::new(&session, "m"));
        let dropped = timeout(secs(3), poll_at_most(polls, mutex.lock()));
        let (is_complete, next, ()) = tokio::join!(
            async { dropped.await.is_ok_and(|locked| locked.is_some()) },
            async {
                settle().await;
                next.lock().await
            },
            async {
                sleep(secs(1)).await;
                holder.unlock().await.unwrap();
            }
        );
        drop(next.unwrap());
        settle().await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "dropped after {polls} polls");
        if is_complete {
            assert!(polls > 8, "complete after {polls} polls: never dropped while waiting");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn try_lock_dropped_at_any_await_leaves_no_key() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        // The key of a child name, so that a second request is sent.
        let _child = Mutex::new(&session(&store).await, "m/below").lock().await.unwrap();
        let session = session_on(intercepted(&store, |_: &Call| Action::Yield)).await;
        let tried = poll_at_most(polls, Mutex::new(&session, "m").try_lock()).await;
        let is_complete = tried.is_some();
        drop(tried);
        settle().await;
        assert_eq!(keys(&store, "m/").await.len(), 1, "dropped after {polls} polls");
        if is_complete {
            assert!(polls > 4, "complete after {polls} polls: never dropped at an await");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

/// The request was sent, so dropping its future does not stop it: it creates the key later.
#[tokio::test(start_paused = true)]
async fn lock_applied_after_its_future_dropped_leaves_no_key() {
    for delay in [1, 3, 7, 15, 100] {
        let store = Client::new(MemBackend::new());
        let delayed = nth("txn", 1, 1, Action::Delay(secs(delay)));
        let session = session_on(intercepted(&store, delayed)).await;
        assert!(timeout(secs(1) / 2, Mutex::new(&session, "m").lock()).await.is_err());
        sleep(secs(2 * delay + 20)).await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "delayed by {delay} s");
        let revision = store.put("x", "").await.unwrap().header.revision;
        assert_eq!(revision.0, 4, "the key was created and deleted before");
    }
}

#[tokio::test(start_paused = true)]
async fn lock_with_unknown_outcome_fails_and_leaves_no_key() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 1, 1, action))).await;
        let mutex = Mutex::new(&session, "m");
        let error = mutex.lock().await.unwrap_err();
        assert!(matches!(error, PrimitiveError::Backend(e) if e.kind() == ErrorKind::Unavailable));
        settle().await;
        assert_eq!(keys(&store, "m/").await, [""; 0]);
        mutex.lock().await.unwrap().unlock().await.unwrap();
    }
}

/// Cleanup finds the key of an ambiguous enqueue by its name. Another client may have a key of that
/// name: a former owner of the lease, whose key is older than the session, or a client without the
/// lease.
#[tokio::test(start_paused = true)]
async fn cleanup_deletes_only_keys_of_its_own_session() {
    for (adopted, on_lease) in [(true, true), (false, false)] {
        let store = Client::new(MemBackend::new());
        let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
        let key = format!("m/{lease}-0");
        let put = Put::new(&key, "another client's");
        let put = if on_lease { put.lease(lease) } else { put };
        if adopted {
            store.put_with(put.clone()).await.unwrap();
        }
        let client = intercepted(&store, nth("txn", 2, 2, Action::DropRequest));
        let session = Session::builder(&client).lease(lease).open().await.unwrap();
        if !adopted {
            store.put_with(put).await.unwrap();
        }
        assert!(Mutex::new(&session, "m").lock().await.is_err());
        sleep(secs(1000)).await;
        assert_eq!(keys(&store, "m/").await, [key], "adopted: {adopted}");
    }
}

#[tokio::test(start_paused = true)]
async fn cleanup_repeats_until_confirmed() {
    let store = Client::new(MemBackend::new());
    let session = session_on(intercepted(&store, nth("txn", 2, 6, Action::DropRequest))).await;
    drop(Mutex::new(&session, "m").lock().await.unwrap());
    sleep(secs(5)).await;
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn unlock_dropped_at_any_await_still_unlocks() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, |_: &Call| Action::Yield)).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let unlocked = poll_at_most(polls, guard.unlock()).await;
        settle().await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "dropped after {polls} polls");
        if unlocked.is_some() {
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

/// etcd issue 22123, for locks: a failed unlock must not leave the key behind.
#[tokio::test(start_paused = true)]
async fn failed_unlock_is_retried_in_background() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 2, 3, action))).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        assert!(guard.unlock().await.is_err());
        sleep(secs(1)).await;
        assert_eq!(keys(&store, "m/").await, [""; 0]);
    }
}

/// etcd issue 22082: an unlock must not delete a key of the same name that was created later.
#[tokio::test(start_paused = true)]
async fn unlock_spares_a_recreated_key() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    let key = guard.key().clone();
    store.delete(&key).await.unwrap();
    store.put(&key, "another client's").await.unwrap();
    assert!(guard.unlock().await.unwrap_err().loss().is_some());
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, "another client's");
}

#[test]
fn guard_dropped_outside_runtime_unlocks() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Client::new(MemBackend::new());
    let guard =
        runtime.block_on(async { Mutex::new(&session(&store).await, "m").lock().await.unwrap() });
    drop(guard);
    runtime.block_on(settle());
    assert_eq!(runtime.block_on(keys(&store, "m/")), [""; 0]);
    drop(runtime);
}

#[tokio::test(start_paused = true)]
async fn hanging_lock_fails_when_its_session_expires() {
    let store = Client::new(MemBackend::new());
    let rule = |call: &Call| match call {
        Call::Txn(_) | Call::LeaseKeepAlive(_) => Action::Hang,
        _ => Action::Pass,
    };
    let session = session_on(intercepted(&store, rule)).await;
    assert!(Mutex::new(&session, "m").lock().await.unwrap_err().loss().is_some());
    let hanging = session_on(intercepted(&store, only("txn", Action::Hang))).await;
    let waited = timeout(secs(60), Mutex::new(&hanging, "m").lock()).await;
    assert!(waited.is_err(), "while the session is alive, only the backend limits the request");
}

/// A program with `#[tokio::main]`: the runtime ends when `main` returns, so the request of a
/// dropped guard is never sent, and other clients wait until the lease expires.
#[test]
fn program_exit_leaves_lock_unless_session_closes() {
    for closes in [false, true] {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(true).build().unwrap()
        };
        let (program, store_runtime) = (runtime(), runtime());
        let store = store_runtime.block_on(async { Client::new(MemBackend::new()) });
        program.block_on(async {
            let session = session(&store).await;
            let guard = Mutex::new(&session, "m").lock().await.unwrap();
            if closes {
                session.close().await.unwrap();
            }
            drop(guard);
        });
        drop(program);
        let remaining = store_runtime.block_on(keys(&store, "m/"));
        assert_eq!(remaining.len(), usize::from(!closes), "{remaining:?}");
    }
}
