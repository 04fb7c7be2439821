//! Tests of locks and requests in processes that crash, are partitioned from the store, and heal.

use std::future::pending;
use std::sync::Arc;

use coord_core::{
    Client, Mutex, Session,
    error::{ErrorKind, LossReason, Outcome},
    kv::Watch,
    session::SessionState,
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Intercept, Process, Recorder};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{only, secs, session, session_on, settle, timed};

/// Opens a session with a TTL of 10 s in `process`.
async fn session_in(process: &Process) -> Session {
    session_on(process.client().clone()).await
}

#[tokio::test(start_paused = true)]
async fn crashed_holder_keeps_the_lock_until_its_lease_expires() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let held = Mutex::new(&session_in(&process).await, "m").lock().await.unwrap();
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
async fn partitioned_holder_is_lost_before_the_next_acquires() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let held = Mutex::new(&session_in(&process).await, "m").lock().await.unwrap();
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
    let holder = session_in(&process).await;
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
        let recorder = Recorder::new();
        let process = Process::new(Intercept::new(MemBackend::new(), recorder.clone()));
        let held = Mutex::new(&session_in(&process).await, "m").lock().await.unwrap();
        recorder.take();
        if crashes {
            process.crash();
        }
        drop(held);
        sleep(secs(60)).await;
        let sent = recorder.take();
        assert_eq!(sent.0.is_empty(), crashes, "crashed: {crashes}, sent: {sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn task_of_a_crashed_process_ends_and_sends_nothing() {
    let recorder = Recorder::new();
    let process = Process::new(Intercept::new(MemBackend::new(), recorder.clone()));
    let mutex = Mutex::new(&session_in(&process).await, "m");
    let task = process.spawn(async move {
        let _held = mutex.lock().await.unwrap();
        pending::<()>().await;
    });
    settle().await;
    assert_eq!(recorder.take().names(), "lease_grant txn");
    process.crash();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(process.spawn(pending::<()>()).await.unwrap_err().is_cancelled());
    sleep(secs(60)).await;
    assert_eq!(recorder.take().names(), "");
}

#[tokio::test(start_paused = true)]
async fn watch_of_a_healed_process_receives_all_events() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let mut watch = process.client().watch(Watch::new("a")).await.unwrap();
    process.partition();
    store.put("a", "1").await.unwrap();
    store.put("a", "2").await.unwrap();
    assert!(timeout(secs(60), watch.next()).await.is_err(), "delivered during the partition");
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
async fn request_of_a_partitioned_process_times_out_unsent() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let kv = process.client();
    process.partition();
    let (response, waited) = timed(kv.put("a", "1")).await;
    assert_eq!(response.unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!(waited, secs(7));
    process.heal();
    sleep(secs(60)).await;
    assert!(store.get("a").await.unwrap().is_none(), "sent after the caller received an error");
    kv.put("a", "2").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn request_is_sent_when_its_process_heals_in_time() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(store.clone());
    let kv = process.client();
    process.partition();
    let (response, ()) = tokio::join!(timed(kv.put("a", "1")), async {
        sleep(secs(5)).await;
        assert!(store.get("a").await.unwrap().is_none(), "sent during the partition");
        process.heal();
    });
    response.0.unwrap();
    assert_eq!(response.1, secs(5));
    assert!(store.get("a").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn request_in_flight_during_a_partition_is_applied() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(Intercept::new(
        Arc::clone(store.backend()),
        only("put", Action::Delay(secs(2))),
    ));
    let kv = process.client();
    let (response, ()) = tokio::join!(kv.put("a", "1"), async {
        sleep(secs(1)).await;
        process.partition();
    });
    let error = response.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    assert!(store.get("a").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn crashed_process_stays_crashed() {
    let process = Process::new(MemBackend::new());
    let kv = process.client();
    process.partition();
    let (in_flight, ()) = tokio::join!(timeout(secs(3600), kv.get("a")), async {
        sleep(secs(1)).await;
        process.crash();
        process.heal();
    });
    assert!(in_flight.is_err(), "a pending call received a response after the crash");
    assert!(timeout(secs(3600), kv.get("a")).await.is_err(), "a later call received a response");
}
