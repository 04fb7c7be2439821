//! `resume`: the adopter of a lease takes over what a former process held, and what it waited for
//! blocks no other client.

use coord_core::queue::WaitQueue;
use coord_core::recipes::{
    Barrier, DoubleBarrier, MultiLock, ReadGuard, ResumedLock, RwLock, Semaphore, SemaphoreError,
    WriteGuard,
};
use coord_core::{Client, Election, Mutex, Session};
use coord_mem::MemBackend;
use futures_util::FutureExt as _;
use tokio::time::timeout;

use crate::support::{keys, secs, separate_client, session, settle};
use crate::while_waiting::while_waiting;

fn store() -> Client {
    Client::new(MemBackend::new())
}

/// A session of another process, which adopts the lease that `former` has orphaned.
async fn adopter(store: &Client, former: &Session) -> Session {
    let lease = former.orphan().await.unwrap();
    Session::builder(&separate_client(store)).lease(lease).open().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn orphaned_mutex_resumes_and_its_waiters_do_not_block() {
    let store = store();
    let (former, other) = (session(&store).await, session(&store).await);
    let held = Mutex::new(&former, "m").lock().await.unwrap();
    let waiting = Mutex::new(&former, "m");
    let (waited, new) =
        while_waiting(async { waiting.lock().await.map(drop) }, adopter(&store, &former)).await;
    waited.unwrap_err();
    let token = held.fencing_token();
    drop(held);

    let resumed = Mutex::new(&new, "m").resume().await.unwrap().expect("left on the lease");
    assert_eq!(resumed.fencing_token(), token);
    let next = Mutex::new(&other, "m");
    assert!(next.try_lock().await.unwrap().is_none());
    settle().await;
    assert_eq!(keys(&store, "m/").await.len(), 1, "the waiter's key is deleted");
    resumed.unlock().await.unwrap();
    next.try_lock().await.unwrap().expect("the lock is free").unlock().await.unwrap();
    assert!(Mutex::new(&new, "m").resume().await.unwrap().is_none());
}

/// A session that has not adopted its lease resumes nothing, also not what it holds itself.
/// Regression: `resume` of an election and of a wait queue returned a second contender for a key of
/// the session, and dropping it deleted the key.
#[tokio::test(start_paused = true)]
async fn session_without_a_former_owner_resumes_nothing() {
    let store = store();
    let session = session(&store).await;
    let _mutex = Mutex::new(&session, "m").lock().await.unwrap();
    let _permits = Semaphore::new(&session, "s", 1).acquire(1).await.unwrap();
    let _reader = RwLock::new(&session, "l").read().await.unwrap();
    let _barrier = Barrier::new(&store, "b").hold(&session).await.unwrap().unwrap();
    let double = DoubleBarrier::new(&session, "d", 1).unwrap();
    let _inside = double.enter(1).await.unwrap();
    let election = Election::new(&session, "e");
    let _leadership = election.campaign("me").await.unwrap();
    let queue = WaitQueue::new(&session, "q");
    let _contender = queue.enqueue("").await.unwrap();
    assert!(Mutex::new(&session, "m").resume().await.unwrap().is_none());
    assert!(Semaphore::new(&session, "s", 1).resume().await.unwrap().is_empty());
    assert!(RwLock::new(&session, "l").resume().await.unwrap().is_none());
    assert!(MultiLock::new(&session, ["m"]).unwrap().resume().await.unwrap().is_none());
    assert!(Barrier::new(&store, "b").resume(&session).await.unwrap().is_none());
    assert!(double.resume(1).await.unwrap().is_empty());
    assert!(election.resume().await.unwrap().is_none());
    assert!(queue.resume().await.unwrap().is_none());
    settle().await;
    assert_eq!(keys(&store, "").await.len(), 9, "no key is deleted");
}

/// Before, the permits of an orphaned session were taken as long as its adopter lived.
#[tokio::test(start_paused = true)]
async fn orphaned_permits_resume_and_their_waiters_do_not_block() {
    let store = store();
    let (former, other) = (session(&store).await, session(&store).await);
    let semaphore = Semaphore::new(&former, "s", 4);
    let _held = (semaphore.acquire(2).await.unwrap(), semaphore.acquire(1).await.unwrap());
    let waiting = async { semaphore.acquire(2).await.map(drop) };
    let (waited, new) = while_waiting(waiting, adopter(&store, &former)).await;
    waited.unwrap_err();

    let resumed = Semaphore::new(&new, "s", 4).resume().await.unwrap();
    assert_eq!(resumed.iter().map(|held| held.permits()).collect::<Vec<_>>(), [2, 1]);
    settle().await;
    let next = Semaphore::new(&other, "s", 4);
    assert_eq!(next.available().await.unwrap(), 1, "the waiter's key is deleted");
    for held in resumed {
        held.release().await.unwrap();
    }
    assert_eq!(next.available().await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn permits_resume_with_the_stored_limit_only() {
    let store = store();
    let former = session(&store).await;
    let semaphore = Semaphore::new(&former, "s", 3);
    let _held = (semaphore.acquire(2).await.unwrap(), semaphore.acquire(1).await.unwrap());
    let new = adopter(&store, &former).await;
    let error = Semaphore::new(&new, "s", 4).resume().await.unwrap_err();
    assert!(matches!(error, SemaphoreError::LimitDiffers { stored: 3, given: 4, .. }), "{error}");
    store.put("coord/limit/s", "two").await.unwrap();
    let error = Semaphore::new(&new, "s", 3).resume().await.unwrap_err();
    assert!(matches!(error, SemaphoreError::UnreadableLimit { .. }), "{error}");
    settle().await;
    assert_eq!(keys(&store, "s/permits/").await.len(), 2, "nothing was changed");

    let lowered = Semaphore::new(&new, "s", 2);
    lowered.set_limit(2).await.unwrap();
    let resumed = lowered.resume().await.unwrap();
    assert_eq!(resumed.iter().map(|held| held.permits()).collect::<Vec<_>>(), [2]);
    settle().await;
    assert_eq!(keys(&store, "s/permits/").await.len(), 1, "released beyond the lowered limit");
}

/// The readers that the adopter of the lease of `former` resumes.
async fn resumed_readers(store: &Client, former: Session) -> Vec<ReadGuard> {
    let lock = RwLock::new(&adopter(store, &former).await, "l");
    match lock.resume().await.unwrap() {
        Some(ResumedLock::Read(readers)) => readers,
        other => panic!("no reader: {other:?}"),
    }
}

async fn resumed_writer(store: &Client, former: Session) -> WriteGuard {
    let lock = RwLock::new(&adopter(store, &former).await, "l");
    match lock.resume().await.unwrap() {
        Some(ResumedLock::Write(writer)) => *writer,
        other => panic!("no writer: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn orphaned_readers_resume_and_a_waiting_upgrade_does_not_block() {
    let store = store();
    let (former, other) = (session(&store).await, session(&store).await);
    let lock = RwLock::new(&former, "l");
    let (one, _two) = (lock.read().await.unwrap(), lock.read().await.unwrap());
    let waiting = async { one.upgrade().await.map(drop).map_err(|error| error.loss()) };
    let (upgraded, readers) = while_waiting(waiting, resumed_readers(&store, former.clone())).await;
    assert!(upgraded.unwrap_err().is_some());
    assert_eq!(readers.len(), 2);
    settle().await;
    let next = RwLock::new(&other, "l");
    next.try_read().await.unwrap().expect("no writer waits").unlock().await.unwrap();
    assert!(next.try_write().await.unwrap().is_none(), "readers hold it");
    for reader in readers {
        reader.unlock().await.unwrap();
    }
    next.try_write().await.unwrap().expect("it is free").unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn orphaned_writer_resumes_with_its_companion_key() {
    for upgraded in [false, true] {
        let store = store();
        let (former, other) = (session(&store).await, session(&store).await);
        let lock = RwLock::new(&former, "l");
        let held = if upgraded {
            lock.read().await.unwrap().upgrade().await.unwrap()
        } else {
            lock.write().await.unwrap()
        };
        let waiting = async { lock.read().await.map(drop) };
        let (waited, writer) = while_waiting(waiting, resumed_writer(&store, former.clone())).await;
        waited.unwrap_err();
        assert_eq!(writer.fencing_token(), held.fencing_token());
        settle().await;
        assert_eq!(keys(&store, "l/").await.len(), 2, "the writer's two keys");
        let next = RwLock::new(&other, "l");
        assert!(next.try_read().await.unwrap().is_none());
        let reader = writer.downgrade().await.unwrap();
        next.try_read().await.unwrap().expect("readers hold it").unlock().await.unwrap();
        reader.unlock().await.unwrap();
        assert_eq!(keys(&store, "l/").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn orphaned_downgraded_lock_resumes_as_a_reader() {
    let store = store();
    let former = session(&store).await;
    let reader = RwLock::new(&former, "l").write().await.unwrap().downgrade().await.unwrap();
    let readers = resumed_readers(&store, former).await;
    assert_eq!(readers[0].fencing_token(), reader.fencing_token());
    assert_eq!(readers.len(), 1);
}

/// The other keys of the former process, of two mutexes, stay.
#[tokio::test(start_paused = true)]
async fn orphaned_multi_lock_resumes_all_of_its_names() {
    let store = store();
    let (former, other) = (session(&store).await, session(&store).await);
    let both = MultiLock::new(&former, ["a", "b"]).unwrap();
    let _held = both.lock().await.unwrap();
    let (_single, _third) =
        (Mutex::new(&former, "c").lock().await.unwrap(), Mutex::new(&former, "d").lock().await);
    let waiting = async { both.lock().await.map(drop) };
    let (waited, new) = while_waiting(waiting, adopter(&store, &former)).await;
    waited.unwrap_err();

    let apart = MultiLock::new(&new, ["c", "d"]).unwrap().resume().await.unwrap();
    assert!(apart.is_none(), "they were not acquired together");
    let resumed = MultiLock::new(&new, ["b", "a"]).unwrap().resume().await.unwrap().unwrap();
    settle().await;
    assert_eq!(keys(&store, "").await.len(), 4, "the waiter's keys are deleted");
    let next = MultiLock::new(&other, ["a", "b"]).unwrap();
    assert!(next.try_lock().await.unwrap().is_none());
    resumed.unlock().await.unwrap();
    next.try_lock().await.unwrap().expect("both are free").unlock().await.unwrap();
}

/// Before, waiters waited as long as the adopter of the holder's lease lived.
#[tokio::test(start_paused = true)]
async fn orphaned_barrier_resumes_and_is_released() {
    let store = store();
    let former = session(&store).await;
    let barrier = Barrier::new(&store, "b");
    let held = barrier.hold(&former).await.unwrap().unwrap();
    let key = held.key().clone();
    let new = adopter(&store, &former).await;
    drop(held);
    let waiting = timeout(secs(100), barrier.wait());
    let (waited, ()) = while_waiting(waiting, async {
        let resumed = barrier.resume(&new).await.unwrap().expect("left on the lease");
        assert_eq!(resumed.key(), &key);
        resumed.release().await.unwrap();
    })
    .await;
    waited.expect("released").unwrap();
    assert!(barrier.resume(&new).await.unwrap().is_none());
}

/// Before, the others waited for the orphaned participant as long as its adopter lived.
#[tokio::test(start_paused = true)]
async fn orphaned_participant_resumes_and_leaves() {
    let store = store();
    let (former, other) = (session(&store).await, session(&store).await);
    let barriers = [&former, &other].map(|session| DoubleBarrier::new(session, "d", 2).unwrap());
    let (left, inside) = tokio::join!(barriers[0].enter(1), barriers[1].enter(1));
    let new = adopter(&store, &former).await;
    drop(left.unwrap());
    let leaving = timeout(secs(100), inside.unwrap().leave());
    let (left, ()) = while_waiting(leaving, async {
        let barrier = DoubleBarrier::new(&new, "d", 2).unwrap();
        let mut resumed = barrier.resume(1).await.unwrap();
        assert_eq!(resumed.len(), 1);
        assert_eq!(resumed[0].participants().count(), 2);
        resumed.remove(0).leave().await.unwrap();
        assert!(barrier.resume(1).await.unwrap().is_empty(), "the round is over");
    })
    .await;
    left.expect("all have left").unwrap();
}

/// A participant that had not entered has withdrawn; the adopter enters in its place.
#[tokio::test(start_paused = true)]
async fn orphaned_participant_that_waits_withdraws() {
    let store = store();
    let (former, other) = (session(&store).await, session(&store).await);
    let waiting = DoubleBarrier::new(&former, "d", 2).unwrap();
    let waiting = async { waiting.enter(1).await.map(drop) };
    let (waited, new) = while_waiting(waiting, adopter(&store, &former)).await;
    waited.unwrap_err();
    let barrier = DoubleBarrier::new(&new, "d", 2).unwrap();
    assert!(barrier.resume(1).await.unwrap().is_empty());
    settle().await;
    assert_eq!(keys(&store, "d/").await, [""; 0]);
    let mut other = Box::pin(async {
        let inside = DoubleBarrier::new(&other, "d", 2).unwrap().enter(1).await?;
        inside.leave().await
    });
    settle().await;
    assert!((&mut other).now_or_never().is_none(), "it waits for the adopter");
    let adopter = async { barrier.enter(1).await?.leave().await };
    let (other, adopter) = tokio::join!(other, adopter);
    other.and(adopter).unwrap();
}
