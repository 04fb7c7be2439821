//! A mutex for code outside async: real threads, and the runtime of their session.

use coord_core::Client;
use coord_mem::MemBackend;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use coord_core::{
    Mutex, Session,
    error::{LossReason, Outcome, PrimitiveError},
    kv::{Revision, Watch},
};
use coord_testkit::Recorder;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::spawn_blocking;

use crate::support::{behind, keys, secs, session, session_on, settle};

fn two_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads are there")
}

/// Waits until so many keys of the lock `m` have been created in all.
async fn joined(store: &Client, times: usize) {
    let request = Watch::prefix("m/").start_at(Revision(1));
    let mut watch = store.watch(request).await.expect("nothing is compacted");
    let mut seen = 0;
    while seen < times {
        let batch = watch.next().await.expect("it lasts").expect("nothing is compacted");
        seen += batch.events.iter().filter(|event| event.is_create()).count();
    }
}

/// What a thread that blocks comes back with; panics if it hangs.
fn in_thread<T: Send + 'static>(block: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(block()));
    outcome
}

fn soon<T>(outcome: &mpsc::Receiver<T>) -> T {
    outcome.recv_timeout(secs(60)).expect("the thread does not hang")
}

#[test]
fn threads_exclude_each_other() {
    let (runtime, store) = (two_threads(), Client::new(MemBackend::new()));
    let session = runtime.block_on(session(&store));
    let (inside, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mutex = Mutex::new(&session, "m");
            let (inside, count) = (Arc::clone(&inside), Arc::clone(&count));
            thread::spawn(move || {
                for _ in 0..25 {
                    let guard = mutex.blocking_lock().unwrap();
                    assert!(!inside.swap(true, Ordering::SeqCst), "two hold the lock");
                    let read = count.load(Ordering::SeqCst);
                    thread::yield_now();
                    count.store(read + 1, Ordering::SeqCst);
                    assert!(inside.swap(false, Ordering::SeqCst));
                    guard.blocking_unlock().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 200, "no increment was lost");
    assert_eq!(runtime.block_on(keys(&store, "m/")), [""; 0]);
}

#[test]
fn blocking_lock_on_a_runtime_thread_is_refused_unsent() {
    let (runtime, record) = (two_threads(), Recorder::new());
    let store = Client::new(MemBackend::new());
    runtime.block_on(async {
        let mutex = Mutex::new(&session_on(behind(&store, record.clone())).await, "m");
        record.take();
        let refused = |result: Result<_, PrimitiveError>| {
            let error = result.map(drop).unwrap_err();
            assert!(matches!(error, PrimitiveError::WouldBlockTasks), "{error}");
            let said = (error.outcome(), error.is_retryable(), error.loss());
            assert_eq!(said, (Outcome::NotApplied, false, None));
            error.to_string()
        };
        let said = refused(mutex.blocking_lock());
        let advice = "Handle::current().block_on(mutex.lock())";
        assert!(said.contains("await") && said.contains(advice), "{said}");
        let same = mutex.clone();
        refused(spawn_blocking(move || same.blocking_lock()).await.unwrap());
        assert_eq!(record.take().names(), "");

        // What the message advises.
        let guard = spawn_blocking(move || Handle::current().block_on(mutex.lock())).await;
        guard.unwrap().unwrap().unlock().await.unwrap();
    });
}

/// The guard is gone, so the lock has to go too.
#[tokio::test(start_paused = true)]
async fn refused_blocking_unlock_unlocks_in_background() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let error = guard.blocking_unlock().unwrap_err();
    assert!(matches!(error, PrimitiveError::WouldBlockTasks), "{error}");
    settle().await;
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

/// A runtime ends its tasks in any order: the waiter's may go first, or see the session's keeper
/// go. The thread is told the same.
#[test]
fn blocked_thread_fails_when_its_runtime_shuts_down() {
    for _ in 0..100 {
        let (runtime, store) = (two_threads(), Client::new(MemBackend::new()));
        let mutex = Mutex::new(&runtime.block_on(session(&store)), "m");
        let held = mutex.blocking_lock().unwrap();
        let waiter = in_thread(move || mutex.blocking_lock());
        runtime.block_on(joined(&store, 2));
        runtime.shutdown_background();
        let error = soon(&waiter).unwrap_err();
        assert_eq!(error.loss(), Some(LossReason::Expired), "{error}");
        let unlocked = in_thread(move || held.blocking_unlock());
        assert_eq!(soon(&unlocked).unwrap_err().loss(), Some(LossReason::Expired));
    }
}

#[test]
fn blocking_lock_fails_after_its_runtime_was_dropped() {
    let runtime = two_threads();
    let mutex = Mutex::new(&runtime.block_on(session(&Client::new(MemBackend::new()))), "m");
    drop(runtime);
    let error = soon(&in_thread(move || mutex.blocking_lock())).unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::Expired), "{error}");
}

#[test]
fn blocked_thread_fails_when_its_session_closes() {
    let (runtime, store) = (two_threads(), Client::new(MemBackend::new()));
    let held = Mutex::new(&runtime.block_on(session(&store)), "m").blocking_lock().unwrap();
    let session: Session = runtime.block_on(session(&store));
    let mutex = Mutex::new(&session, "m");
    let waiter = in_thread(move || mutex.blocking_lock());
    runtime.block_on(async {
        joined(&store, 2).await;
        session.close().await.unwrap();
    });
    assert_eq!(soon(&waiter).unwrap_err().loss(), Some(LossReason::Closed));
    held.blocking_unlock().unwrap();
    assert_eq!(runtime.block_on(keys(&store, "m/")), [""; 0], "unlocked, and confirmed");
}

#[test]
fn guard_dropped_in_thread_unlocks() {
    let (runtime, store) = (two_threads(), Client::new(MemBackend::new()));
    let mutex = Mutex::new(&runtime.block_on(session(&store)), "m");
    let guard = mutex.blocking_lock().unwrap();
    thread::spawn(move || drop(guard)).join().unwrap();
    soon(&in_thread(move || mutex.blocking_lock())).unwrap().blocking_unlock().unwrap();
    assert_eq!(runtime.block_on(keys(&store, "m/")), [""; 0]);
}
