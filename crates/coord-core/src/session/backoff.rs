//! Pauses between attempts: they grow, and they differ from client to client.
//!
//! A store that comes back is met by everybody who waited for it. So each client doubles its pause
//! and draws it from the upper half: 50 to 100 ms, 100 to 200 ms, and so on up to 5 s. The
//! generator is fastrand's, a wyrand, seeded with the id of a lease: no two clients of a store have
//! the same, and a test that replays its calls replays the pauses too.

use std::time::Duration;

use crate::kv::LeaseId;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// What is lost sooner than this after it was had may be lost again at once, so there is a pause
/// before it is tried again.
pub(super) const CALM: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Backoff {
    generator: fastrand::Rng,
    /// The next pause is at most this long, and at least half as long.
    next_max: Duration,
}

impl Backoff {
    pub(super) fn new(seed: LeaseId) -> Self {
        let generator = fastrand::Rng::with_seed(seed.get().cast_unsigned());
        Self { generator, next_max: FIRST }
    }

    /// How long to pause before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.next_max.mul_f64(0.5 + self.generator.f64() / 2.0);
        self.next_max = LONGEST.min(self.next_max * 2);
        pause
    }

    /// All is well again: the next pause is a short one.
    pub(super) const fn reset(&mut self) {
        self.next_max = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(seed: i64) -> Vec<Duration> {
        let mut backoff = Backoff::new(LeaseId::new(seed).expect("not zero"));
        (0..20).map(|_| backoff.next()).collect()
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_never_halve() {
        let mut longest = FIRST;
        for pause in pauses(7) {
            assert!(longest / 2 <= pause && pause <= longest, "{pause:?} of {longest:?}");
            longest = LONGEST.min(longest * 2);
        }
        assert_eq!(longest, LONGEST);
    }

    #[test]
    fn pauses_repeat_with_the_lease_and_differ_between_leases() {
        assert_eq!(pauses(7), pauses(7));
        let firsts: std::collections::BTreeSet<_> = (1..100).map(|seed| pauses(seed)[0]).collect();
        assert!(firsts.len() > 90, "only {} pauses among 99 clients", firsts.len());
    }
}
