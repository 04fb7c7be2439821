//! Waits for permits: watches that end, are silent or stale, and waiters that are lost.

use std::time::Duration;

use coord_core::error::LossReason;
use coord_core::kv::{Compact, Put};
use coord_core::recipes::Semaphore;
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder};
use tokio::time::timeout;

use super::semaphore;
use crate::support::{
    SilentWatches, enqueue_like_go, intercepted, keys, nth, secs, session, session_on, settle,
    timed,
};
use crate::watch_faults::{UNLIMITED_LIFETIME, WatchFaults};
use crate::while_waiting::{while_waiting, while_waiting_after};

#[tokio::test(start_paused = true)]
async fn acquire_ignores_compaction_while_waiting() {
    let store = Client::new(MemBackend::new());
    let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
    let (acquired, ()) = while_waiting(semaphore(&store, 1).await.acquire(1), async {
        let revision = store.put("other", "1").await.unwrap().header.revision;
        store.compact(Compact::new(revision)).await.unwrap();
        settle().await;
        holder.release().await.unwrap();
    })
    .await;
    acquired.unwrap().release().await.unwrap();
}

/// The watch of the keys ahead ends again and again, in the usual ways.
#[tokio::test(start_paused = true)]
async fn acquire_registers_a_watch_that_ended_again() {
    let compacted = || Error::Compacted { requested: None, compact_revision: None };
    let unavailable = || {
        let (reason, source) = ("no member responds".to_owned(), None);
        Error::Unavailable { outcome: coord_core::error::Outcome::NotApplied, reason, source }
    };
    for error in [None, Some(compacted()), Some(unavailable())] {
        let store = Client::new(MemBackend::new());
        let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
        let end = error.clone();
        let ending = move || (Duration::from_millis(300), end.clone());
        let faulty = session_on(Client::new(WatchFaults::new(store.clone(), ending))).await;
        let waiter = Semaphore::new(&faulty, "s", 1);
        let release = async { holder.release().await.unwrap() };
        let ((acquired, elapsed), ()) =
            while_waiting_after(secs(5), timed(waiter.acquire(1)), release).await;
        acquired.unwrap().release().await.unwrap();
        assert!(elapsed < secs(6), "{error:?}: acquired after {elapsed:?}");
    }
}

/// The member that serves the watch is paused: the watch delivers nothing.
#[tokio::test(start_paused = true)]
async fn acquire_with_silent_watch_succeeds_within_ttl() {
    let store = Client::new(MemBackend::new());
    let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
    let silent = session_on(intercepted(&store, SilentWatches(Recorder::new()))).await;
    let waiter = Semaphore::new(&silent, "s", 1);
    let release = async { holder.release().await.unwrap() };
    let ((acquired, elapsed), ()) =
        while_waiting_after(secs(25), timed(waiter.acquire(1)), release).await;
    acquired.unwrap().release().await.unwrap();
    assert!(elapsed <= secs(31), "acquired after {elapsed:?}");
}

/// A stale member serves the watch, and delivers the deletion of an earlier creation of the key
/// ahead.
#[tokio::test(start_paused = true)]
async fn stale_deletion_of_a_key_ahead_is_ignored() {
    for stale_revisions in 0..=5 {
        let store = Client::new(MemBackend::new());
        let first = semaphore(&store, 1).await;
        first.acquire(1).await.unwrap().release().await.unwrap();
        let (lease, go_key) = enqueue_like_go(&store, "s/permits", "1").await;
        store.delete(&go_key).await.unwrap();
        store.put_with(Put::new(&go_key, "1").lease(lease)).await.unwrap();
        let stale = WatchFaults::new(store.clone(), || UNLIMITED_LIFETIME);
        let stale = stale.with_stale_first_watch(stale_revisions);
        let waiter = Semaphore::new(&session_on(Client::new(stale)).await, "s", 1);
        let acquired = timeout(secs(30), waiter.acquire(1)).await;
        assert!(acquired.is_err(), "acquired, with a watch {stale_revisions} revisions stale");
        settle().await;
        store.delete(&go_key).await.unwrap();
        drop(waiter.try_acquire(1).await.unwrap().expect("the permit is free"));
    }
}

/// A key ahead is deleted and created again: it is behind the waiter then.
#[tokio::test(start_paused = true)]
async fn key_that_returns_does_not_stay_ahead() {
    let store = Client::new(MemBackend::new());
    semaphore(&store, 1).await.acquire(1).await.unwrap().release().await.unwrap();
    let (lease, go_key) = enqueue_like_go(&store, "s/permits", "1").await;
    let waiter = semaphore(&store, 1).await;
    let (acquired, ()) = while_waiting(timeout(secs(1), waiter.acquire(1)), async {
        store.delete(&go_key).await.unwrap();
        store.put_with(Put::new(&go_key, "1").lease(lease)).await.unwrap();
    })
    .await;
    drop(acquired.expect("acquires at once").unwrap());
}

#[tokio::test(start_paused = true)]
async fn semaphore_waiter_continues_while_store_is_unavailable() {
    let store = Client::new(MemBackend::new());
    let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
    let faulty = intercepted(&store, nth("txn", 2, 6, Action::DropResponse));
    let waiter = Semaphore::new(&session_on(faulty).await, "s", 1);
    let release = async { holder.release().await.unwrap() };
    let (acquired, ()) = while_waiting_after(secs(5), waiter.acquire(1), release).await;
    acquired.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn semaphore_waiter_with_hanging_request_acquires_within_ttl() {
    for (kind, call_number) in [("watch", 1), ("watch", 2), ("txn", 2)] {
        let store = Client::new(MemBackend::new());
        let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
        let faulty = intercepted(&store, nth(kind, call_number, call_number, Action::Hang));
        let waiter = Semaphore::new(&session_on(faulty).await, "s", 1);
        let release = async { holder.release().await.unwrap() };
        let ((acquired, elapsed), ()) =
            while_waiting_after(secs(1), timed(waiter.acquire(1)), release).await;
        acquired.unwrap().release().await.unwrap();
        assert!(elapsed < secs(12), "{kind} {call_number} hangs: acquired after {elapsed:?}");
    }
}

/// How a waiter is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Closed,
    Revoked,
    KeyDeleted,
}

#[tokio::test(start_paused = true)]
async fn lost_semaphore_waiter_fails_at_once() {
    for loss in [Loss::Closed, Loss::Revoked, Loss::KeyDeleted] {
        let store = Client::new(MemBackend::new());
        let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
        let waiter_session = session(&store).await;
        let waiter = Semaphore::new(&waiter_session, "s", 1);
        let act = async {
            match loss {
                Loss::Closed => waiter_session.close().await.unwrap(),
                Loss::Revoked => {
                    store.lease_revoke(waiter_session.lease_id()).await.unwrap();
                }
                Loss::KeyDeleted => {
                    let keys = keys(&store, "s/permits/").await;
                    let own = keys.iter().find(|key| key.as_bytes() != holder.key()).unwrap();
                    store.delete(own).await.unwrap();
                }
            }
        };
        let ((result, elapsed), ()) =
            while_waiting_after(secs(1), timed(waiter.acquire(1)), act).await;
        let reason = match loss {
            Loss::Closed => LossReason::Closed,
            Loss::Revoked => LossReason::Revoked,
            Loss::KeyDeleted => LossReason::KeyDeleted,
        };
        assert_eq!((result.unwrap_err().loss(), elapsed), (Some(reason), secs(1)), "{loss:?}");
    }
}

/// The own key is deleted at the moment at which the permits become free.
#[tokio::test(start_paused = true)]
async fn evicted_semaphore_waiter_is_not_admitted() {
    let store = Client::new(MemBackend::new());
    let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
    // The reads are delayed, so that the read that would confirm the permits comes too late.
    let delayed = intercepted(&store, |call: &Call| match call {
        Call::Txn(_) => Action::Delay(Duration::from_millis(50)),
        _ => Action::Pass,
    });
    let waiter = Semaphore::new(&session_on(delayed).await, "s", 1);
    let (result, ()) = while_waiting_after(Duration::from_millis(150), waiter.acquire(1), async {
        holder.release().await.unwrap();
        let own = keys(&store, "s/permits/").await.remove(0);
        store.delete(own).await.unwrap();
    })
    .await;
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}
