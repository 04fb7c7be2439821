//! The retries of a transaction: its budget, and the pauses and queues before the next attempt.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::read_set::Snapshot;
use super::run::{Phase, Run};
use super::{Conflict, StmError};
use crate::backoff::{Backoff, Jitter};
use crate::error::Error;
use crate::shared::HeldQueues;
use crate::telemetry::transaction;

/// After a longer pause a snapshot is read again: it has probably changed.
const SNAPSHOT_REUSED_WITHIN: Duration = Duration::from_millis(20);

/// The budget for the attempts of a transaction, and the pauses between them.
///
/// After a conflict, a transaction waits in the conflict queues of the keys, and retries without a
/// pause. If that attempt conflicts on the same keys, for example because another client has
/// written them, it retries once more without a pause. Before each further attempt on these keys it
/// pauses for a random time between zero and a limit that doubles from
/// [`pause_min`](Self::pause_min) to [`pause_max`](Self::pause_max).
///
/// ```
/// use coord_core::stm::Retry;
/// use std::time::Duration;
///
/// let retry = Retry { attempts_max: Some(3), ..Retry::default() };
/// assert_eq!(retry.time_max, Duration::from_secs(60));
/// ```
///
/// Source: full jitter, M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options, created with `..Retry::default()`")]
pub struct Retry {
    /// The largest number of attempts; at least one is made. No limit by default.
    pub attempts_max: Option<u32>,
    /// The time after which no further attempt starts, except that an attempt which yielded to a
    /// conflict queue starts again. A pause that would end later is not made. 60 s by default.
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

impl Run<'_> {
    /// Returns when the next attempt may start after a failed one, or the error if there is none.
    pub(super) async fn retry_after_failure<E>(&mut self, error: Error) -> Result<(), StmError<E>> {
        if self.is_spent() || !is_worth_a_retry(&error) || self.pause().await.is_none() {
            return Err(StmError::Backend(error));
        }
        Ok(())
    }

    /// Returns when the next attempt may start after a conflict, or the error if there is none.
    pub(super) async fn retry_after_conflict<E>(
        &mut self,
        conflicts: Vec<Conflict>,
        found: Snapshot,
    ) -> Result<(), StmError<E>> {
        transaction::conflicted(self.attempts, &conflicts);
        if self.is_spent() || !self.wait_after_conflict(&conflicts, found).await {
            let (attempts, elapsed) = (self.attempts, self.started.elapsed());
            return Err(StmError::RetriesExhausted { attempts, elapsed, conflicts });
        }
        self.conflicts.extend(conflicts);
        Ok(())
    }

    /// Waits in the conflict queues, or pauses. Returns whether there is time for another attempt.
    async fn wait_after_conflict(&mut self, conflicts: &[Conflict], found: Snapshot) -> bool {
        if conflicts.iter().any(|conflict| !self.held.contains(&conflict.key)) {
            self.phase = Phase::Admitted;
            let keys = conflicts.iter().map(|conflict| conflict.key.clone()).collect();
            self.enter_queues(keys, Some(found)).await;
            return Instant::now() < self.deadline;
        }
        let pause = match self.phase {
            // The snapshot of the failed attempt may be older than the wait; `found` is current.
            Phase::Admitted | Phase::AdmittedAfterYield => Some(Duration::ZERO),
            Phase::Optimistic | Phase::Contended => self.pause().await,
        };
        self.phase = Phase::Contended;
        self.start = pause.filter(|pause| *pause < SNAPSHOT_REUSED_WITHIN).map(|_| found);
        pause.is_some()
    }

    /// Waits until the transaction holds the queues of `keys`, and again the queues that it holds
    /// already, or until the deadline. The next attempt starts with the newest post-image of these
    /// queues that is not older than the transaction.
    pub(super) async fn enter_queues(&mut self, keys: Vec<Bytes>, read: Option<Snapshot>) {
        // Leaves all queues and enters them again at once: see the module `conflict_queue`.
        let keys = self.held.keys().iter().cloned().chain(keys).collect();
        self.held = HeldQueues::default();
        self.start = read;
        let queues = self.stm.client.conflict_queues();
        if let Ok(held) = timeout_at(self.deadline, queues.hold(keys)).await {
            self.held = held;
            self.held.take_post_image(&mut self.start);
        }
    }

    fn is_spent(&self) -> bool {
        let attempts_max = self.stm.retry.attempts_max;
        attempts_max.is_some_and(|max| self.attempts >= max) || Instant::now() >= self.deadline
    }

    /// Pauses, and returns the length of the pause; `None`, without a pause, if it would end after
    /// the deadline.
    async fn pause(&mut self) -> Option<Duration> {
        let pause = self.backoff.next();
        if pause >= self.deadline.saturating_duration_since(Instant::now()) {
            return None;
        }
        sleep(pause).await;
        Some(pause)
    }
}

/// Whether another attempt may succeed after this error.
const fn is_worth_a_retry(error: &Error) -> bool {
    // The snapshot was compacted, or the member is stale: the next attempt has a newer snapshot.
    matches!(error, Error::Compacted { .. } | Error::FutureRevision { .. }) || error.is_retryable()
}
