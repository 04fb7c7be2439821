//! How often a transaction is tried, and how long it pauses in between.

use std::time::Duration;

/// How often and how long a transaction that conflicts is tried again.
///
/// Who conflicts waits for a turn among the transactions of this process that conflict on the same
/// keys, and then is tried again at once; and once more if it turns out that somebody else has been
/// there in the meantime. After each further conflict it pauses for a random time between zero and
/// a limit that doubles from [`pause_min`](Self::pause_min) to [`pause_max`](Self::pause_max).
///
/// ```
/// use coord_core::stm::Retry;
/// use std::time::Duration;
///
/// let impatient = Retry { attempts_max: 3, ..Retry::default() };
/// assert_eq!(impatient.time_max, Duration::from_secs(60));
/// ```
///
/// Source: full jitter, M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options, made with `..Retry::default()`")]
pub struct Retry {
    /// At most so many attempts; at least one is made. No limit unless set.
    pub attempts_max: u32,
    /// No further attempt is begun after so long, and there is no pause that would end later. 60 s
    /// unless set.
    pub time_max: Duration,
    /// The limit of the first pause. 2 ms unless set.
    pub pause_min: Duration,
    /// The limit that pauses grow to. 500 ms unless set.
    pub pause_max: Duration,
    /// What the pauses are drawn with, so that a run can be repeated; without it each transaction
    /// of each process draws with another.
    pub seed: Option<u64>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: u32::MAX,
            time_max: Duration::from_secs(60),
            pause_min: Duration::from_millis(2),
            pause_max: Duration::from_millis(500),
            seed: None,
        }
    }
}

/// The pauses of one transaction.
#[derive(Debug)]
pub(super) struct Pauses {
    /// Most transactions never pause.
    generator: Option<fastrand::Rng>,
    seed: Option<u64>,
    limit: Duration,
    limit_max: Duration,
}

impl Pauses {
    pub(super) const fn new(retry: &Retry) -> Self {
        let Retry { seed, pause_min: limit, pause_max: limit_max, .. } = *retry;
        Self { generator: None, seed, limit, limit_max }
    }

    /// How long to pause before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let generator = self.generator.get_or_insert_with(|| {
            self.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)
        });
        let pause = self.limit.mul_f64(generator.f64());
        self.limit = self.limit_max.min(self.limit.saturating_mul(2));
        pause
    }
}
