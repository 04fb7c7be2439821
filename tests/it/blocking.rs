//! The blocking methods of a mutex, on real threads beside the runtime of the session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use coord_core::{
    Client, Mutex, Session,
    error::{LossReason, Outcome, PrimitiveError},
    kv::{Revision, Watch},
};
use coord_mem::MemBackend;
use coord_testkit::Recorder;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::spawn_blocking;

use crate::support::{intercepted, keys, secs, session, session_on, settle};

/// A runtime with two worker threads.
fn two_thread_runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a new runtime")
}

/// Waits until `count` keys of the queue of `m` have been created. Deleted keys count too.
async fn wait_for_enqueues(store: &Client, count: usize) {
    let request = Watch::prefix("m/").start_at(Revision(1));
    let mut watch = store.watch(request).await.expect("history is complete");
    let mut created = 0;
    while created < count {
        let batch = watch.next().await.expect("the watch is open").expect("history is complete");
        created += batch.events.iter().filter(|event| event.is_create()).count();
    }
}

/// Runs `block` on a thread of its own, and returns the receiver of its result.
fn in_thread<T: Send + 'static>(block: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, result) = mpsc::channel();
    thread::spawn(move || sender.send(block()));
    result
}

/// Receives the result of a thread. Panics if the thread hangs.
fn result_of<T>(result: &mpsc::Receiver<T>) -> T {
    result.recv_timeout(secs(60)).expect("the thread returns within a minute")
}

#[test]
fn threads_exclude_each_other() {
    let (runtime, store) = (two_thread_runtime(), Client::new(MemBackend::new()));
    let session = runtime.block_on(session(&store));
    let (is_held, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mutex = Mutex::new(&session, "m");
            let (is_held, count) = (Arc::clone(&is_held), Arc::clone(&count));
            thread::spawn(move || {
                for _ in 0..25 {
                    let guard = mutex.blocking_lock().unwrap();
                    assert!(!is_held.swap(true, Ordering::SeqCst), "two threads hold the lock");
                    let read = count.load(Ordering::SeqCst);
                    thread::yield_now();
                    count.store(read + 1, Ordering::SeqCst);
                    assert!(is_held.swap(false, Ordering::SeqCst));
                    guard.blocking_unlock().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 200, "no increment is lost");
    assert_eq!(runtime.block_on(keys(&store, "m/")), [""; 0]);
}

#[test]
fn blocking_lock_on_a_runtime_thread_is_refused_unsent() {
    let (runtime, recorder) = (two_thread_runtime(), Recorder::new());
    let store = Client::new(MemBackend::new());
    runtime.block_on(async {
        let mutex = Mutex::new(&session_on(intercepted(&store, recorder.clone())).await, "m");
        recorder.take();
        let refused = |result: Result<_, PrimitiveError>| {
            let error = result.map(drop).unwrap_err();
            assert!(matches!(error, PrimitiveError::WouldBlockTasks), "{error}");
            let properties = (error.outcome(), error.is_retryable(), error.loss());
            assert_eq!(properties, (Outcome::NotApplied, false, None));
            error.to_string()
        };
        let message = refused(mutex.blocking_lock());
        let remedy = "Handle::current().block_on(mutex.lock())";
        assert!(message.contains("await") && message.contains(remedy), "{message}");
        let same = mutex.clone();
        refused(spawn_blocking(move || same.blocking_lock()).await.unwrap());
        assert_eq!(recorder.take().names(), "");

        // The remedy that the message names works.
        let guard = spawn_blocking(move || Handle::current().block_on(mutex.lock())).await;
        guard.unwrap().unwrap().unlock().await.unwrap();
    });
}

/// The call consumes the guard, so the lock has to be released although the call is refused.
#[tokio::test(start_paused = true)]
async fn refused_blocking_unlock_unlocks_in_background() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let error = guard.blocking_unlock().unwrap_err();
    assert!(matches!(error, PrimitiveError::WouldBlockTasks), "{error}");
    settle().await;
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

/// A runtime ends its tasks in any order: the task of the waiter may end before or after the
/// session task. The call returns the same error in both cases.
#[test]
fn blocked_thread_fails_when_its_runtime_shuts_down() {
    for _ in 0..100 {
        let (runtime, store) = (two_thread_runtime(), Client::new(MemBackend::new()));
        let mutex = Mutex::new(&runtime.block_on(session(&store)), "m");
        let guard = mutex.blocking_lock().unwrap();
        let waiter = in_thread(move || mutex.blocking_lock());
        runtime.block_on(wait_for_enqueues(&store, 2));
        runtime.shutdown_background();
        let error = result_of(&waiter).unwrap_err();
        assert_eq!(error.loss(), Some(LossReason::Expired), "{error}");
        let unlocked = in_thread(move || guard.blocking_unlock());
        assert_eq!(result_of(&unlocked).unwrap_err().loss(), Some(LossReason::Expired));
    }
}

#[test]
fn blocking_lock_fails_after_its_runtime_was_dropped() {
    let runtime = two_thread_runtime();
    let mutex = Mutex::new(&runtime.block_on(session(&Client::new(MemBackend::new()))), "m");
    drop(runtime);
    let error = result_of(&in_thread(move || mutex.blocking_lock())).unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::Expired), "{error}");
}

#[test]
fn blocked_thread_fails_when_its_session_closes() {
    let (runtime, store) = (two_thread_runtime(), Client::new(MemBackend::new()));
    let guard = Mutex::new(&runtime.block_on(session(&store)), "m").blocking_lock().unwrap();
    let session: Session = runtime.block_on(session(&store));
    let mutex = Mutex::new(&session, "m");
    let waiter = in_thread(move || mutex.blocking_lock());
    runtime.block_on(async {
        wait_for_enqueues(&store, 2).await;
        session.close().await.unwrap();
    });
    assert_eq!(result_of(&waiter).unwrap_err().loss(), Some(LossReason::Closed));
    guard.blocking_unlock().unwrap();
    assert_eq!(runtime.block_on(keys(&store, "m/")), [""; 0], "the unlock was confirmed");
}

#[test]
fn guard_dropped_in_thread_unlocks() {
    let (runtime, store) = (two_thread_runtime(), Client::new(MemBackend::new()));
    let mutex = Mutex::new(&runtime.block_on(session(&store)), "m");
    let guard = mutex.blocking_lock().unwrap();
    thread::spawn(move || drop(guard)).join().unwrap();
    result_of(&in_thread(move || mutex.blocking_lock())).unwrap().blocking_unlock().unwrap();
    assert_eq!(runtime.block_on(keys(&store, "m/")), [""; 0]);
}
