//! The budget of a transaction: how many attempts, for how long, with which pauses.

use std::time::Duration;

use crate::backoff::{Backoff, Jitter};

/// The budget for the attempts of a transaction, and the pauses between them.
///
/// After a conflict a transaction waits in the conflict queues of the keys, and retries without a
/// pause; once more if that attempt conflicts too, because another client was in between. Before
/// each further attempt it pauses for a random time between zero and a limit that doubles from
/// [`pause_min`](Self::pause_min) to [`pause_max`](Self::pause_max).
///
/// ```
/// use coord_core::stm::Retry;
/// use std::time::Duration;
///
/// let impatient = Retry { attempts_max: Some(3), ..Retry::default() };
/// assert_eq!(impatient.time_max, Duration::from_secs(60));
/// ```
///
/// Source: full jitter, M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options, made with `..Retry::default()`")]
pub struct Retry {
    /// The largest number of attempts; at least one is made. No limit by default.
    pub attempts_max: Option<u32>,
    /// The time after which no further attempt starts. A pause that would end later is not made.
    /// 60 s by default.
    pub time_max: Duration,
    /// The limit of the first pause. 2 ms by default.
    pub pause_min: Duration,
    /// The largest limit of a pause. 500 ms by default.
    pub pause_max: Duration,
    /// The seed of the pauses: the same seed gives the same pauses. Random by default.
    pub seed: Option<u64>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: None,
            time_max: Duration::from_secs(60),
            pause_min: Duration::from_millis(2),
            pause_max: Duration::from_millis(500),
            seed: None,
        }
    }
}

impl Retry {
    /// The pauses of one transaction.
    pub(super) fn backoff(&self) -> Backoff {
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        Backoff::new(self.pause_min, self.pause_max).jitter(Jitter::Full, seed)
    }
}
