//! Faults of other libraries' semaphores that this one does not have.
//!
//! - Redisson: permits are lost when a holder crashes, a partition blocks other clients, some of
//!   hundreds of waiters starve, and a release before the subscription is missed.
//! - Curator: waiters do not notice a raised limit, an interrupted call leaves its node, and
//!   clients with different limits exclude nothing
//!   (`limit_that_differs_from_the_stored_one_is_an_error`).

use std::time::Duration;

use coord_core::error::LossReason;
use coord_core::recipes::Semaphore;
use coord_core::{Client, Session};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call};
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{acquire_now, semaphore};
use crate::support::{
    intercepted, keys, only, secs, separate_client, session, session_on, settle, timed,
};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// A counter in the store keeps the permits of a process that has crashed. Here they are free when
/// the holder's lease ends, and not before the holder was notified.
#[tokio::test(start_paused = true)]
async fn permits_of_a_crashed_holder_are_free() {
    for rate in [1.0, 1.05] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let crashed = intercepted(&store, only("lease_keep_alive", Action::Hang));
        let holder = Semaphore::new(&session_on(crashed).await, "s", 3);
        let held = holder.acquire(2).await.unwrap();
        let waiter = semaphore(&store, 3).await;
        let ((reason, lost_at), acquired_at) =
            tokio::join!(async { (held.lost().await, Instant::now()) }, async {
                drop(waiter.acquire(3).await.unwrap());
                Instant::now()
            });
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        assert!(lost_at < acquired_at, "clock rate {rate}");
    }
}

#[tokio::test(start_paused = true)]
async fn permits_of_a_revoked_lease_are_free_within_one_event() {
    let store = Client::new(MemBackend::new());
    let holder = session(&store).await;
    let semaphore_of_holder = Semaphore::new(&holder, "s", 3);
    let _held = [semaphore_of_holder.acquire(1).await, semaphore_of_holder.acquire(2).await];
    let waiter = semaphore(&store, 3).await;
    let ((acquired, elapsed), revoked) = while_waiting_after(
        secs(5),
        timed(waiter.acquire(3)),
        store.lease_revoke(holder.lease_id()),
    )
    .await;
    revoked.unwrap();
    assert_eq!((acquired.unwrap().permits(), elapsed), (3, secs(5)));
}

#[tokio::test(start_paused = true)]
async fn raised_limit_admits_waiters_within_one_event() {
    let store = Client::new(MemBackend::new());
    let (first, operator) = (semaphore(&store, 1).await, semaphore(&store, 1).await);
    let held = first.acquire(1).await.unwrap();
    let waiters: Vec<_> = join_all((0..3).map(|_| semaphore(&store, 1))).await;
    let waiting = join_all(waiters.iter().map(|waiter| timed(waiter.acquire(1))));
    let raise = async {
        operator.set_limit(3).await.unwrap();
        settle().await;
        held.release().await.unwrap();
    };
    let (acquired, ()) = while_waiting_after(secs(5), waiting, raise).await;
    let after: Vec<_> = acquired.iter().map(|(_, elapsed)| elapsed.as_millis()).collect();
    assert_eq!(after, [5_000, 5_000, 5_200], "two at once, the third after the release");
}

/// A partitioned waiter keeps its position only as long as its lease lives, and takes no permit.
#[tokio::test(start_paused = true)]
async fn partition_of_a_waiter_does_not_block_others() {
    let store = Client::new(MemBackend::new());
    let holder = semaphore(&store, 2).await.acquire(2).await.unwrap();
    let enqueued = intercepted(&store, |call: &Call| match call {
        Call::Watch(_) | Call::LeaseKeepAlive(_) => Action::Hang,
        _ => Action::Pass,
    });
    let partitioned = Semaphore::new(&session_on(enqueued).await, "s", 2);
    let next = semaphore(&store, 2).await;
    let (cut_off, (acquired, elapsed), ()) = tokio::join!(
        timed(partitioned.acquire(2)),
        async {
            settle().await;
            timed(next.acquire(1)).await
        },
        async {
            tokio::time::sleep(secs(1)).await;
            holder.release().await.unwrap();
        }
    );
    assert_eq!(cut_off.0.unwrap_err().loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(cut_off.1, secs(9), "before its lease ends");
    assert!(elapsed < secs(11), "acquired after {elapsed:?}");
    let permits = acquired.unwrap();
    drop(acquire_now(&next, 1).await);
    drop(permits);
}

#[tokio::test(start_paused = true)]
async fn interrupted_acquire_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let semaphore = semaphore(&store, 2).await;
    let held = semaphore.acquire(2).await.unwrap();
    let interrupted = timeout(secs(3), join_all((0..9).map(|_| semaphore.acquire(1))));
    assert!(interrupted.await.is_err());
    settle().await;
    assert_eq!(keys(&store, "s/permits/").await.len(), 1, "that of the holder");
    held.release().await.unwrap();
    drop(acquire_now(&semaphore, 2).await);
}

#[tokio::test(start_paused = true)]
async fn every_one_of_hundreds_of_waiters_acquires() {
    let store = Client::new(MemBackend::new());
    let mut waiters = JoinSet::new();
    let sessions: Vec<Session> = join_all((0..20).map(|_| session(&store))).await;
    for n in 0..400_u32 {
        let semaphore = Semaphore::new(&sessions[n as usize % 20], "s", 5);
        waiters.spawn(async move {
            let permits = semaphore.acquire(1 + n % 5).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            permits.release().await.unwrap();
        });
    }
    let all = timeout(secs(60), waiters.join_all()).await.expect("all within a minute");
    assert_eq!(all.len(), 400);
    assert_eq!(keys(&store, "s/permits/").await, [""; 0]);
}

/// The holder releases after the waiter has read the keys ahead, and before its watch is
/// registered.
#[tokio::test(start_paused = true)]
async fn release_before_the_watch_is_not_missed() {
    for delayed_ms in [1, 30, 100] {
        let store = Client::new(MemBackend::new());
        let holder = semaphore(&store, 1).await.acquire(1).await.unwrap();
        let rule = move |call: &Call| match call {
            Call::Watch(_) => Action::Delay(Duration::from_millis(delayed_ms)),
            _ => Action::Pass,
        };
        let slow = Semaphore::new(&session_on(intercepted(&store, rule)).await, "s", 1);
        let release = async { holder.release().await.unwrap() };
        let within = timeout(secs(1), slow.acquire(1));
        let (acquired, ()) = while_waiting_after(Duration::from_micros(500), within, release).await;
        drop(acquired.expect("acquires at once").unwrap());
    }
}

/// Two sessions of one process are two holders.
#[tokio::test(start_paused = true)]
async fn holders_of_one_client_do_not_share_permits() {
    let client = separate_client(&Client::new(MemBackend::new()));
    let (one, other) = (session_on(&client).await, session_on(&client).await);
    let (one, other) = (Semaphore::new(&one, "s", 1), Semaphore::new(&other, "s", 1));
    let held = one.acquire(1).await.unwrap();
    assert!(one.try_acquire(1).await.unwrap().is_none());
    let release = async { held.release().await.unwrap() };
    let (acquired, ()) = while_waiting(other.acquire(1), release).await;
    acquired.unwrap().release().await.unwrap();
}
