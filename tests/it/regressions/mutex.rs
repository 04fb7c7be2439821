//! Faults of Go's locks: ended leases, shared keys, lost responses, child names and silent watches.

use coord_core::{
    Client, Mutex,
    error::{LossReason, Outcome},
    kv::{LeaseGrant, Put, Txn},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder};
use tokio::time::{sleep, timeout};

use super::go_locks::{GoContender, LockResult};
use super::{go_contender, go_contender_on};
use crate::support::{
    SilentWatches, intercepted, keys, nth, secs, separate_client, session, session_on, timed,
};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// Issues 11456, 9921 and 10111: `Lock` returns success to a waiter whose lease has ended, because
/// it only checks that it has no predecessor.
#[tokio::test(start_paused = true)]
async fn lock_fails_when_its_lease_was_revoked() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "go").lock().await.unwrap();
    let mut go = go_contender(&store, "go").await;
    let lease = go.lease;
    let (result, unlocked) = while_waiting(go.lock_of_3_4(), async {
        store.lease_revoke(lease).await.unwrap();
        guard.unlock().await
    })
    .await;
    unlocked.unwrap();
    assert!(matches!(result, Ok(LockResult::Held)), "success without a key: {result:?}");
    assert_eq!(keys(&store, "go/").await, [""; 0]);

    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter_session = session(&store).await;
    let mutex = Mutex::new(&waiter_session, "m");
    let (result, ()) = while_waiting(mutex.lock(), async {
        // Both happen before the waiter is polled, so that it finds an empty queue.
        store.lease_revoke(waiter_session.lease_id()).await.unwrap();
        store.delete(guard.key()).await.unwrap();
    })
    .await;
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::Revoked));
}

/// Issues 19597 and 12334: a waiter whose session has ended waits until it has no predecessor,
/// which may never happen.
#[tokio::test(start_paused = true)]
async fn waiter_fails_when_its_session_is_lost() {
    let store = Client::new(MemBackend::new());
    let _guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let mut go = go_contender(&store, "m").await;
    let lease = go.lease;
    let (waited, ()) = while_waiting(timeout(secs(50_000), go.lock()), async {
        store.lease_revoke(lease).await.unwrap();
    })
    .await;
    assert!(waited.is_err(), "still waiting after 50,000 s");

    let waiter_session = session(&store).await;
    let mutex = Mutex::new(&waiter_session, "m");
    let (waited, ()) = while_waiting_after(secs(1), timed(mutex.lock()), async {
        store.lease_revoke(waiter_session.lease_id()).await.unwrap();
    })
    .await;
    assert_eq!(waited.0.unwrap_err().loss(), Some(LossReason::Revoked));
    assert_eq!(waited.1, secs(1));
}

/// Issues 11360, 10756 and 7547: two mutexes of one session share a key, so both hold the lock at
/// once, and each unlocks the other.
#[tokio::test(start_paused = true)]
async fn locks_of_one_session_do_not_share_a_key() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    let [mut one, mut two] =
        [(), ()].map(|()| GoContender::new(separate_client(&store), lease, "go"));
    assert!(matches!(one.lock().await, Ok(LockResult::Held)));
    assert!(matches!(two.lock().await, Ok(LockResult::Held)), "both hold the lock");
    two.unlock().await.unwrap();
    assert_eq!(keys(&store, "go/").await, [""; 0], "the unlock of the second releases the first");

    let session = session(&store).await;
    let one = Mutex::new(&session, "m").lock().await.unwrap();
    let two = Mutex::new(&session, "m");
    assert!(timeout(secs(60), two.lock()).await.is_err());
    one.txn(Txn::new().and_then([Put::new("a", "held")])).await.unwrap();
}

/// The same issues: a failed `TryLock` deletes the key of a waiter of the same session.
#[tokio::test(start_paused = true)]
async fn failed_try_lock_spares_a_waiter_of_the_same_session() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let mut waiting = go_contender(&store, "m").await;
    let mut trying = GoContender::new(separate_client(&store), waiting.lease, "m");
    let (waited, tried) =
        while_waiting(timeout(secs(1), waiting.lock()), async { trying.try_lock().await }).await;
    assert!(waited.is_err() && matches!(tried, Ok(LockResult::Locked)));
    assert_eq!(keys(&store, "m/").await.len(), 1, "the key of the waiter was deleted");

    let session = session(&store).await;
    let (waiting, trying) = (Mutex::new(&session, "m"), Mutex::new(&session, "m"));
    let (waited, ()) = while_waiting(waiting.lock(), async {
        assert!(trying.try_lock().await.unwrap().is_none());
        guard.unlock().await.unwrap();
    })
    .await;
    drop(waited.unwrap());
}

/// Issue 22082: a former holder unlocks, and deletes the key of a newer holder of the same session,
/// because the two keys have the same name.
#[tokio::test(start_paused = true)]
async fn unlock_of_a_lost_lock_spares_the_new_holder() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    let [mut former, mut holder] =
        [(), ()].map(|()| GoContender::new(separate_client(&store), lease, "go"));
    former.lock().await.unwrap();
    store.delete(&keys(&store, "go/").await[0]).await.unwrap();
    holder.lock().await.unwrap();
    former.unlock().await.unwrap();
    assert_eq!(keys(&store, "go/").await, [""; 0], "the new holder lost the lock");

    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    let former = mutex.lock().await.unwrap();
    store.delete(former.key()).await.unwrap();
    let holder = mutex.lock().await.unwrap();
    assert_eq!(former.unlock().await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    holder.txn(Txn::new().and_then([Put::new("a", "held")])).await.unwrap();
}

/// No issue yet: if the response to the first request of `Lock` or `Campaign` is lost, the call
/// fails, and the key that it created blocks all contenders.
#[tokio::test(start_paused = true)]
async fn enqueue_with_a_lost_response_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let mut go =
        go_contender_on(intercepted(&store, nth("txn", 1, 1, Action::DropResponse)), "m").await;
    assert!(go.lock().await.is_err());
    let mutex = Mutex::new(&session(&store).await, "m");
    assert!(timeout(secs(50_000), mutex.lock()).await.is_err(), "the left key blocks the lock");
    store.delete(go.key.clone()).await.unwrap();

    let session = session_on(intercepted(&store, nth("txn", 1, 1, Action::DropResponse))).await;
    assert!(Mutex::new(&session, "m").lock().await.is_err());
    let guard = timeout(secs(1), mutex.lock()).await.expect("the lock is free").unwrap();
    guard.unlock().await.unwrap();
}

/// Issues 10493, 11104 and 13076: `TryLock` creates a key and deletes it again. Both are delivered
/// to all watches, and the key stays if the second request fails.
#[tokio::test(start_paused = true)]
async fn failed_try_lock_does_not_write() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let before = guard.header().revision;
    let mut go = go_contender_on(intercepted(&store, record.clone()), "m").await;
    record.take();
    assert!(matches!(go.try_lock().await, Ok(LockResult::Locked)));
    assert_eq!(record.take().names(), "txn delete");
    let written = store.put("x", "").await.unwrap().header.revision;
    assert_eq!(written.0 - before.0, 3, "two writes of `TryLock` and this one");

    let session = session_on(intercepted(&store, record.clone())).await;
    record.take();
    assert!(Mutex::new(&session, "m").try_lock().await.unwrap().is_none());
    assert_eq!(record.take().names(), "txn");
    let revision = store.put("x", "").await.unwrap().header.revision;
    assert_eq!(revision, written.next(), "nothing was written");
}

/// Issue 6278 and etcd-io/website 710: a lock waits for the holders of locks with child names.
#[tokio::test(start_paused = true)]
async fn lock_does_not_wait_for_child_names() {
    let store = Client::new(MemBackend::new());
    let _child_guard = Mutex::new(&session(&store).await, "p/q").lock().await.unwrap();
    let mut go = go_contender(&store, "p").await;
    assert!(timeout(secs(50_000), go.lock()).await.is_err(), "no contender holds p");
    go.unlock().await.unwrap();
    let mutex = Mutex::new(&session(&store).await, "p");
    drop(timeout(secs(1), mutex.lock()).await.expect("p is free").unwrap());
}

/// Issue 11788: Go's example of a fenced resource compares lease ids, which do not show which
/// holder is newer.
#[tokio::test(start_paused = true)]
async fn fencing_token_grows_when_the_lease_id_does_not() {
    let store = Client::new(MemBackend::new());
    let (old, new) = (session(&store).await, session(&store).await);
    let first = Mutex::new(&new, "m").lock().await.unwrap();
    let token = first.fencing_token();
    first.unlock().await.unwrap();
    let second = Mutex::new(&old, "m").lock().await.unwrap();
    assert!(second.session().lease_id() < new.lease_id(), "the newer holder has the older lease");
    assert!(second.fencing_token() > token);
}

/// Issues 14641 and 8980: a waiter on a paused or partitioned member waits forever, because it
/// receives no event and never re-reads the queue.
#[tokio::test(start_paused = true)]
async fn silent_watch_delays_a_waiter_by_at_most_one_ttl() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let mut go = go_contender_on(intercepted(&store, SilentWatches(Recorder::new())), "m").await;
    let (waited, unlocked) =
        while_waiting(timeout(secs(50_000), go.lock()), async { guard.unlock().await }).await;
    unlocked.unwrap();
    assert!(waited.is_err(), "still waiting after 50,000 s");
    go.unlock().await.unwrap();

    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let session = session_on(intercepted(&store, SilentWatches(Recorder::new()))).await;
    let mutex = Mutex::new(&session, "m");
    // After a second the waiter has sent all its requests and only watches.
    let (waited, unlocked) =
        while_waiting_after(secs(1), timed(mutex.lock()), async { guard.unlock().await }).await;
    unlocked.unwrap();
    drop(waited.0.unwrap());
    assert!(waited.1 <= session.ttl() + secs(2), "the position was refreshed after {:?}", waited.1);
}

/// Issues 15247 and 12528: a server that is no longer the leader revokes leases although their
/// keep-alives are confirmed. The deletion of the key shows the loss at once.
#[tokio::test(start_paused = true)]
async fn holder_detects_a_loss_before_the_next_keep_alive() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let lease = guard.session().lease_id();
    let (lost, ()) = while_waiting(timed(guard.lost()), async {
        store.lease_revoke(lease).await.unwrap();
    })
    .await;
    assert_eq!(lost.0, LossReason::Revoked);
    assert!(lost.1 < secs(1), "detected after {:?}, the next keep-alive is due in 3 s", lost.1);

    // Only the key is deleted; the lease is kept alive.
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let (reason, deleted) =
        while_waiting(guard.lost(), async { store.delete(guard.key()).await }).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    let late = guard.txn(Txn::new().and_then([Put::new("a", "late")])).await;
    assert_eq!(late.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}

/// Issues 18424 and 14890: a client that repeats a write after a lost response may apply it twice.
/// Here the write is not repeated, and its error has the outcome unknown.
#[tokio::test(start_paused = true)]
async fn write_with_a_lost_response_is_not_repeated() {
    let store = Client::new(MemBackend::new());
    let session =
        session_on(intercepted(&store, nth("txn", 2, usize::MAX, Action::DropResponse))).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    let error = guard.txn(Txn::new().and_then([Put::new("a", "1")])).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    sleep(secs(5)).await;
    let a = store.get("a").await.unwrap().unwrap();
    assert_eq!((a.version, a.mod_revision), (1, guard.header().revision.next()), "applied once");

    // An enqueue is not repeated either. The only other write is the cleanup of its key.
    let before = store.put("x", "").await.unwrap().header.revision;
    assert!(Mutex::new(&session, "free").lock().await.is_err());
    sleep(secs(5)).await;
    let after = store.put("x", "").await.unwrap().header.revision;
    assert_eq!(after.0 - before.0, 3, "the enqueue, the cleanup and this put");
}
