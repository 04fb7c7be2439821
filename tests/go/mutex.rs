//! Ported tests of locks.

use std::pin::pin;

use coord_core::{
    Client, Mutex, Session,
    error::LossReason,
    kv::{EventKind, Watch, Watcher},
    mutex::MutexGuard,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Store, in_time, lease};

const LOCKERS: usize = 5;

/// A waiter fails when its session ends: in Go once the holder unlocks (issue 19597), here at once.
pub(super) async fn mutex_lock_session_expired(store: Store) {
    let (s1, s2) = (store.session().await, store.session().await);
    let held = Mutex::new(&s1, "/my-lock/").lock().await.unwrap();
    let m2 = Mutex::new(&s2, "/my-lock/");
    let mut waiter = pin!(m2.lock());
    store.assert_waits(&mut waiter, "/my-lock/", 2).await;

    let (waited, closed) = in_time(async { tokio::join!(waiter, s2.close()) }).await;
    closed.unwrap();
    assert_eq!(waited.unwrap_err().loss(), Some(LossReason::Closed));
    held.unlock().await.unwrap();
}

/// Unlocking a lost lock fails.
///
/// In Go, unlocking a mutex that is not locked, or unlocking twice, returns `ErrLockReleased`. Here
/// neither compiles, because unlocking consumes the guard.
pub(super) async fn mutex_unlock(store: Store) {
    let kv = store.client().await;
    let session = store.session().await;
    let mutex = Mutex::new(&session, "/my-lock/");
    mutex.lock().await.unwrap().unlock().await.unwrap();
    assert!(kv.get_prefix("/my-lock/").await.unwrap().is_empty(), "released");

    let guard = mutex.lock().await.unwrap();
    kv.delete(guard.key()).await.unwrap();
    let error = guard.unlock().await.unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
}

pub(super) async fn mutex_lock_single_node(store: Store) {
    each_acquires_the_lock_once(&store, |_| 0).await;
}

pub(super) async fn mutex_lock_multi_node(store: Store) {
    each_acquires_the_lock_once(&store, |n| n).await;
}

/// Five clients lock concurrently. Each acquires the lock once, and never two at a time.
async fn each_acquires_the_lock_once(store: &Store, member: fn(usize) -> usize) {
    let (locked, mut holders) = mpsc::channel::<MutexGuard>(LOCKERS);
    let mut lockers = JoinSet::new();
    for n in 0..LOCKERS {
        let (store, locked) = (store.clone(), locked.clone());
        lockers.spawn(async move {
            let session = store.session_of(member(n)).await;
            let guard = Mutex::new(&session, "test-mutex").lock().await.unwrap();
            locked.send(guard).await.unwrap();
        });
    }
    for n in 0..LOCKERS {
        let guard = in_time(holders.recv()).await.unwrap();
        // All remaining contenders are in the queue, and no other contender holds the lock.
        store.wait_for_queue_length("test-mutex", LOCKERS - n).await;
        assert!(holders.try_recv().is_err(), "two clients hold the lock");
        guard.unlock().await.unwrap();
    }
    lockers.join_all().await;
}

pub(super) async fn mutex_try_lock_single_node(store: Store) {
    one_concurrent_try_lock_succeeds(&store, |_| 0).await;
}

pub(super) async fn mutex_try_lock_multi_node(store: Store) {
    one_concurrent_try_lock_succeeds(&store, |n| n).await;
}

/// Five clients call `try_lock` concurrently. Four get `None`, where Go returns `ErrLocked`.
async fn one_concurrent_try_lock_succeeds(store: &Store, member: fn(usize) -> usize) {
    let mut lockers = JoinSet::new();
    for n in 0..LOCKERS {
        let store = store.clone();
        lockers.spawn(async move {
            let session = store.session_of(member(n)).await;
            Mutex::new(&session, "test-mutex-try-lock").try_lock().await.unwrap()
        });
    }
    let tried = in_time(lockers.join_all()).await;
    assert_eq!(tried.iter().flatten().count(), 1, "{tried:?}");
}

/// Two mutexes of one session exclude each other.
///
/// In Go the second mutex acquires the lock at once, because the two share a key, and unlocking
/// either also releases the lock of the other (issue 11360). Go's test checks that a session does
/// not deadlock with itself. Here `try_lock` of the second mutex returns `None`, and `lock` waits
/// for the first.
pub(super) async fn mutex_session_relock(store: Store) {
    let session = store.session().await;
    let (m, m2) = (Mutex::new(&session, "test-mutex"), Mutex::new(&session, "test-mutex"));
    let held = m.lock().await.unwrap();
    assert!(m2.try_lock().await.unwrap().is_none(), "the same session holds the lock");
    let mut again = pin!(m2.lock());
    store.assert_waits(&mut again, "test-mutex", 2).await;
    held.unlock().await.unwrap();
    in_time(again).await.unwrap().unlock().await.unwrap();
}

/// The kind of the next event of the queue, which must be the only one of its batch.
async fn next_event(queue: &mut Watcher) -> EventKind {
    let batch = in_time(queue.next()).await.unwrap().unwrap();
    assert_eq!(batch.events.len(), 1, "{batch:?}");
    batch.events[0].kind
}

/// The session of the middle waiter closes before the holder unlocks: the waiter behind it keeps
/// waiting. In Go the middle waiter fails when the holder unlocks; here at once.
pub(super) async fn mutex_waits_on_current_holder(store: Store) {
    let kv = store.client().await;
    let (first, victim, new) =
        (store.session().await, store.session().await, store.session().await);
    let mut queue = kv.watch(Watch::prefix("test-mutex")).await.unwrap();

    let held = Mutex::new(&first, "test-mutex").lock().await.unwrap();
    assert_eq!(next_event(&mut queue).await, EventKind::Put);
    let (middle, last) = (Mutex::new(&victim, "test-mutex"), Mutex::new(&new, "test-mutex"));
    let (mut middle, mut last) = (pin!(middle.lock()), pin!(last.lock()));
    store.assert_waits(&mut middle, "test-mutex", 2).await;
    assert_eq!(next_event(&mut queue).await, EventKind::Put);
    store.assert_waits(&mut last, "test-mutex", 3).await;
    assert_eq!(next_event(&mut queue).await, EventKind::Put);

    let (lost, closed) = in_time(async { tokio::join!(middle, victim.close()) }).await;
    closed.unwrap();
    assert_eq!(lost.unwrap_err().loss(), Some(LossReason::Closed));
    assert_eq!(next_event(&mut queue).await, EventKind::Delete);
    store.assert_waits(&mut last, "test-mutex", 2).await;

    held.unlock().await.unwrap();
    in_time(last).await.unwrap().unlock().await.unwrap();
}

/// A session on an existing lease of 30 s, as in etcd's lock service.
async fn session_on_a_lease(kv: Client) -> Session {
    let lease = lease(&kv, 30).await;
    Session::builder(&kv).lease(lease).open().await.unwrap()
}

/// A waiter on one lease acquires the lock after the holder on another lease, at a larger revision.
pub(super) async fn v3_lock_lock_waiter(store: Store) {
    let (s1, s2) = (
        session_on_a_lease(store.client().await).await,
        session_on_a_lease(store.client().await).await,
    );
    let l1 = Mutex::new(&s1, "foo").lock().await.unwrap();
    let m2 = Mutex::new(&s2, "foo");
    let mut l2 = pin!(m2.lock());
    store.assert_waits(&mut l2, "foo", 2).await;
    let (revision, token) = (l1.header().revision, l1.fencing_token());
    l1.unlock().await.unwrap();
    let l2 = in_time(l2).await.unwrap();
    assert!(l2.header().revision > revision && l2.fencing_token() > token);
    l2.unlock().await.unwrap();
}

/// Three clients: one holds the lock, one is interrupted while it waits, the third acquires it
/// next.
pub(super) async fn ctl_v3_lock(store: Store) {
    let sessions = [store.session().await, store.session().await, store.session().await];
    let [holder, blocked, acquirer] = sessions.each_ref().map(|s| Mutex::new(s, "a"));
    let held = holder.lock().await.unwrap();
    assert!(held.key().starts_with(b"a/"));
    let mut next = {
        let mut interrupted = Box::pin(blocked.lock());
        store.assert_waits(&mut interrupted, "a", 2).await;
        let mut next = Box::pin(acquirer.lock());
        store.assert_waits(&mut next, "a", 3).await;
        next
    };
    // The key of the interrupted waiter is deleted. The third client still waits.
    store.assert_waits(&mut next, "a", 2).await;
    let key = held.key().clone();
    held.unlock().await.unwrap();
    let next = in_time(next).await.unwrap();
    assert_ne!(*next.key(), key);
    next.unlock().await.unwrap();
}
