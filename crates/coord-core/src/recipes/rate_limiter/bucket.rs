//! The token bucket of one slice: how many units may be spent now, and when more may be.
//!
//! The bucket starts empty, fills at the rate of the slice, and holds at most what the slice
//! accrues in the burst time. It counts in billionths of a unit: at `rate` units per second it
//! gains exactly `rate` of these in each nanosecond. So no time is rounded, and no fraction of a
//! unit is lost or gained, however long the bucket is used.
//!
//! ```text
//! 4 units per second, burst 500 ms: at most 2 units
//!    0 ms   level 0       acquire(1): wait until 250 ms
//!  251 ms   level 1.004   the timer fires 1 ms late; acquire(1) spends 1: level 0.004
//!  500 ms   level 1
//! 9000 ms   level 2       full since 750 ms
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// One unit, in the counts of a bucket.
const UNIT: u128 = 1_000_000_000;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Units per second.
    rate: u32,
    capacity: u128,
    level: u128,
    /// The time of `level`.
    filled_at: Instant,
}

impl Bucket {
    /// A bucket that is empty at `now`, for a rate of at least 1.
    pub(super) const fn new(rate: u32, burst: Duration, now: Instant) -> Self {
        Self { rate, capacity: capacity(rate, burst), level: 0, filled_at: now }
    }

    /// Takes `units` at `now`, or returns when the bucket will have as many. The units must be at
    /// most those of [`burst_units`].
    pub(super) fn take(&mut self, now: Instant, units: u32) -> Result<(), Instant> {
        let elapsed = now.saturating_duration_since(self.filled_at).as_nanos();
        self.level = (self.level + elapsed * self.rate as u128).min(self.capacity);
        self.filled_at = self.filled_at.max(now);
        let needed = u128::from(units) * UNIT;
        match needed.checked_sub(self.level) {
            None | Some(0) => {
                self.level -= needed;
                Ok(())
            }
            Some(missing) => {
                // At most 2^32 units are missing, and the rate is at least 1: it fits.
                let wait = u64::try_from(missing.div_ceil(self.rate as u128)).unwrap_or(u64::MAX);
                Err(now + Duration::from_nanos(wait))
            }
        }
    }
}

/// What a bucket holds at most: at most 2^126.
const fn capacity(rate: u32, burst: Duration) -> u128 {
    rate as u128 * burst.as_nanos()
}

/// How many whole units a bucket holds at most.
pub(super) fn burst_units(rate: u32, burst: Duration) -> u32 {
    u32::try_from(capacity(rate, burst) / UNIT).unwrap_or(u32::MAX)
}

/// The shortest burst time in which a slice accrues a unit, for a rate of at least 1.
pub(super) const fn least_burst(rate: u32) -> Duration {
    Duration::from_nanos(1_000_000_000_u64.div_ceil(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn bucket_starts_empty_and_fills_at_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(4, SECOND, start);
        assert_eq!(bucket.take(start, 1), Err(start + ms(250)));
        assert_eq!(bucket.take(start, 4), Err(start + SECOND));
        assert_eq!(bucket.take(start + ms(250) - Duration::from_nanos(1), 1), Err(start + ms(250)));
        assert_eq!(bucket.take(start + ms(250), 1), Ok(()));
        assert_eq!(bucket.take(start + ms(251), 1), Err(start + ms(500)), "a late call loses none");
    }

    #[test]
    fn bucket_holds_at_most_its_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(4, ms(600), start);
        assert_eq!(burst_units(4, ms(600)), 2, "2.4 units");
        let later = start + 3600 * SECOND;
        assert_eq!(bucket.take(later, 2), Ok(()));
        assert_eq!(bucket.take(later, 1), Err(later + ms(150)), "0.4 units are left");
    }

    #[test]
    fn rate_that_does_not_divide_a_second_does_not_drift() {
        for rate in [3, 7, 999_999_937, u32::MAX] {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate, SECOND, start);
            let (mut now, mut spent) = (start, 0_u128);
            for n in 0..10_000_u32 {
                let units = 1 + n % rate.min(5);
                if let Err(at) = bucket.take(now, units) {
                    now = at;
                    assert_eq!(bucket.take(now, units), Ok(()), "at the time that it returned");
                }
                spent += u128::from(units);
            }
            let accrued = (now - start).as_nanos() * u128::from(rate) / UNIT;
            assert!(accrued >= spent, "rate {rate}: never more than was accrued");
            // Each wait ends at a whole nanosecond, at most one too late.
            assert!(accrued - spent <= u128::from(rate) / UNIT + 1, "{} lost", accrued - spent);
        }
    }

    #[test]
    fn extreme_rates_and_bursts_do_not_overflow() {
        let start = Instant::now();
        let mut bucket = Bucket::new(u32::MAX, Duration::MAX, start);
        assert_eq!(burst_units(u32::MAX, Duration::MAX), u32::MAX);
        assert_eq!(bucket.take(start, u32::MAX), Err(start + SECOND));
        assert_eq!(bucket.take(start + Duration::from_secs(1 << 32), u32::MAX), Ok(()));
        let mut slow = Bucket::new(1, Duration::MAX, start);
        assert_eq!(slow.take(start, u32::MAX), Err(start + Duration::from_secs(u32::MAX.into())));
    }

    #[test]
    fn least_burst_is_the_time_of_one_unit() {
        for (rate, least) in [(1, SECOND), (4, ms(250)), (3, Duration::from_nanos(333_333_334))] {
            assert_eq!(least_burst(rate), least);
            assert_eq!(burst_units(rate, least), 1);
            assert_eq!(burst_units(rate, least - Duration::from_nanos(1)), 0);
        }
        assert_eq!(burst_units(u32::MAX, least_burst(u32::MAX)), 4, "in one nanosecond");
    }
}
