//! Exponential backoff: pauses that double up to a limit, with optional jitter.
//!
//! Most retry loops of this crate pause by a [`Backoff`]. Four pause for a fixed time: the retries
//! of [`SessionBuilder::open`](crate::session::SessionBuilder::open), of keep-alives, of the
//! revocation of a session's lease, and of an ended watch, except the watches that detect the loss
//! of a key. Jitter spreads the retries of the clients that wait for one store, so that they do not
//! all arrive at the same moment:
//!
//! ```text
//! limit of the pause     100 ms     200 ms     400 ms   ...   5 s
//! no jitter              100        200        400            5000
//! half jitter             50-100    100-200    200-400        2500-5000
//! full jitter              0-100      0-200      0-400           0-5000
//! ```
//!
//! Source: M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.

use std::fmt;
use std::time::Duration;

/// The pauses between the attempts of one retry loop.
///
/// ```
/// use coord_core::backoff::Backoff;
/// use std::time::Duration;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// assert_eq!(backoff.next(), Duration::from_millis(100));
/// assert_eq!(backoff.next(), Duration::from_millis(200));
/// backoff.reset();
/// assert_eq!(backoff.next(), Duration::from_millis(100));
/// ```
#[derive(Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    limit: Duration,
    jitter: Option<(Jitter, fastrand::Rng)>,
}

/// The interval from which a pause is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// From half the limit to the limit.
    Half,
    /// From zero to the limit.
    Full,
}

impl Backoff {
    /// Pauses that double from `first` to `max`, without jitter.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, limit: first, jitter: None }
    }

    /// Draws each pause at random. The generator is seeded with `seed`: the same seed gives the
    /// same pauses.
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter, seed: u64) -> Self {
        self.jitter = Some((jitter, fastrand::Rng::with_seed(seed)));
        self
    }

    /// Returns the pause before the next attempt, and doubles the limit.
    #[expect(clippy::should_implement_trait, reason = "an iterator may end; the pauses do not")]
    pub fn next(&mut self) -> Duration {
        let pause = match &mut self.jitter {
            None => self.limit,
            Some((Jitter::Half, rng)) => self.limit.mul_f64(0.5 + rng.f64() / 2.0),
            Some((Jitter::Full, rng)) => self.limit.mul_f64(rng.f64()),
        };
        self.limit = self.max.min(self.limit.saturating_mul(2));
        pause
    }

    /// Resets the limit to the first pause, after an attempt that succeeded.
    pub const fn reset(&mut self) {
        self.limit = self.first;
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff")
            .field("limit", &self.limit)
            .field("max", &self.max)
            .field("jitter", &self.jitter.as_ref().map(|(jitter, _)| jitter))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    fn pauses(jitter: Jitter, seed: u64) -> Vec<Duration> {
        let mut backoff = Backoff::new(FIRST, MAX).jitter(jitter, seed);
        (0..20).map(|_| backoff.next()).collect()
    }

    #[test]
    fn half_jitter_is_between_half_and_whole_limit() {
        let mut limit = FIRST;
        for pause in pauses(Jitter::Half, 7) {
            assert!(limit / 2 <= pause && pause <= limit, "{pause:?} of {limit:?}");
            limit = MAX.min(limit * 2);
        }
        assert_eq!(limit, MAX);
    }

    #[test]
    fn pauses_repeat_with_seed_and_differ_between_seeds() {
        assert_eq!(pauses(Jitter::Half, 7), pauses(Jitter::Half, 7));
        let firsts: std::collections::BTreeSet<_> =
            (1..100).map(|seed| pauses(Jitter::Full, seed)[0]).collect();
        assert!(firsts.len() > 90, "only {} pauses among 99 clients", firsts.len());
    }
}
