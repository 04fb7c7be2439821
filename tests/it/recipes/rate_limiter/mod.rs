//! The rate limiter: slices of a budget, how they are spent, typed errors, and requests.

mod known_faults;
mod loss;

use std::sync::Arc;
use std::time::Duration;

use coord_core::Client;
use coord_core::recipes::{RateLimiter, RateLimiterError, RateSlice, Semaphore};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _, poll_at_most};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    intercepted, is_keep_alive, keys, newest_revision, secs, session, session_on, settle, timed,
};
use crate::while_waiting::while_waiting;

const MILLISECOND: Duration = Duration::from_millis(1);

/// The rate limiter `r` on a client and a session of its own.
async fn limiter(store: &Client, budget: u32) -> RateLimiter {
    RateLimiter::new(&session(store).await, "r", budget)
}

/// Acquires a slice without waiting.
async fn slice_now(limiter: &RateLimiter, rate: u32) -> RateSlice {
    limiter.try_acquire_slice(rate).await.unwrap().expect("the budget has the rate")
}

#[tokio::test(start_paused = true)]
async fn slice_starts_empty_and_spends_at_its_rate() {
    let slice = slice_now(&limiter(&Client::new(MemBackend::new()), 10).await, 10).await;
    assert_eq!((slice.rate(), slice.burst()), (10, 10));
    assert!(!slice.try_acquire(1).unwrap(), "empty");
    let start = Instant::now();
    for n in 1..=25 {
        slice.acquire(1).await.unwrap();
        assert_eq!(start.elapsed(), n * Duration::from_millis(100));
    }
    slice.acquire(10).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(3_500));
}

#[tokio::test(start_paused = true)]
async fn idle_slice_keeps_at_most_its_burst() {
    let store = Client::new(MemBackend::new());
    let limiter = limiter(&store, 10).await.burst(Duration::from_millis(350));
    let slice = slice_now(&limiter, 10).await;
    assert_eq!(slice.burst(), 3, "whole units");
    sleep(secs(3600)).await;
    assert!(slice.try_acquire(3).unwrap());
    assert!(!slice.try_acquire(1).unwrap());
    let (acquired, elapsed) = timed(slice.acquire(1)).await;
    acquired.unwrap();
    assert_eq!(elapsed, Duration::from_millis(50), "half a unit was left");
}

#[tokio::test(start_paused = true)]
async fn slices_of_all_members_are_at_most_the_budget() {
    let store = Client::new(MemBackend::new());
    let (one, other) = (limiter(&store, 10).await, limiter(&store, 10).await);
    let first = one.acquire_slice(6).await.unwrap();
    assert_eq!((one.available().await.unwrap(), one.budget().await.unwrap()), (4, 10));
    assert!(other.try_acquire_slice(5).await.unwrap().is_none());
    let second = slice_now(&other, 4).await;
    let (third, ()) = while_waiting(other.acquire_slice(6), async {
        first.release().await.unwrap();
    })
    .await;
    drop((second, third));
    settle().await;
    assert_eq!(keys(&store, "").await, ["coord/limit/r/rate"], "the budget is stored");
}

#[tokio::test(start_paused = true)]
async fn waiters_for_units_are_served_in_order() {
    let slice = Arc::new(slice_now(&limiter(&Client::new(MemBackend::new()), 10).await, 10).await);
    let mut waiters = JoinSet::new();
    let start = Instant::now();
    for units in [8, 1, 1] {
        let slice = Arc::clone(&slice);
        waiters.spawn(async move {
            slice.acquire(units).await.unwrap();
            (start.elapsed().as_millis(), units)
        });
    }
    sleep(Duration::from_millis(250)).await;
    assert!(!slice.try_acquire(1).unwrap(), "two units are there, and a wider call waits");
    let mut served = waiters.join_all().await;
    served.sort_unstable();
    assert_eq!(served, [(800, 8), (900, 1), (1_000, 1)]);
}

#[tokio::test(start_paused = true)]
async fn dropped_wait_for_units_spends_nothing() {
    let slice = slice_now(&limiter(&Client::new(MemBackend::new()), 10).await, 10).await;
    assert!(poll_at_most(1, slice.acquire(10)).await.is_none());
    let (cancelled, behind) = tokio::join!(
        timeout(Duration::from_millis(400), slice.acquire(10)),
        timed(slice.acquire(5)),
    );
    assert!(cancelled.is_err());
    behind.0.unwrap();
    assert_eq!(behind.1, Duration::from_millis(500), "no unit was spent before");
    let (acquired, elapsed) = timed(slice.acquire(10)).await;
    acquired.unwrap();
    assert_eq!(elapsed, secs(1));
}

/// A runtime that is late, or timers of a whole millisecond, cost nothing of the rate.
#[tokio::test(start_paused = true)]
async fn high_rate_is_reached_with_timers_of_a_millisecond() {
    let slice = slice_now(&limiter(&Client::new(MemBackend::new()), 30_000).await, 30_000).await;
    let start = Instant::now();
    for _ in 0..30_000 {
        slice.acquire(1).await.unwrap();
    }
    let elapsed = start.elapsed();
    assert!(secs(1) <= elapsed && elapsed <= secs(1) + MILLISECOND, "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn invalid_slices_are_refused_before_sending() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    recorder.take();
    let limiter = RateLimiter::new(&session, "r", 10);
    let short = limiter.clone().burst(Duration::from_millis(100));
    let refused = [
        (limiter.acquire_slice(0).await.unwrap_err(), "rate 0 of a slice: must be from 1 to"),
        (limiter.try_acquire_slice(11).await.unwrap_err(), "to the budget 10: acquire a smaller"),
        (short.acquire_slice(9).await.unwrap_err(), "burst 100ms: a slice of 9 units per second"),
        (short.try_acquire_slice(3).await.unwrap_err(), "needs at least 333.333334ms"),
        (RateLimiter::new(&session, "r", 0).acquire_slice(1).await.unwrap_err(), "budget 0 of"),
        (limiter.set_budget(0).await.unwrap_err(), "must be at least 1 unit per second"),
    ];
    for (error, text) in refused {
        assert!(error.to_string().contains(text), "{error}");
        assert!(!error.is_retryable() && error.loss().is_none());
    }
    assert_eq!(recorder.take().names(), "");
    assert_eq!(slice_now(&short, 10).await.burst(), 1);
}

#[tokio::test(start_paused = true)]
async fn number_of_units_outside_the_burst_is_an_error() {
    let limiter = limiter(&Client::new(MemBackend::new()), 10).await.burst(secs(2));
    let slice = slice_now(&limiter, 3).await;
    sleep(secs(60)).await;
    for units in [0, 7, u32::MAX] {
        let tried = slice.try_acquire(units).unwrap_err();
        for error in [tried, slice.acquire(units).await.unwrap_err()] {
            let RateLimiterError::InvalidUnits { units: given, burst: 6 } = error else {
                panic!("{error}")
            };
            assert_eq!(given, units);
        }
    }
    assert!(slice.try_acquire(6).unwrap(), "nothing was spent");
}

#[tokio::test(start_paused = true)]
async fn budget_that_differs_from_the_stored_one_is_an_error() {
    let store = Client::new(MemBackend::new());
    let first = slice_now(&limiter(&store, 10).await, 4).await;
    let other = limiter(&store, 20).await;
    let before = newest_revision(&store).await;
    let error = other.acquire_slice(1).await.unwrap_err();
    let RateLimiterError::BudgetDiffers { name, stored: 10, given: 20 } = &error else {
        panic!("{error}")
    };
    assert_eq!(name, "r");
    assert!(error.to_string().contains("create it with 10, or call `set_budget(20)`"), "{error}");
    assert_eq!(newest_revision(&store).await, before, "nothing was written");
    store.put("coord/limit/r/rate", "ten").await.unwrap();
    let error = other.budget().await.unwrap_err();
    assert!(matches!(error, RateLimiterError::UnreadableBudget { .. }), "{error}");
    other.set_budget(20).await.unwrap();
    drop((slice_now(&other, 16).await, first));
}

#[tokio::test(start_paused = true)]
async fn raised_budget_gives_waiting_members_their_slices() {
    let store = Client::new(MemBackend::new());
    let (one, other) = (limiter(&store, 10).await, limiter(&store, 10).await);
    let _held = slice_now(&one, 10).await;
    let (slice, raised) = while_waiting(other.acquire_slice(5), one.set_budget(15)).await;
    raised.unwrap();
    assert_eq!(slice.unwrap().rate(), 5);
}

#[tokio::test(start_paused = true)]
async fn lowered_budget_takes_nothing_from_slices() {
    let store = Client::new(MemBackend::new());
    let limiter = limiter(&store, 10).await;
    let slice = slice_now(&limiter, 10).await;
    limiter.set_budget(2).await.unwrap();
    let (acquired, elapsed) = timed(slice.acquire(10)).await;
    acquired.unwrap();
    assert_eq!(elapsed, secs(1));
    assert_eq!(limiter.available().await.unwrap(), 0);
    slice.release().await.unwrap();
    drop(slice_now(&limiter, 2).await);
}

#[tokio::test(start_paused = true)]
async fn rate_limiter_is_independent_of_a_semaphore_of_its_name() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let _permit = Semaphore::new(&session, "r", 1).acquire(1).await.unwrap();
    let _slice = slice_now(&RateLimiter::new(&session, "r", 10), 10).await;
}

/// The documented cost: a request for each slice, and none for its units.
#[tokio::test(start_paused = true)]
async fn slice_costs_one_request_and_its_units_none() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let recording = recorder.clone();
    let rule = move |call: &Call| {
        if !is_keep_alive(call) {
            recording.action(call);
        }
        Action::Pass
    };
    let limiter = RateLimiter::new(&session_on(intercepted(&store, rule)).await, "r", 100);
    recorder.take();
    let first = limiter.acquire_slice(50).await.unwrap();
    settle().await;
    assert_eq!(recorder.take().names(), "txn txn watch", "the first of all stores the budget");
    let second = limiter.acquire_slice(50).await.unwrap();
    settle().await;
    assert_eq!(recorder.take().names(), "txn watch");
    let start = Instant::now();
    while start.elapsed() < secs(5) {
        second.acquire(1).await.unwrap();
        first.try_acquire(1).unwrap();
    }
    assert!(timeout(secs(1), first.lost()).await.is_err());
    assert_eq!(recorder.take().names(), "", "not for 500 units");
    sleep(secs(30)).await;
    assert_eq!(recorder.take().count("range"), 6, "each slice reads its key each TTL");
    first.release().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    drop(second);
    settle().await;
    assert_eq!(recorder.take().names(), "txn", "a drop costs the same as a release");
    for read in [limiter.available().await.unwrap(), limiter.budget().await.unwrap()] {
        assert_eq!(read, 100);
    }
    limiter.set_budget(10).await.unwrap();
    assert_eq!(recorder.take().names(), "txn range put");
}
