//! Faults of Redisson's `RRateLimiter` that this rate limiter does not have: more units than the
//! rate at first (issue 2072), about the end of an interval (issue 2931) or after a pause (issue
//! 3639), a rate that decreases in use (issue 3804), and units that stay taken after a crash (issue
//! 4176).

use std::time::Duration;

use coord_core::Client;
use coord_core::recipes::RateSlice;
use coord_mem::MemBackend;
use tokio::time::{Instant, sleep};

use super::{limiter, slice_now};
use crate::support::secs;

/// Spends everything that the slice has, for a time. Returns when each unit was spent.
async fn spend(slice: &RateSlice, time: Duration) -> Vec<Instant> {
    let mut spent = Vec::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        while slice.try_acquire(1).unwrap() {
            spent.push(Instant::now());
        }
        sleep(Duration::from_millis(1)).await;
    }
    spent
}

/// The most units in any interval of this length that ends with a unit.
fn most_within(spent: &[Instant], interval: Duration) -> usize {
    let within =
        |end: Instant| spent.iter().filter(|at| **at <= end && **at + interval > end).count();
    spent.iter().map(|end| within(*end)).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn first_second_has_no_more_units_than_the_rate() {
    let slice = slice_now(&limiter(&Client::new(MemBackend::new()), 50).await, 50).await;
    assert_eq!(spend(&slice, secs(1)).await.len(), 49, "the 50th is there after a whole second");
}

#[tokio::test(start_paused = true)]
async fn no_interval_has_more_units_than_rate_and_burst() {
    let limiter = limiter(&Client::new(MemBackend::new()), 50).await;
    let limiter = limiter.burst(Duration::from_millis(200));
    let slice = slice_now(&limiter, 50).await;
    let mut spent = Vec::new();
    for pause_ms in [700, 990, 3_000, 60_000, 10] {
        spent.extend(spend(&slice, Duration::from_millis(300)).await);
        sleep(Duration::from_millis(pause_ms)).await;
    }
    assert_eq!(most_within(&spent, secs(1)), 10 + 14, "the burst, and less than 300 ms");
    for ms in [1, 10, 100, 300, 1_000, 2_000] {
        let most = 50 * ms as usize / 1_000 + slice.burst() as usize;
        assert!(most_within(&spent, Duration::from_millis(ms)) <= most, "in {ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn rate_is_the_same_after_hours_of_use() {
    let slice = slice_now(&limiter(&Client::new(MemBackend::new()), 115).await, 115).await;
    let start = Instant::now();
    for _ in 0..2 * 3_600 {
        slice.acquire(115).await.unwrap();
    }
    assert_eq!(start.elapsed().as_secs(), 2 * 3_600);
    assert!(start.elapsed().subsec_millis() <= 1);
}
