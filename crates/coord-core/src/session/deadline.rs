//! Until when a session holds its lease: arithmetic without a clock or a task.
//!
//! The store counts a lease's time from when the last keep-alive *arrived*. The session counts from
//! when it was *sent*, stops a tenth of the time before because clocks do not run equally fast, and
//! counts time for which the machine was asleep:
//!
//! ```text
//! a lease of 30 s, its last confirmed keep-alive sent at 0 s
//! always awake            deadline at 27 s
//! asleep for 10 s so far  deadline at 17 s of the runtime's clock, which stood still meanwhile
//! asleep for an hour      passed
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::loss::LossReason;

/// A moment by the runtime's clock, and how long the machine had been asleep by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) at: Instant,
    pub(super) asleep: Duration,
}

impl Moment {
    /// How much time has passed until `now`, asleep or awake.
    fn until(self, now: Self) -> Duration {
        let awake = now.at.saturating_duration_since(self.at);
        awake.saturating_add(now.asleep.saturating_sub(self.asleep))
    }
}

/// What is known of a lease's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// When the last keep-alive that was confirmed was sent.
    pub(super) confirmed: Moment,
    pub(super) ttl: Duration,
}

impl Deadline {
    /// When the session is over by the runtime's clock, if the machine has been `asleep` for so
    /// long, and sleeps no more.
    pub(super) fn at(&self, asleep: Duration) -> Instant {
        let slept = asleep.saturating_sub(self.confirmed.asleep);
        let left = self.ttl.saturating_sub(self.ttl / 10).saturating_sub(slept);
        self.confirmed.at + left
    }

    /// Why the deadline has passed: in the normal course of things, or long ago.
    pub(super) fn reason(&self, now: Moment) -> LossReason {
        if self.confirmed.until(now) >= self.ttl {
            LossReason::Expired
        } else {
            LossReason::DeadlineUnconfirmed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn sleep_counts_against_the_lease() {
        let began = Instant::now();
        let moment = |awake: u32, asleep: u32| Moment {
            at: began + SECOND * awake,
            asleep: SECOND * (100 + asleep),
        };
        let deadline = Deadline { confirmed: moment(0, 0), ttl: SECOND * 30 };
        assert_eq!(deadline.at(SECOND * 100), began + SECOND * 27);
        assert_eq!(deadline.at(SECOND * 110), began + SECOND * 17);
        assert_eq!(deadline.at(SECOND * 3_700), began, "passed");
        assert_eq!(deadline.reason(moment(27, 0)), LossReason::DeadlineUnconfirmed);
        assert_eq!(deadline.reason(moment(17, 10)), LossReason::DeadlineUnconfirmed);
        assert_eq!(deadline.reason(moment(1, 29)), LossReason::Expired);
    }
}
