//! Loss of a mutex by its holder, and of its queue entry by a waiter.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::{
    Client, Mutex, Session,
    error::{LossReason, Outcome},
    kv::{Compact, Put, Txn},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    intercepted, is_keep_alive, keys, nth, only, secs, separate_client, session, session_on,
    settle, timed,
};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// The holder's keep-alives stop. A waiter must not acquire before the holder is notified, also if
/// the store's clock is 5 % fast.
#[tokio::test(start_paused = true)]
async fn holder_loses_lock_before_next_waiter_acquires() {
    for rate in [1.0, 1.05] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let partitioned = intercepted(&store, only("lease_keep_alive", Action::Hang));
        let holder = Mutex::new(&session_on(partitioned).await, "m").lock().await.unwrap();
        let waiter = Mutex::new(&session(&store).await, "m");
        let ((reason, lost_at), acquired_at) =
            tokio::join!(async { (holder.lost().await, Instant::now()) }, async {
                drop(waiter.lock().await.unwrap());
                Instant::now()
            });
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        let delay = lost_at - acquired_at;
        assert!(lost_at < acquired_at, "clock rate {rate}: notified {delay:?} too late");
    }
}

/// etcd issues 6127 and 7983: Go's package does not notify the holder.
#[tokio::test(start_paused = true)]
async fn holder_is_notified_when_its_key_is_deleted() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let (reason, deleted) = while_waiting(guard.lost(), store.delete(guard.key())).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    assert_eq!(guard.lost().await, LossReason::KeyDeleted, "a later call returns the same");
    assert_eq!(guard.unlock().await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}

#[tokio::test(start_paused = true)]
async fn holder_is_notified_of_loss_after_compaction() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let revision = store.put("other", "1").await.unwrap().header.revision;
    store.put("other", "2").await.unwrap();
    store.compact(Compact::new(revision.next())).await.unwrap();
    let mut lost = pin!(guard.lost());
    assert!(timeout(secs(61), lost.as_mut()).await.is_err(), "the lock is not lost yet");
    store.delete(guard.key()).await.unwrap();
    let (reason, elapsed) = timed(lost).await;
    assert_eq!(
        (reason, elapsed),
        (LossReason::KeyDeleted, secs(0)),
        "the watch was registered again"
    );
}

#[tokio::test(start_paused = true)]
async fn run_while_held_drops_work_when_lock_is_lost() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    let steps = AtomicUsize::new(0);
    let work = async {
        loop {
            sleep(secs(1)).await;
            steps.fetch_add(1, Ordering::Relaxed);
        }
    };
    let work = guard.run_while_held(work);
    let (result, _) = while_waiting_after(secs(5) + secs(1) / 2, work, session.close()).await;
    let result: Result<(), LossReason> = result;
    assert_eq!(result, Err(LossReason::Closed));
    assert_eq!(steps.into_inner(), 5);
}

/// etcd issues 11457 and 10811: a suspended process wakes up and writes after the next holder has
/// acquired the lock.
#[tokio::test(start_paused = true)]
async fn late_write_of_former_holder_is_refused() {
    let store = Client::new(MemBackend::new());
    let partitioned = intercepted(&store, only("lease_keep_alive", Action::Hang));
    let old = Mutex::new(&session_on(partitioned).await, "m").lock().await.unwrap();
    let new = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    new.txn(Txn::new().and_then([Put::new("a", "new")])).await.unwrap();

    let late = old.txn(Txn::new().and_then([Put::new("a", "old")])).await.unwrap_err();
    assert_eq!(late.outcome(), Outcome::NotApplied);
    assert_eq!(late.loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "new");
    assert!(new.fencing_token() > old.fencing_token());
}

/// etcd issue 19597: a waiter of Go's package waits for all contenders ahead after its session has
/// ended.
#[tokio::test(start_paused = true)]
async fn waiter_fails_at_once_when_its_session_closes() {
    let store = Client::new(MemBackend::new());
    let _holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter_session = session(&store).await;
    let waiter = Mutex::new(&waiter_session, "m");
    let ((result, elapsed), closed) =
        while_waiting_after(secs(1), timed(waiter.lock()), waiter_session.close()).await;
    closed.unwrap();
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::Closed));
    assert_eq!(elapsed, secs(1));
}

/// etcd issue 11777: in Go's package a contender whose key was deleted continues to wait.
#[tokio::test(start_paused = true)]
async fn waiter_fails_at_once_when_its_key_is_deleted() {
    let store = Client::new(MemBackend::new());
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter = Mutex::new(&session(&store).await, "m");
    let evict = async {
        let keys = keys(&store, "m/").await;
        let waiter_key = keys.iter().find(|key| key.as_bytes() != holder.key()).unwrap();
        store.delete(waiter_key).await.unwrap();
    };
    let ((result, elapsed), ()) = while_waiting_after(secs(1), timed(waiter.lock()), evict).await;
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert_eq!(elapsed, secs(1));
}

#[tokio::test(start_paused = true)]
async fn waiter_fails_at_once_when_its_lease_is_revoked() {
    let store = Client::new(MemBackend::new());
    let _holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter_session = session(&store).await;
    let waiter = Mutex::new(&waiter_session, "m");
    let revoke = store.lease_revoke(waiter_session.lease_id());
    let ((result, elapsed), revoked) =
        while_waiting_after(secs(1), timed(waiter.lock()), revoke).await;
    revoked.unwrap();
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::Revoked));
    assert_eq!(elapsed, secs(1));
}

/// Go's `TestMutexWaitsOnCurrentHolder`: the second contender is cancelled. The third still waits
/// for the first, and acquires as soon as the first unlocks.
#[tokio::test(start_paused = true)]
async fn waiter_behind_cancelled_waiter_waits_for_holder() {
    let store = Client::new(MemBackend::new());
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let second = Mutex::new(&session(&store).await, "m");
    let third = Mutex::new(&session(&store).await, "m");
    let cancelled = timeout(secs(1), second.lock());
    let waiting = async {
        settle().await;
        timed(third.lock()).await
    };
    let (cancelled, (guard, elapsed), ()) = tokio::join!(cancelled, waiting, async {
        sleep(secs(5)).await;
        holder.unlock().await.unwrap();
    });
    assert!(cancelled.is_err());
    drop(guard.unwrap());
    assert_eq!(elapsed, secs(5) - secs(1) / 5, "when the holder unlocked");
}

#[tokio::test(start_paused = true)]
async fn waiter_continues_while_store_is_unavailable() {
    let store = Client::new(MemBackend::new());
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let faulty = intercepted(&store, nth("range", 1, 6, Action::DropResponse));
    let waiter = Mutex::new(&session_on(faulty).await, "m");
    let unlock = async { holder.unlock().await.unwrap() };
    let (guard, ()) = while_waiting_after(secs(5), waiter.lock(), unlock).await;
    drop(guard.unwrap());
}

#[tokio::test(start_paused = true)]
async fn partitioned_waiter_fails_when_its_session_is_lost() {
    let store = Client::new(MemBackend::new());
    let _holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let partition = |call: &Call| match call {
        Call::Range(_) | Call::LeaseKeepAlive(_) => Action::Hang,
        _ => Action::Pass,
    };
    let partitioned = session_on(intercepted(&store, partition)).await;
    let (result, elapsed) = timed(Mutex::new(&partitioned, "m").lock()).await;
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(elapsed, secs(9));
}

#[tokio::test(start_paused = true)]
async fn lock_fails_on_session_with_revoked_lease() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    store.lease_revoke(session.lease_id()).await.unwrap();
    assert_eq!(mutex.lock().await.unwrap_err().loss(), Some(LossReason::Revoked));
    assert_eq!(mutex.try_lock().await.unwrap_err().loss(), Some(LossReason::Revoked));
    assert_eq!(mutex.lock().await.unwrap_err().loss(), Some(LossReason::Revoked));
}

#[tokio::test(start_paused = true)]
async fn adopter_enqueues_behind_key_of_former_owner() {
    let store = Client::new(MemBackend::new());
    let owner = session(&store).await;
    let orphaned = Mutex::new(&owner, "m").lock().await.unwrap();
    let lease = owner.orphan().await.unwrap();
    let adopter = Session::builder(&separate_client(&store)).lease(lease).open().await.unwrap();
    let mutex = Mutex::new(&adopter, "m");
    assert!(mutex.try_lock().await.unwrap().is_none(), "held by the former owner's key");
    assert!(timeout(secs(60), mutex.lock()).await.is_err());
    settle().await;
    assert_eq!(keys(&store, "m/").await, [format!("m/{lease}-0")], "the former owner's key stays");
    let _ = orphaned;
}

#[tokio::test(start_paused = true)]
async fn keep_alives_continue_while_lock_waits() {
    let store = Client::new(MemBackend::new());
    let recorder = Recorder::new();
    let _holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter = session_on(intercepted(&store, recorder.clone())).await;
    assert!(timeout(secs(100), Mutex::new(&waiter, "m").lock()).await.is_err());
    let keep_alives = recorder.take().0.iter().filter(|call| is_keep_alive(call)).count();
    assert!(keep_alives >= 29, "{keep_alives} keep-alives in 100 s");
}

/// The registration of a watch, or a read of the position, never returns.
#[tokio::test(start_paused = true)]
async fn waiter_with_hanging_request_acquires_within_ttl() {
    for (kind, call_number) in [("watch", 1), ("watch", 2), ("range", 1)] {
        let store = Client::new(MemBackend::new());
        let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
        let faulty = intercepted(&store, nth(kind, call_number, call_number, Action::Hang));
        let waiter = Mutex::new(&session_on(faulty).await, "m");
        let unlock = async { holder.unlock().await.unwrap() };
        let ((acquired, elapsed), ()) =
            while_waiting_after(secs(1), timed(waiter.lock()), unlock).await;
        acquired.unwrap().unlock().await.unwrap();
        assert!(elapsed < secs(12), "{kind} {call_number} hangs: acquired after {elapsed:?}");
    }
}

/// The holder's key is deleted, and the query for the reason gets no response. `run_while_held`
/// continued the work, even after the session was lost.
#[tokio::test(start_paused = true)]
async fn holder_is_notified_when_loss_query_hangs() {
    for session_ends in [false, true] {
        let store = Client::new(MemBackend::new());
        let session =
            session_on(intercepted(&store, only("lease_time_to_live", Action::Hang))).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let work = timeout(secs(60), guard.run_while_held(sleep(secs(1000))));
        let ((result, elapsed), ()) = while_waiting_after(secs(1), timed(work), async {
            store.delete(guard.key()).await.unwrap();
            if session_ends {
                settle().await;
                session.close().await.unwrap();
            }
        })
        .await;
        let reason = if session_ends { LossReason::Closed } else { LossReason::KeyDeleted };
        assert_eq!(result.expect("returns within a minute"), Err(reason));
        assert!(elapsed < secs(3), "took {elapsed:?}");
        let late = timeout(secs(60), guard.txn(Txn::new())).await.expect("returns within a minute");
        assert_eq!(late.unwrap_err().loss(), Some(reason));
    }
}

/// The session task waited for the response to a keep-alive before it reported a loss that it had
/// detected in the meantime.
#[tokio::test(start_paused = true)]
async fn loss_is_reported_during_a_hanging_keep_alive() {
    for (hanging, expected_after) in [(1, secs(4)), (usize::MAX, secs(5))] {
        let store = Client::new(MemBackend::new());
        let rule = nth("lease_keep_alive", 1, hanging, Action::Hang);
        let session = session_on(intercepted(&store, rule)).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let revoke = store.lease_revoke(session.lease_id());
        let ((reason, elapsed), revoked) =
            while_waiting_after(secs(4), timed(guard.lost()), revoke).await;
        revoked.unwrap();
        assert_eq!((reason, elapsed), (LossReason::Revoked, expected_after));
    }
}

/// Each guard that detects the loss requests a check of the lease from the session task. One
/// keep-alive resolves the reason for all of them.
#[tokio::test(start_paused = true)]
async fn revoked_lease_costs_one_keep_alive_for_all_guards() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let recording = recorder.clone();
    let rule = move |call: &Call| {
        recording.action(call);
        Action::Delay(Duration::from_millis(if is_keep_alive(call) { 50 } else { 0 }))
    };
    let session = session_on(intercepted(&store, rule)).await;
    let mut guards = Vec::new();
    for n in 0..9 {
        guards.push(Mutex::new(&session, format!("m{n}")).lock().await.unwrap());
    }
    recorder.take();
    store.lease_revoke(session.lease_id()).await.unwrap();
    let reasons = join_all(guards.iter().zip(1..).map(async |(guard, n)| {
        sleep(Duration::from_millis(5 * n)).await;
        guard.txn(Txn::new()).await.unwrap_err().loss()
    }));
    let (reasons, elapsed) = timed(reasons).await;
    assert!(reasons.iter().all(|reason| *reason == Some(LossReason::Revoked)), "{reasons:?}");
    assert!(elapsed < Duration::from_millis(100), "{elapsed:?}");
    let calls = recorder.take();
    assert_eq!(calls.count("lease_keep_alive"), 1, "{calls}");
}
