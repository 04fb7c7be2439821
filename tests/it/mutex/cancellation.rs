//! Futures dropped wherever they wait, requests on their way, answers that never come: no key
//! stays behind, and no lock is lost or kept by accident.

use coord_core::{
    Client, Mutex, Session,
    error::{ErrorKind, PrimitiveError},
    kv::{LeaseGrant, Put},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, poll_at_most};
use tokio::time::{sleep, timeout};

use crate::support::{POLLS_MAX, behind, keys, nth, only, secs, session, session_on, settle};

#[tokio::test(start_paused = true)]
async fn uncontended_lock_dropped_at_any_await_leaves_no_key() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let session = session_on(behind(&store, |_: &Call| Action::Yield)).await;
        let locked = poll_at_most(polls, Mutex::new(&session, "m").lock()).await;
        let done = locked.is_some();
        drop(locked);
        settle().await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "dropped after {polls} polls");
        if done {
            assert!(polls > 2, "the future was never dropped on its way");
            return;
        }
    }
    panic!("the lock was never had");
}

#[tokio::test(start_paused = true)]
async fn waiting_lock_dropped_at_any_await_wakes_successor() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
        let session = session_on(behind(&store, |_: &Call| Action::Yield)).await;
        let (next, mutex) = (Mutex::new(&session, "m"), Mutex::new(&session, "m"));
        let dropped = timeout(secs(3), poll_at_most(polls, mutex.lock()));
        let (done, next, ()) = tokio::join!(
            async { dropped.await.is_ok_and(|locked| locked.is_some()) },
            async {
                settle().await;
                next.lock().await
            },
            async {
                sleep(secs(1)).await;
                held.unlock().await.unwrap();
            }
        );
        drop(next.unwrap());
        settle().await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "dropped after {polls} polls");
        if done {
            assert!(polls > 8, "the future was never dropped while it waited");
            return;
        }
    }
    panic!("the lock was never had");
}

#[tokio::test(start_paused = true)]
async fn try_lock_dropped_at_any_await_leaves_no_key() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        // A lock below this one, so that the second request is made too.
        let _below = Mutex::new(&session(&store).await, "m/below").lock().await.unwrap();
        let session = session_on(behind(&store, |_: &Call| Action::Yield)).await;
        let tried = poll_at_most(polls, Mutex::new(&session, "m").try_lock()).await;
        let done = tried.is_some();
        drop(tried);
        settle().await;
        assert_eq!(keys(&store, "m/").await.len(), 1, "dropped after {polls} polls");
        if done {
            assert!(polls > 4, "the future was never dropped on its way");
            return;
        }
    }
    panic!("the lock was never tried");
}

/// The request was sent and cannot be taken back: it creates the key after everybody has gone.
#[tokio::test(start_paused = true)]
async fn lock_applied_after_its_future_dropped_leaves_no_key() {
    for delay in [1, 3, 7, 15, 100] {
        let store = Client::new(MemBackend::new());
        let late = nth("txn", 1, 1, Action::Delay(secs(delay)));
        let session = session_on(behind(&store, late)).await;
        assert!(timeout(secs(1) / 2, Mutex::new(&session, "m").lock()).await.is_err());
        sleep(secs(2 * delay + 20)).await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "{delay} s late");
        let revision = store.put("x", "").await.unwrap().header.revision;
        assert_eq!(revision.0, 4, "it did arrive, and was removed: two changes before this one");
    }
}

#[tokio::test(start_paused = true)]
async fn lock_with_unknown_outcome_fails_and_leaves_no_key() {
    for fate in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(behind(&store, nth("txn", 1, 1, fate))).await;
        let mutex = Mutex::new(&session, "m");
        let error = mutex.lock().await.unwrap_err();
        assert!(matches!(error, PrimitiveError::Backend(e) if e.kind() == ErrorKind::Unavailable));
        settle().await;
        assert_eq!(keys(&store, "m/").await, [""; 0]);
        mutex.lock().await.unwrap().unlock().await.unwrap();
    }
}

/// What may have been created is looked for by its name, which somebody else may have used.
#[tokio::test(start_paused = true)]
async fn cleanup_deletes_only_keys_of_its_own_session() {
    for (adopted, on_lease) in [(true, true), (false, false)] {
        let store = Client::new(MemBackend::new());
        let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
        let key = format!("m/{lease}-0");
        let put = Put::new(&key, "somebody else's");
        let put = if on_lease { put.lease(lease) } else { put };
        // A former owner's is older than the session, a stranger's not on its lease.
        if adopted {
            store.put_with(put.clone()).await.unwrap();
        }
        let kv = behind(&store, nth("txn", 1, 1, Action::DropRequest));
        let session = Session::builder(&kv).lease(lease).open().await.unwrap();
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
    let session = session_on(behind(&store, nth("txn", 2, 6, Action::DropRequest))).await;
    drop(Mutex::new(&session, "m").lock().await.unwrap());
    sleep(secs(5)).await;
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn unlock_dropped_at_any_await_still_unlocks() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let session = session_on(behind(&store, |_: &Call| Action::Yield)).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let unlocked = poll_at_most(polls, guard.unlock()).await;
        settle().await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "dropped after {polls} polls");
        if unlocked.is_some() {
            return;
        }
    }
    panic!("unlock never came through");
}

/// etcd issue 22123, for locks: a failed unlock must not forget the key.
#[tokio::test(start_paused = true)]
async fn failed_unlock_is_retried_in_background() {
    for fate in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(behind(&store, nth("txn", 2, 3, fate))).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        assert!(guard.unlock().await.is_err());
        sleep(secs(1)).await;
        assert_eq!(keys(&store, "m/").await, [""; 0]);
    }
}

/// etcd issue 22082: an unlock must not delete a lock that was taken later.
#[tokio::test(start_paused = true)]
async fn unlock_spares_a_recreated_key() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    let key = guard.key().clone();
    store.delete(&key).await.unwrap();
    store.put(&key, "somebody else's").await.unwrap();
    assert!(guard.unlock().await.unwrap_err().loss().is_some());
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, "somebody else's");
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
    let session = session_on(behind(&store, rule)).await;
    assert!(Mutex::new(&session, "m").lock().await.unwrap_err().loss().is_some());
    let hanging = session_on(behind(&store, only("txn", Action::Hang))).await;
    let waited = timeout(secs(60), Mutex::new(&hanging, "m").lock()).await;
    assert!(waited.is_err(), "a session that lives leaves it to the backend to time out");
}

/// What `main` is with `#[tokio::main]`: the runtime ends when the future returns, and the request
/// of a dropped guard is never sent. Then other clients wait for the lease.
#[test]
fn program_exit_leaves_lock_unless_session_closes() {
    for closes in [false, true] {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(true).build().unwrap()
        };
        let (program, other) = (runtime(), runtime());
        let store = other.block_on(async { Client::new(MemBackend::new()) });
        program.block_on(async {
            let session = session(&store).await;
            let guard = Mutex::new(&session, "m").lock().await.unwrap();
            if closes {
                session.close().await.unwrap();
            }
            drop(guard);
        });
        drop(program);
        let left = other.block_on(keys(&store, "m/"));
        assert_eq!(left.len(), usize::from(!closes), "{left:?}");
    }
}
