//! The attempts of transactions in the history of a run.
//!
//! A recorded run adds them by itself. To check every run of a sweep, record with a
//! [`HistoryRecorder`](crate::history::HistoryRecorder) that the scenario creates, and check its
//! history before the scenario returns.

use std::sync::Weak;
use std::time::Duration;

use coord_core::recording::{Attempt, AttemptRecorder};
use tokio::time::Instant;

use super::world::{Owner, World};
use crate::history::EventKind;

/// Records the transactions of one process in one of its lives.
#[derive(Debug)]
pub(super) struct RunRecorder {
    pub(super) world: Weak<World>,
    pub(super) owner: Owner,
}

/// The numbers and times of the transactions of a run.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    transactions: u64,
    /// The last time that was returned: none is returned twice.
    last: Duration,
}

impl AttemptRecorder for RunRecorder {
    fn transaction_number(&self) -> u64 {
        let Some(world) = self.world.upgrade() else { return 0 };
        let mut state = world.lock();
        state.attempts.transactions += 1;
        state.attempts.transactions
    }

    fn now(&self) -> Duration {
        let Some(world) = self.world.upgrade() else { return Duration::ZERO };
        let now = Instant::now().saturating_duration_since(world.started);
        let mut state = world.lock();
        state.attempts.last = now.max(state.attempts.last + Duration::from_nanos(1));
        state.attempts.last
    }

    fn record(&self, attempt: Attempt, ended: Duration) {
        if let Some(world) = self.world.upgrade() {
            let kind = EventKind::Attempt(Box::new(attempt));
            world.lock().record_at(ended, self.owner, || kind);
        }
    }
}
