//! The lock-delay: locks stay closed after their holder has vanished, and only then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_core::error::{ErrorKind, LossReason};
use coord_core::kv::{LeaseGrant, LeaseTimeToLive};
use coord_core::session::{Generation, SessionBuilder, SessionState};
use coord_core::{Client, Election, Error, Mutex, Session};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{intercepted, secs, separate_client, session, timed};

const LOCK_DELAY: Duration = secs(45);

/// A session with a TTL of 10 s and a lock-delay of 45 s, which make a lease of 60 s.
fn delayed(client: &Client) -> SessionBuilder {
    Session::builder(client).ttl(secs(10)).lock_delay(LOCK_DELAY)
}

/// A rule that drops every request while `is_partitioned`.
fn partition(is_partitioned: &Arc<AtomicBool>) -> impl Rule {
    let is_partitioned = Arc::clone(is_partitioned);
    move |_: &Call| match is_partitioned.load(Ordering::Relaxed) {
        true => Action::DropRequest,
        false => Action::Pass,
    }
}

/// The next holder acquires at least the lock-delay after the deadline of a holder that has
/// vanished, also on a store whose clock is fast.
#[tokio::test(start_paused = true)]
async fn vanished_holder_keeps_the_lock_closed_for_the_delay() {
    for rate in [1.0, 1.1] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let is_partitioned = Arc::default();
        let holder = delayed(&intercepted(&store, partition(&is_partitioned))).open().await;
        let holder = holder.unwrap();
        let guard = Mutex::new(&holder, "m").lock().await.unwrap();
        sleep(secs(30)).await;
        is_partitioned.store(true, Ordering::Relaxed);
        let next = session(&store).await;
        let next = Mutex::new(&next, "m");
        let (waiting, lost) = tokio::join!(next.lock(), async {
            let reason = guard.lost().await;
            (reason, Instant::now())
        });
        let (acquired, (reason, ended)) = (Instant::now(), lost);
        assert_eq!(reason, LossReason::DeadlineUnconfirmed, "the lease still exists");
        assert!(ended >= holder.deadline() && ended < holder.deadline() + secs(1));
        let closed = acquired - holder.deadline();
        assert!(closed >= LOCK_DELAY && closed < LOCK_DELAY + secs(10), "{rate}: {closed:?}");
        assert!(waiting.unwrap().fencing_token() > guard.fencing_token());
    }
}

/// The partition ends before the lease does: the lost session deletes nothing.
#[tokio::test(start_paused = true)]
async fn lost_holder_that_reconnects_keeps_the_lock_closed() {
    let store = Client::new(MemBackend::new());
    let is_partitioned = Arc::default();
    let holder = delayed(&intercepted(&store, partition(&is_partitioned))).open().await.unwrap();
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    is_partitioned.store(true, Ordering::Relaxed);
    holder.lost().await;
    is_partitioned.store(false, Ordering::Relaxed);
    assert!(guard.unlock().await.is_err(), "lost");
    holder.close().await.unwrap();
    drop(holder);
    let next = session(&separate_client(&store)).await;
    let lock = Mutex::new(&next, "m");
    assert!(timeout(LOCK_DELAY, lock.lock()).await.is_err());
    assert!(timeout(secs(20), lock.lock()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn release_close_and_revocation_free_at_once() {
    let store = Client::new(MemBackend::new());
    let next = session(&store).await;
    let next = Mutex::new(&next, "m");
    let is_free = async |how: &str| {
        let (guard, waited) = timed(next.lock()).await;
        assert!(waited < secs(1), "{how}: {waited:?}");
        guard.unwrap().unlock().await.unwrap();
    };
    let holder = delayed(&separate_client(&store)).open().await.unwrap();
    let lock = Mutex::new(&holder, "m");
    lock.lock().await.unwrap().unlock().await.unwrap();
    is_free("unlock").await;
    drop(lock.lock().await.unwrap());
    is_free("a dropped guard").await;
    let guard = lock.lock().await.unwrap();
    holder.close().await.unwrap();
    is_free("close").await;
    drop(guard);

    let holder = delayed(&separate_client(&store)).open().await.unwrap();
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    store.lease_revoke(holder.lease_id()).await.unwrap();
    is_free("revocation").await;
    drop((guard, lock));
    let holder = delayed(&separate_client(&store)).open().await.unwrap();
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    drop((holder, guard));
    is_free("a dropped session").await;
}

/// The key of a waiter stays as long: the contenders behind it wait.
#[tokio::test(start_paused = true)]
async fn vanished_waiter_holds_up_the_contenders_behind_it() {
    let store = Client::new(MemBackend::new());
    let is_partitioned = Arc::default();
    let holder = session(&store).await;
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    let waiter = delayed(&intercepted(&store, partition(&is_partitioned))).open().await.unwrap();
    let waiting = Mutex::new(&waiter, "m");
    assert!(
        timeout(secs(1), async {
            tokio::select! {
                biased;
                _ = waiting.lock() => {}
                () = async {
                    sleep(Duration::from_millis(500)).await;
                    is_partitioned.store(true, Ordering::Relaxed);
                    std::future::pending().await
                } => {}
            }
        })
        .await
        .is_err()
    );
    guard.unlock().await.unwrap();
    let next = session(&store).await;
    let (_guard, waited) = timed(Mutex::new(&next, "m").lock()).await;
    assert!(waited > LOCK_DELAY && waited < secs(65), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn invalid_lock_delay_is_refused_without_a_request() {
    let record = Recorder::new();
    let client = intercepted(&Client::new(MemBackend::new()), record.clone());
    for (ttl, lock_delay, kind) in [
        (secs(10), Duration::from_millis(1500), ErrorKind::InvalidLockDelay),
        (secs(10), Duration::MAX, ErrorKind::InvalidLockDelay),
        (secs(10), secs(u64::MAX), ErrorKind::TtlTooLarge),
        (secs(9_000_000_000), secs(1), ErrorKind::TtlTooLarge),
        (secs(1), secs(8_999_999_999), ErrorKind::TtlTooLarge),
    ] {
        let builder = || Session::builder(&client).ttl(ttl).lock_delay(lock_delay);
        let error = builder().open().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{ttl:?}, {lock_delay:?}: {error}");
        assert_eq!(builder().supervise().await.unwrap_err().kind(), kind, "{lock_delay:?}");
    }
    assert_eq!(record.take().names(), "");
    let error = Session::builder(&client).lock_delay(Duration::from_millis(1500)).open().await;
    let text = error.unwrap_err().to_string();
    assert_eq!(text, "invalid lock-delay 1.5s: must be a whole number of seconds");
}

#[tokio::test(start_paused = true)]
async fn lock_delay_is_part_of_the_lease_and_not_of_the_session() {
    // What the store grants beyond the request belongs to the session.
    for (ttl_min, session_ttl, lease_ttl) in [(secs(1), secs(10), 60), (secs(90), secs(40), 90)] {
        let store = Client::new(MemBackend::builder().lease_ttl_min(ttl_min).build());
        let session = delayed(&store).open().await.unwrap();
        assert_eq!((session.ttl(), session.lock_delay()), (session_ttl, LOCK_DELAY));
        assert_eq!(session.deadline() - Instant::now(), session_ttl * 9 / 10);
        let lease = store.lease_time_to_live(LeaseTimeToLive::new(session.lease_id())).await;
        assert_eq!(lease.unwrap().lease.unwrap().granted, secs(lease_ttl));
        assert!(format!("{session:?}").contains("lock_delay: 45s"), "{session:?}");
        sleep(secs(1_000)).await;
        assert_eq!(session.state(), SessionState::Alive);
    }
}

/// An adopter with the same lock-delay has the same TTL. An adopter that sets none uses the whole
/// TTL of the lease, and a delay that leaves less than a second for the session is refused.
#[tokio::test(start_paused = true)]
async fn adopter_sets_the_lock_delay_again() {
    let store = Client::new(MemBackend::new());
    let lease = delayed(&store).open().await.unwrap().orphan().await.unwrap();
    let adopt = || Session::builder(&store).lease(lease);
    let adopter = adopt().lock_delay(LOCK_DELAY).open().await.unwrap();
    assert_eq!((adopter.ttl(), adopter.lock_delay()), (secs(10), LOCK_DELAY));
    adopter.orphan().await.unwrap();
    let adopter = adopt().open().await.unwrap();
    assert_eq!((adopter.ttl(), adopter.lock_delay()), (secs(60), Duration::ZERO));
    adopter.orphan().await.unwrap();
    let error = adopt().lock_delay(secs(54)).open().await.unwrap_err();
    assert!(matches!(error, Error::InvalidLockDelay { lease_ttl: Some(_), .. }), "{error}");
    assert!(error.to_string().contains("the TTL of the adopted lease, 60s"), "{error}");
    let adopter = adopt().lock_delay(secs(53)).open().await.unwrap();
    assert_eq!(adopter.ttl(), secs(1));
    let short = store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap().id;
    assert!(delayed(&store).lease(short).open().await.is_err());
}

/// Each generation has the lock-delay. After a partition a program waits for its own former lock.
#[tokio::test(start_paused = true)]
async fn next_generation_keeps_the_lock_delay() {
    let store = Client::new(MemBackend::new());
    let is_partitioned = Arc::default();
    let client = intercepted(&store, partition(&is_partitioned));
    let supervisor = delayed(&client).supervise().await.unwrap();
    let first = supervisor.session();
    let leadership = Election::new(&first, "e").campaign("a").await.unwrap();
    is_partitioned.store(true, Ordering::Relaxed);
    leadership.lost().await;
    is_partitioned.store(false, Ordering::Relaxed);
    let next = supervisor.ready().await.unwrap();
    assert!(next.generation() > Generation::FIRST);
    assert_eq!((next.ttl(), next.lock_delay()), (secs(10), LOCK_DELAY));
    let again = Election::new(&next, "e").campaign("a").await.unwrap();
    assert!(Instant::now() - first.deadline() >= LOCK_DELAY);
    again.resign().await.unwrap();
    supervisor.close().await.unwrap();
}
