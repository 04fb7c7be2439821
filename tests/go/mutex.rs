//! Go's tests of locks.

use std::pin::pin;
use std::sync::Arc;

use coord_core::{
    Client, KvBackend, Mutex, Session,
    error::LossReason,
    kv::{EventKind, Watch, Watcher},
    mutex::MutexGuard,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Store, THERE, lease, soon};

const LOCKERS: usize = 5;

/// A waiter whose session ends gets an error. In Go it gets it once the holder unlocks (issue
/// 19597); here at once.
pub(super) async fn mutex_lock_session_expired(store: Store) {
    let (s1, s2) = (store.session().await, store.session().await);
    let held = Mutex::new(&s1, "/my-lock/").lock().await.expect(THERE);
    let m2 = Mutex::new(&s2, "/my-lock/");
    let mut waiter = pin!(m2.lock());
    store.waits(&mut waiter, "/my-lock/", 2).await;

    let (waited, closed) = soon(async { tokio::join!(waiter, s2.close()) }).await;
    closed.expect(THERE);
    assert_eq!(waited.expect_err("its session is over").loss(), Some(LossReason::Closed));
    held.unlock().await.expect("still held");
}

/// In Go, unlocking what is not locked, or once more, is `ErrLockReleased`. Here neither can be
/// written, for unlocking takes the guard; what is left is to unlock what was lost in between.
pub(super) async fn mutex_unlock(store: Store) {
    let kv = store.client().await;
    let session = store.session().await;
    let mutex = Mutex::new(&session, "/my-lock/");
    mutex.lock().await.expect(THERE).unlock().await.expect(THERE);
    assert!(kv.get_prefix("/my-lock/").await.expect(THERE).is_empty(), "released");

    let guard = mutex.lock().await.expect(THERE);
    kv.delete(guard.key()).await.expect(THERE);
    let error = guard.unlock().await.expect_err("there is nothing to unlock");
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
}

pub(super) async fn mutex_lock_single_node(store: Store) {
    each_has_the_lock_once(&store, |_| 0).await;
}

pub(super) async fn mutex_lock_multi_node(store: Store) {
    each_has_the_lock_once(&store, |n| n).await;
}

/// Five come at once; each gets the lock, and none while another has it.
async fn each_has_the_lock_once(store: &Store, member: fn(usize) -> usize) {
    let (locked, mut holders) = mpsc::channel::<MutexGuard>(LOCKERS);
    let mut lockers = JoinSet::new();
    for n in 0..LOCKERS {
        let (store, locked) = (store.clone(), locked.clone());
        lockers.spawn(async move {
            let session = store.session_of(member(n)).await;
            let guard = Mutex::new(&session, "test-mutex").lock().await.expect(THERE);
            locked.send(guard).await.expect("the test waits for it");
        });
    }
    for n in 0..LOCKERS {
        let guard = soon(holders.recv()).await.expect("a locker lives");
        // Everybody who is still to come is in the line, and still nobody else has it.
        store.line_of("test-mutex", LOCKERS - n).await;
        assert!(holders.try_recv().is_err(), "two hold the lock");
        guard.unlock().await.expect(THERE);
    }
    lockers.join_all().await;
}

pub(super) async fn mutex_try_lock_single_node(store: Store) {
    one_of_those_who_try_succeeds(&store, |_| 0).await;
}

pub(super) async fn mutex_try_lock_multi_node(store: Store) {
    one_of_those_who_try_succeeds(&store, |n| n).await;
}

/// Five try at once. The others are told `None`, where Go says `ErrLocked`.
async fn one_of_those_who_try_succeeds(store: &Store, member: fn(usize) -> usize) {
    let mut lockers = JoinSet::new();
    for n in 0..LOCKERS {
        let store = store.clone();
        lockers.spawn(async move {
            let session = store.session_of(member(n)).await;
            Mutex::new(&session, "test-mutex-try-lock").try_lock().await.expect(THERE)
        });
    }
    let tried = soon(lockers.join_all()).await;
    assert_eq!(tried.iter().flatten().count(), 1, "{tried:?}");
}

/// In Go a second mutex of the same session has the lock at once, for the two share a key, and
/// whichever unlocks takes it from the other (issue 11360). What Go's test guards is that nobody
/// is locked out for good by himself: here the second is told that it is held, or waits for the
/// first, and comes next.
pub(super) async fn mutex_session_relock(store: Store) {
    let session = store.session().await;
    let (m, m2) = (Mutex::new(&session, "test-mutex"), Mutex::new(&session, "test-mutex"));
    let held = m.lock().await.expect(THERE);
    assert!(m2.try_lock().await.expect(THERE).is_none(), "by ourselves");
    let mut again = pin!(m2.lock());
    store.waits(&mut again, "test-mutex", 2).await;
    held.unlock().await.expect(THERE);
    soon(again).await.expect(THERE).unlock().await.expect(THERE);
}

/// The next event of the line, which must be a single one.
async fn event(line: &mut Watcher) -> EventKind {
    let batch = soon(line.next()).await.expect("it lasts").expect(THERE);
    assert_eq!(batch.events.len(), 1, "{batch:?}");
    batch.events[0].kind
}

/// The one in the middle goes before the holder does: whoever is behind it waits on. In Go the one
/// in the middle learns of its end when the holder unlocks; here at once.
pub(super) async fn mutex_waits_on_current_holder(store: Store) {
    let kv = store.client().await;
    let (first, victim, new) =
        (store.session().await, store.session().await, store.session().await);
    let mut line = kv.watch(Watch::prefix("test-mutex")).await.expect(THERE);

    let held = Mutex::new(&first, "test-mutex").lock().await.expect(THERE);
    assert_eq!(event(&mut line).await, EventKind::Put);
    let (middle, last) = (Mutex::new(&victim, "test-mutex"), Mutex::new(&new, "test-mutex"));
    let (mut middle, mut last) = (pin!(middle.lock()), pin!(last.lock()));
    store.waits(&mut middle, "test-mutex", 2).await;
    assert_eq!(event(&mut line).await, EventKind::Put);
    store.waits(&mut last, "test-mutex", 3).await;
    assert_eq!(event(&mut line).await, EventKind::Put);

    let (lost, closed) = soon(async { tokio::join!(middle, victim.close()) }).await;
    closed.expect(THERE);
    assert_eq!(lost.expect_err("its session is over").loss(), Some(LossReason::Closed));
    assert_eq!(event(&mut line).await, EventKind::Delete);
    store.waits(&mut last, "test-mutex", 2).await;

    held.unlock().await.expect(THERE);
    soon(last).await.expect(THERE).unlock().await.expect(THERE);
}

/// A session on a lease of 30 s that was granted beforehand, as etcd's lock service has it.
async fn on_a_lease(kv: Arc<dyn KvBackend>) -> Session {
    let lease = lease(&*kv, 30).await;
    Session::builder(kv).lease(lease).open().await.expect(THERE)
}

/// A waiter on one lease has the lock after the holder on another, at a larger revision.
pub(super) async fn v3_lock_lock_waiter(store: Store) {
    let (s1, s2) = (on_a_lease(store.client().await).await, on_a_lease(store.client().await).await);
    let l1 = Mutex::new(&s1, "foo").lock().await.expect(THERE);
    let m2 = Mutex::new(&s2, "foo");
    let mut l2 = pin!(m2.lock());
    store.waits(&mut l2, "foo", 2).await;
    let (revision, token) = (l1.header().revision, l1.fencing_token());
    l1.unlock().await.expect(THERE);
    let l2 = soon(l2).await.expect(THERE);
    assert!(l2.header().revision > revision && l2.fencing_token() > token);
    l2.unlock().await.expect(THERE);
}

/// Three processes: one holds, one is interrupted while it waits, the third is next.
pub(super) async fn ctl_v3_lock(store: Store) {
    let sessions = [store.session().await, store.session().await, store.session().await];
    let [holder, blocked, acquirer] = sessions.each_ref().map(|s| Mutex::new(s, "a"));
    let held = holder.lock().await.expect(THERE);
    assert!(held.key().starts_with(b"a/"));
    let mut next = {
        let mut interrupted = Box::pin(blocked.lock());
        store.waits(&mut interrupted, "a", 2).await;
        let mut next = Box::pin(acquirer.lock());
        store.waits(&mut next, "a", 3).await;
        next
    };
    // The interrupted one has left, and the third knows better than to take its place for the lock.
    store.waits(&mut next, "a", 2).await;
    let key = held.key().clone();
    held.unlock().await.expect(THERE);
    let next = soon(next).await.expect(THERE);
    assert_ne!(*next.key(), key);
    next.unlock().await.expect(THERE);
}
