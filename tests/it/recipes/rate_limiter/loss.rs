//! Losses of a slice: its holder stops spending before another member can have the rate.

use coord_core::error::{LossReason, Outcome};
use coord_core::recipes::{RateLimiter, RateLimiterError};
use coord_core::session::SessionState;
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, poll_at_most};
use tokio::time::{Instant, advance, sleep};

use super::{limiter, slice_now};
use crate::support::{intercepted, keys, nth, only, secs, session_on, settle, timed};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// Also if the store counts time faster than the member.
#[tokio::test(start_paused = true)]
async fn partitioned_member_stops_before_its_slice_is_free() {
    for clock_rate in [1.0, 1.05] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(clock_rate).build());
        let cut_off = intercepted(&store, only("lease_keep_alive", Action::Hang));
        let slice = slice_now(&RateLimiter::new(&session_on(cut_off).await, "r", 10), 10).await;
        let next = limiter(&store, 10).await;
        let spending = async {
            let mut last = Instant::now();
            loop {
                match slice.acquire(1).await {
                    Ok(()) => last = Instant::now(),
                    Err(error) => return (error, last, Instant::now()),
                }
            }
        };
        let ((error, last, failed_at), acquired_at) = tokio::join!(spending, async {
            let slice = next.acquire_slice(10).await.unwrap();
            assert!(!slice.try_acquire(1).unwrap(), "the former holder's units are gone");
            Instant::now()
        });
        assert_eq!(error.loss(), Some(LossReason::DeadlineUnconfirmed));
        assert!(last <= failed_at && failed_at < acquired_at, "clock rate {clock_rate}");
        assert_eq!(slice.lost().await, LossReason::DeadlineUnconfirmed);
        assert!(slice.try_acquire(1).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn waits_for_units_fail_at_once_when_the_key_is_deleted() {
    let store = Client::new(MemBackend::new());
    let slice = slice_now(&limiter(&store, 1).await, 1).await;
    let both = async { tokio::join!(slice.acquire(1), slice.acquire(1)) };
    let deletion = async { store.delete(slice.key()).await.unwrap() };
    let (((first, second), elapsed), _) = while_waiting(timed(both), deletion).await;
    for failed in [first, second] {
        assert_eq!(failed.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    }
    assert!(elapsed < secs(1), "{elapsed:?}");
    let tried = slice.try_acquire(1).unwrap_err();
    assert_eq!(
        (tried.loss(), tried.outcome()),
        (Some(LossReason::KeyDeleted), Outcome::NotApplied)
    );
    assert_eq!(slice.release().await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}

#[tokio::test(start_paused = true)]
async fn work_is_dropped_when_the_session_closes() {
    let store = Client::new(MemBackend::new());
    let limiter = limiter(&store, 10).await;
    let slice = slice_now(&limiter, 10).await;
    assert_eq!(slice.run_while_held(async { 6 * 7 }).await, Ok(42));
    let session = slice.session().clone();
    let work = slice.run_while_held(std::future::pending::<()>());
    let (stopped, closed) = while_waiting(work, session.close()).await;
    closed.unwrap();
    assert_eq!(stopped, Err(LossReason::Closed));
    assert_eq!(slice.acquire(1).await.unwrap_err().loss(), Some(LossReason::Closed));
}

/// A process that is paused does not notice the time. When it continues, its tasks may run before
/// the session task: the slice must not spend then, because another member may have its rate.
#[tokio::test(start_paused = true)]
async fn process_that_was_paused_past_its_deadline_spends_nothing() {
    let slice = slice_now(&limiter(&Client::new(MemBackend::new()), 10).await, 10).await;
    sleep(secs(2)).await;
    let session = slice.session();
    let paused = session.deadline() - Instant::now();
    // The first poll moves the clock. No other task runs.
    assert!(poll_at_most(1, advance(paused)).await.is_none());
    assert_eq!(session.state(), SessionState::Alive);
    assert!(!slice.try_acquire(1).unwrap());
    let error = slice.acquire(1).await.unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::DeadlineUnconfirmed));
}

/// The response to the release was lost, and another member may have the rate.
#[tokio::test(start_paused = true)]
async fn slice_of_a_release_with_unknown_outcome_spends_nothing() {
    let store = Client::new(MemBackend::new());
    let rule = nth("txn", 3, 3, Action::DropResponse);
    let limiter = RateLimiter::new(&session_on(intercepted(&store, rule)).await, "r", 10);
    let slice = limiter.acquire_slice(10).await.unwrap();
    sleep(secs(1)).await;
    let error = slice.release().await.unwrap_err();
    assert_eq!(error.cause.outcome(), Outcome::Unknown);
    let slice = error.held;
    let error = slice.acquire(1).await.unwrap_err();
    assert!(matches!(error, RateLimiterError::Released), "{error}");
    assert!(matches!(slice.try_acquire(1), Err(RateLimiterError::Released)));
    slice.release().await.unwrap();
    assert_eq!(keys(&store, "r/rate/permits/").await, [""; 0]);
}

/// Regression: a slice was spent after its release had reported that its key was deleted, as long
/// as the watch had not delivered the event.
#[tokio::test(start_paused = true)]
async fn slice_of_a_release_that_reports_a_loss_spends_nothing() {
    let store = Client::new(MemBackend::new());
    let silent = intercepted(&store, only("watch", Action::Hang));
    let limiter = RateLimiter::new(&session_on(silent).await, "r", 10);
    let slice = limiter.acquire_slice(10).await.unwrap();
    sleep(secs(1)).await;
    store.delete(slice.key().clone()).await.unwrap();
    let error = slice.release().await.unwrap_err();
    assert_eq!(error.cause.loss(), Some(LossReason::KeyDeleted));
    let slice = error.held;
    assert_eq!(slice.try_acquire(1).unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert_eq!(slice.acquire(1).await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}

#[tokio::test(start_paused = true)]
async fn slice_of_a_release_that_was_not_applied_is_still_spent() {
    let store = Client::new(MemBackend::new());
    let refused = Error::PermissionDenied { reason: "read only".to_owned() };
    let rule = nth("txn", 3, 3, Action::Fail(refused));
    let limiter = RateLimiter::new(&session_on(intercepted(&store, rule)).await, "r", 10);
    let slice = limiter.acquire_slice(10).await.unwrap();
    let error = slice.release().await.unwrap_err();
    assert_eq!(error.cause.outcome(), Outcome::NotApplied);
    error.held.acquire(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn acquire_of_a_slice_fails_when_the_store_revokes_its_lease() {
    let store = Client::new(MemBackend::new());
    let limiter = limiter(&store, 1).await;
    let slice = slice_now(&limiter, 1).await;
    slice.acquire(1).await.unwrap();
    let lease = slice.session().lease_id();
    let waiting = timed(slice.acquire(1));
    let ((failed, elapsed), revoked) =
        while_waiting_after(secs(1) / 2, waiting, store.lease_revoke(lease)).await;
    revoked.unwrap();
    assert_eq!(failed.unwrap_err().loss(), Some(LossReason::Revoked));
    assert!(elapsed < secs(1), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn acquire_of_a_slice_without_a_response_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let rule = |call: &Call| match call {
        Call::Txn(_) => Action::DropResponse,
        _ => Action::Pass,
    };
    let limiter = RateLimiter::new(&session_on(intercepted(&store, rule)).await, "r", 10);
    let error = limiter.try_acquire_slice(10).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    settle().await;
    assert_eq!(keys(&store, "r/rate/permits/").await, [""; 0]);
}
