//! Processes that crash, are cut off from the store, and are connected again.

use coord_mem::MemBackend;
use std::future::pending;
use std::sync::Arc;

use coord_core::{
    Client, Mutex, Session,
    error::{ErrorKind, LossReason, Outcome},
    kv::Watch,
    session::SessionState,
};
use coord_testkit::{Action, Intercept, Process, Recorder};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{only, secs, session, session_on, settle, timed};

/// A session of 10 s in a process of its own.
async fn opened(process: &Process) -> Session {
    session_on(process.client().clone()).await
}

#[tokio::test(start_paused = true)]
async fn crashed_holder_keeps_the_lock_until_its_lease_expires() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let held = Mutex::new(&opened(&process).await, "m").lock().await.unwrap();
    let next = Mutex::new(&session(&store).await, "m");
    sleep(secs(5)).await;
    process.crash();
    drop(held);
    let (acquired, waited) = timed(next.lock()).await;
    drop(acquired.unwrap());
    // The last keep-alive was confirmed at most a third of the TTL before the crash.
    assert!((secs(6)..=secs(10)).contains(&waited), "acquired after {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn cut_off_holder_is_lost_before_the_next_holder_acquires() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let held = Mutex::new(&opened(&process).await, "m").lock().await.unwrap();
    let next = Mutex::new(&session(&store).await, "m");
    process.partition();
    let ((reason, lost), acquired) =
        tokio::join!(async { (held.lost().await, Instant::now()) }, async {
            drop(next.lock().await.unwrap());
            Instant::now()
        });
    assert_eq!(reason, LossReason::DeadlineUnconfirmed);
    assert!(lost < acquired, "lost {:?} after the next holder acquired", lost - acquired);
}

#[tokio::test(start_paused = true)]
async fn holder_healed_within_its_ttl_keeps_the_lock() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let holder = opened(&process).await;
    let held = Mutex::new(&holder, "m").lock().await.unwrap();
    process.partition();
    sleep(secs(8)).await;
    assert_eq!(holder.state(), SessionState::Suspect);
    process.heal();
    sleep(secs(60)).await;
    assert_eq!(holder.state(), SessionState::Alive);
    let other = Mutex::new(&session(&store).await, "m");
    assert!(other.try_lock().await.unwrap().is_none(), "another client acquired a held lock");
    held.unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropped_guard_of_a_crashed_process_sends_nothing() {
    for crashes in [false, true] {
        let record = Recorder::new();
        let process = Process::new(Intercept::new(MemBackend::new(), record.clone()));
        let held = Mutex::new(&opened(&process).await, "m").lock().await.unwrap();
        record.take();
        if crashes {
            process.crash();
        }
        drop(held);
        sleep(secs(60)).await;
        let sent = record.take();
        assert_eq!(sent.0.is_empty(), crashes, "crashed: {crashes}, sent: {sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn task_of_a_crashed_process_ends_and_sends_nothing() {
    let record = Recorder::new();
    let process = Process::new(Intercept::new(MemBackend::new(), record.clone()));
    let mutex = Mutex::new(&opened(&process).await, "m");
    let task = process.spawn(async move {
        let _held = mutex.lock().await.unwrap();
        pending::<()>().await;
    });
    settle().await;
    assert_eq!(record.take().names(), "lease_grant txn");
    process.crash();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(process.spawn(pending::<()>()).await.unwrap_err().is_cancelled());
    sleep(secs(60)).await;
    assert_eq!(record.take().names(), "");
}

#[tokio::test(start_paused = true)]
async fn watch_of_a_healed_process_misses_nothing() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let mut watch = process.client().watch(Watch::new("a")).await.unwrap();
    process.partition();
    store.put("a", "1").await.unwrap();
    store.put("a", "2").await.unwrap();
    assert!(timeout(secs(60), watch.next()).await.is_err(), "delivered while cut off");
    process.heal();
    for value in ["1", "2"] {
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(batch.events[0].kv.value, value);
    }
    process.crash();
    store.put("a", "3").await.unwrap();
    assert!(timeout(secs(60), watch.next()).await.is_err(), "delivered after the crash");
}

#[tokio::test(start_paused = true)]
async fn request_of_a_cut_off_process_times_out_unsent() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let kv = process.client();
    process.partition();
    let (answer, waited) = timed(kv.put("a", "1")).await;
    assert_eq!(answer.unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!(waited, secs(7));
    process.heal();
    sleep(secs(60)).await;
    assert!(store.get("a").await.unwrap().is_none(), "sent after its caller received an error");
    kv.put("a", "2").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn request_is_sent_when_its_process_heals_in_time() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let kv = process.client();
    process.partition();
    let (answer, ()) = tokio::join!(timed(kv.put("a", "1")), async {
        sleep(secs(5)).await;
        assert!(store.get("a").await.unwrap().is_none(), "sent while cut off");
        process.heal();
    });
    answer.0.unwrap();
    assert_eq!(answer.1, secs(5));
    assert!(store.get("a").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn request_on_its_way_when_cut_off_is_applied() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(Intercept::new(
        Arc::clone(store.backend()),
        only("put", Action::Delay(secs(2))),
    ));
    let kv = process.client();
    let (answer, ()) = tokio::join!(kv.put("a", "1"), async {
        sleep(secs(1)).await;
        process.partition();
    });
    let error = answer.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    assert!(store.get("a").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn crashed_process_stays_crashed() {
    let process = Process::new(MemBackend::new());
    let kv = process.client();
    process.partition();
    let (under_way, ()) = tokio::join!(timeout(secs(3600), kv.get("a")), async {
        sleep(secs(1)).await;
        process.crash();
        process.heal();
    });
    assert!(under_way.is_err(), "a call under way was answered after the crash");
    assert!(timeout(secs(3600), kv.get("a")).await.is_err(), "a later call was answered");
}
