//! Records the transactions of one process of a run, for the isolation checker.
//!
//! A transaction begins with its *first request*, not when its future is first polled: all futures
//! of a run are polled before its first turn. Otherwise all transactions would be concurrent, and a
//! stale read could never be shown. The time of the recorder advances with every call.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::recording::{Attempt, AttemptRecorder};
use coord_core::sync;

use super::gate::{GateState, Shared};
use crate::history::{Event, EventKind};

/// Records the transactions of one process.
#[derive(Clone, Debug)]
pub(super) struct ProcessAttempts {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<Mutex<GateState>>,
    pub(super) events: Arc<Mutex<Vec<Event>>>,
    pub(super) name: Arc<str>,
    /// The number of the process, from 1, and how many processes there are. The transactions of a
    /// process have its number, and then numbers that grow by the number of processes. So no two
    /// transactions of a run have one number.
    pub(super) number: u64,
    pub(super) processes: u64,
}

impl AttemptRecorder for ProcessAttempts {
    fn transaction_number(&self) -> u64 {
        let mut state = sync::lock(&self.state);
        let number = self.number + state.transactions * self.processes;
        state.transactions += 1;
        state.first_request = None;
        number
    }

    fn now(&self) -> Duration {
        self.shared.now()
    }

    fn record(&self, mut attempt: Attempt, ended: Duration) {
        let mut state = sync::lock(&self.state);
        state.ended += 1;
        if let Some(first) = state.first_request {
            attempt.began = attempt.began.max(first);
        }
        let process = Some(Arc::clone(&self.name));
        let kind = EventKind::Attempt(Box::new(attempt));
        sync::lock(&self.events).push(Event { at: ended, process, kind });
    }
}
