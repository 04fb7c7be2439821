//! Suspension clock: the time for which the machine was suspended.
//!
//! The runtime's clock stands still while the machine is suspended; the store's clock does not. A
//! holder on a machine that resumes after an hour would continue for most of a TTL, although its
//! lease expired long ago. So the session task also reads how long the machine has been suspended,
//! and counts that time against its lease.
//!
//! This is the only module that reads another clock than tokio's: on Linux, `CLOCK_BOOTTIME` counts
//! suspension. It is not read where time is virtual, so that tests on a paused clock depend on
//! nothing else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A clock of the machine's total suspension, counted from any moment in the past.
#[derive(Clone)]
pub(super) struct AsleepClock {
    read: Option<Arc<dyn Fn() -> Duration + Send + Sync>>,
}

impl AsleepClock {
    /// The clock of the system. It has no readings on a system without such a clock, and on a
    /// runtime whose time is virtual.
    pub(super) fn of_system() -> Self {
        let is_known = !is_time_virtual() && system_asleep().is_some();
        let read = || system_asleep().unwrap_or_default();
        Self { read: is_known.then(|| Arc::new(read) as _) }
    }

    pub(super) fn new(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { read: Some(Arc::new(read)) }
    }

    /// The machine's total suspension until now; zero without a clock.
    pub(super) fn now(&self) -> Duration {
        self.read.as_ref().map_or(Duration::ZERO, |read| read())
    }

    /// How often to read the clock for a lease of this TTL; `None` without a clock.
    pub(super) fn period(&self, ttl: Duration) -> Option<Duration> {
        self.read.is_some().then(|| (ttl / 10).min(Duration::from_secs(1)))
    }
}

impl fmt::Debug for AsleepClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsleepClock").field("now", &self.now()).finish()
    }
}

/// Whether this runtime's clock differs from the system's, as on a paused runtime.
#[expect(
    clippy::disallowed_types,
    reason = "compared with tokio's clock, and used for nothing else"
)]
fn is_time_virtual() -> bool {
    let before = std::time::Instant::now();
    let now = tokio::time::Instant::now().into_std();
    let after = std::time::Instant::now();
    now < before || now > after
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn system_asleep() -> Option<Duration> {
    use rustix::time::{ClockId, Timespec, clock_gettime};

    let since_boot = |clock| {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
        let (secs, nanos) = (u64::try_from(tv_sec).ok()?, u32::try_from(tv_nsec).ok()?);
        Some(Duration::new(secs, nanos))
    };
    // In this order, so that the time between the two readings does not count as sleep.
    let with_sleep = since_boot(ClockId::Boottime)?;
    Some(with_sleep.saturating_sub(since_boot(ClockId::Monotonic)?))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
const fn system_asleep() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn system_clock_is_read_on_real_time() {
        let clock = AsleepClock::of_system();
        assert_eq!(clock.period(Duration::from_secs(60)).is_some(), cfg!(target_os = "linux"));
        let (before, after) = (clock.now(), clock.now());
        assert!(after < before + Duration::from_millis(100), "it counts no time awake");
    }

    #[tokio::test(start_paused = true)]
    async fn system_clock_is_not_read_on_virtual_time() {
        assert_eq!(AsleepClock::of_system().period(Duration::from_secs(60)), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(AsleepClock::of_system().period(Duration::from_secs(60)), None);
    }
}
