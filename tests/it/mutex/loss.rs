//! Losing the lock, or the place in its line.

use crate::support::another;
use coord_mem::MemBackend;
use std::pin::pin;
use std::time::Duration;

use coord_core::{
    Client, Mutex, Session,
    error::{LossReason, Outcome},
    kv::{Put, Txn},
};
use coord_testkit::{Action, Call, Recorder, Rule as _};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    behind, is_keep_alive, keys, nth, only, secs, session, session_on, settle, timed,
};

/// The holder's keep-alives stop; whoever waits must not be served before the holder was told.
#[tokio::test(start_paused = true)]
async fn holder_loses_lock_before_next_waiter_acquires() {
    for rate in [1.0, 1.05] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let cut_off = behind(&store, only("lease_keep_alive", Action::Hang));
        let held = Mutex::new(&session_on(cut_off).await, "m").lock().await.unwrap();
        let waiter = Mutex::new(&session(&store).await, "m");
        let ((reason, told), served) =
            tokio::join!(async { (held.lost().await, Instant::now()) }, async {
                drop(waiter.lock().await.unwrap());
                Instant::now()
            });
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        assert!(told < served, "rate {rate}: told {:?} too late", told - served);
    }
}

/// etcd issues 6127 and 7983: the holder of Go's package is not told.
#[tokio::test(start_paused = true)]
async fn holder_is_notified_when_its_key_is_deleted() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let (reason, ()) = tokio::join!(guard.lost(), async {
        settle().await;
        store.delete(guard.key()).await.unwrap();
    });
    assert_eq!(reason, LossReason::KeyDeleted);
    assert_eq!(guard.lost().await, LossReason::KeyDeleted, "asked later, the same");
    assert_eq!(guard.unlock().await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}

#[tokio::test(start_paused = true)]
async fn holder_is_notified_of_loss_after_compaction() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let revision = store.put("other", "1").await.unwrap().header.revision;
    store.put("other", "2").await.unwrap();
    store.compact(coord_core::kv::Compact::new(revision.next())).await.unwrap();
    let mut lost = pin!(guard.lost());
    assert!(timeout(secs(61), lost.as_mut()).await.is_err(), "nothing was lost yet");
    store.delete(guard.key()).await.unwrap();
    let (reason, after) = timed(lost).await;
    assert_eq!((reason, after), (LossReason::KeyDeleted, secs(0)), "it watches again");
}

#[tokio::test(start_paused = true)]
async fn run_while_held_drops_work_when_lock_is_lost() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    let steps = std::sync::atomic::AtomicUsize::new(0);
    let work = async {
        loop {
            sleep(secs(1)).await;
            steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let (result, _) = tokio::join!(guard.run_while_held::<_>(work), async {
        sleep(secs(5) + secs(1) / 2).await;
        session.close().await
    });
    let result: Result<(), LossReason> = result;
    assert_eq!(result, Err(LossReason::Closed));
    assert_eq!(steps.into_inner(), 5);
}

/// etcd issues 11457 and 10811: a holder that was suspended writes after its lock has passed on.
#[tokio::test(start_paused = true)]
async fn late_write_of_former_holder_is_refused() {
    let store = Client::new(MemBackend::new());
    let cut_off = behind(&store, only("lease_keep_alive", Action::Hang));
    let old = Mutex::new(&session_on(cut_off).await, "m").lock().await.unwrap();
    let new = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    new.txn(Txn::new().and_then([Put::new("a", "new")])).await.unwrap();

    let late = old.txn(Txn::new().and_then([Put::new("a", "old")])).await.unwrap_err();
    assert_eq!(late.outcome(), Outcome::NotApplied);
    assert_eq!(late.loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "new");
    assert!(new.fencing_token() > old.fencing_token());
}

/// etcd issue 19597: a waiter of Go's package whose session ends waits on until all before it go.
#[tokio::test(start_paused = true)]
async fn waiter_fails_at_once_when_its_session_closes() {
    let store = Client::new(MemBackend::new());
    let _held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let doomed = session(&store).await;
    let waiter = Mutex::new(&doomed, "m");
    let (result, _) = tokio::join!(timed(waiter.lock()), async {
        sleep(secs(1)).await;
        doomed.close().await.unwrap();
    });
    assert_eq!(result.0.unwrap_err().loss(), Some(LossReason::Closed));
    assert_eq!(result.1, secs(1));
}

/// etcd issue 11777.
#[tokio::test(start_paused = true)]
async fn waiter_fails_at_once_when_its_key_is_deleted() {
    let store = Client::new(MemBackend::new());
    let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter = Mutex::new(&session(&store).await, "m");
    let (result, ()) = tokio::join!(timed(waiter.lock()), async {
        sleep(secs(1)).await;
        let line = keys(&store, "m/").await;
        let mine = line.iter().find(|key| key.as_bytes() != held.key()).unwrap();
        store.delete(mine).await.unwrap();
    });
    assert_eq!(result.0.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert_eq!(result.1, secs(1));
}

#[tokio::test(start_paused = true)]
async fn waiter_fails_at_once_when_its_lease_is_revoked() {
    let store = Client::new(MemBackend::new());
    let _held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let doomed = session(&store).await;
    let waiter = Mutex::new(&doomed, "m");
    let (result, ()) = tokio::join!(timed(waiter.lock()), async {
        sleep(secs(1)).await;
        store.lease_revoke(doomed.lease_id()).await.unwrap();
    });
    assert_eq!(result.0.unwrap_err().loss(), Some(LossReason::Revoked));
    assert_eq!(result.1, secs(1));
}

/// Go's `TestMutexWaitsOnCurrentHolder`: the one in the middle dies; the third still waits for the
/// first, and is served as soon as the first goes.
#[tokio::test(start_paused = true)]
async fn waiter_behind_cancelled_waiter_waits_for_holder() {
    let store = Client::new(MemBackend::new());
    let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let (second, third) = (session(&store).await, session(&store).await);
    let (middle, last) = (Mutex::new(&second, "m"), Mutex::new(&third, "m"));
    let middle = timeout(secs(1), middle.lock());
    let last = async {
        settle().await;
        timed(last.lock()).await
    };
    let (gave_up, (guard, after), ()) = tokio::join!(middle, last, async {
        sleep(secs(5)).await;
        held.unlock().await.unwrap();
    });
    assert!(gave_up.is_err());
    drop(guard.unwrap());
    assert_eq!(after, secs(5) - secs(1) / 5, "not when the middle one went");
}

#[tokio::test(start_paused = true)]
async fn waiter_continues_while_store_is_unavailable() {
    let store = Client::new(MemBackend::new());
    let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let shaky = session_on(behind(&store, nth("range", 1, 6, Action::DropResponse))).await;
    let waiter = Mutex::new(&shaky, "m");
    let (guard, ()) = tokio::join!(waiter.lock(), async {
        sleep(secs(5)).await;
        held.unlock().await.unwrap();
    });
    drop(guard.unwrap());
}

#[tokio::test(start_paused = true)]
async fn partitioned_waiter_fails_when_its_session_is_lost() {
    let store = Client::new(MemBackend::new());
    let _held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let down = |call: &Call| match call {
        Call::Range(_) | Call::LeaseKeepAlive(_) => Action::Hang,
        _ => Action::Pass,
    };
    let cut_off = session_on(behind(&store, down)).await;
    let (result, after) = timed(Mutex::new(&cut_off, "m").lock()).await;
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(after, secs(9));
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
    let first = session(&store).await;
    let held = Mutex::new(&first, "m").lock().await.unwrap();
    let lease = first.orphan().await.unwrap();
    let heir = Session::builder(&another(&store)).lease(lease).open().await.unwrap();
    let mutex = Mutex::new(&heir, "m");
    assert!(mutex.try_lock().await.unwrap().is_none(), "still locked by the former owner's key");
    assert!(timeout(secs(60), mutex.lock()).await.is_err());
    settle().await;
    assert_eq!(keys(&store, "m/").await, [format!("m/{lease}-0")], "and that key is not touched");
    let _ = held;
}

#[tokio::test(start_paused = true)]
async fn keep_alives_continue_while_lock_waits() {
    let store = Client::new(MemBackend::new());
    let record = Recorder::new();
    let _held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let patient = session_on(behind(&store, record.clone())).await;
    assert!(timeout(secs(100), Mutex::new(&patient, "m").lock()).await.is_err());
    let beats = record.take().0.iter().filter(|call| is_keep_alive(call)).count();
    assert!(beats >= 29, "{beats} keep-alives in 100 s");
}

/// A look, or the registration of a watch, of which nothing is ever heard again.
#[tokio::test(start_paused = true)]
async fn waiter_with_hanging_request_acquires_within_ttl() {
    for (kind, nth_call) in [("watch", 1), ("watch", 2), ("range", 1)] {
        let store = Client::new(MemBackend::new());
        let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
        let session = session_on(behind(&store, nth(kind, nth_call, nth_call, Action::Hang))).await;
        let waiter = Mutex::new(&session, "m");
        let ((served, after), ()) = tokio::join!(timed(waiter.lock()), async {
            sleep(secs(1)).await;
            held.unlock().await.unwrap();
        });
        served.unwrap().unlock().await.unwrap();
        assert!(after < secs(12), "the {nth_call}. {kind} was lost: served after {after:?}");
    }
}

/// Its key is gone, and the store does not answer why. The holder was never told of that, and not
/// of the loss of its session either: it worked on.
#[tokio::test(start_paused = true)]
async fn holder_is_notified_when_loss_query_hangs() {
    for session_ends in [false, true] {
        let store = Client::new(MemBackend::new());
        let session = session_on(behind(&store, only("lease_time_to_live", Action::Hang))).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let work = timeout(secs(60), guard.run_while_held(sleep(secs(1000))));
        let ((lost, after), ()) = tokio::join!(timed(work), async {
            sleep(secs(1)).await;
            store.delete(guard.key()).await.unwrap();
            if session_ends {
                settle().await;
                session.close().await.unwrap();
            }
        });
        let reason = if session_ends { LossReason::Closed } else { LossReason::KeyDeleted };
        assert_eq!(lost.expect("it is told"), Err(reason));
        assert!(after < secs(3), "took {after:?}");
        let late = timeout(secs(60), guard.txn(Txn::new())).await.expect("it is told");
        assert_eq!(late.unwrap_err().loss(), Some(reason));
    }
}

/// A keep-alive of which nothing is heard any more was waited for before another was sent.
#[tokio::test(start_paused = true)]
async fn loss_is_reported_during_a_hanging_keep_alive() {
    for (unanswered, told_after) in [(1, secs(4)), (usize::MAX, secs(5))] {
        let store = Client::new(MemBackend::new());
        let rule = nth("lease_keep_alive", 1, unanswered, Action::Hang);
        let session = session_on(behind(&store, rule)).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let ((reason, after), ()) = tokio::join!(timed(guard.lost()), async {
            sleep(secs(4)).await;
            store.lease_revoke(session.lease_id()).await.unwrap();
        });
        assert_eq!((reason, after), (LossReason::Revoked, told_after));
    }
}

/// Each who learns that the lease is gone has the keeper ask at once, but for one answer.
#[tokio::test(start_paused = true)]
async fn revoked_lease_costs_one_keep_alive_for_all_guards() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let recorded = record.clone();
    let rule = move |call: &Call| {
        recorded.action(call);
        let late = Duration::from_millis(if is_keep_alive(call) { 50 } else { 0 });
        Action::Delay(late)
    };
    let session = session_on(behind(&store, rule)).await;
    let mut guards = Vec::new();
    for n in 0..9 {
        guards.push(Mutex::new(&session, format!("m{n}")).lock().await.unwrap());
    }
    record.take();
    store.lease_revoke(session.lease_id()).await.unwrap();
    let told = join_all(guards.iter().zip(1..).map(async |(guard, n)| {
        sleep(Duration::from_millis(5 * n)).await;
        guard.txn(Txn::new()).await.unwrap_err().loss()
    }));
    let (told, after) = timed(told).await;
    assert!(told.iter().all(|reason| *reason == Some(LossReason::Revoked)), "{told:?}");
    assert!(after < Duration::from_millis(100), "{after:?}");
    let calls = record.take();
    assert_eq!(calls.count("lease_keep_alive"), 1, "{calls}");
}
