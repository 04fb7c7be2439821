//! The network between a client and the store, whose faults the commands of a script set.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coord_core::kv::WatchBatch;
use coord_testkit::{Action, Call, Recorder, Rule};

/// A rule that records every call and performs one action on all of them, which can be changed.
/// Clones are handles to it.
///
/// The action does not affect watches: they keep delivering while calls are dropped, and are
/// silenced separately.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) recorder: Recorder,
    action: Arc<Mutex<Action>>,
    silent: Arc<AtomicBool>,
}

impl Network {
    /// A network without faults.
    pub(crate) fn new() -> Self {
        let action = Arc::new(Mutex::new(Action::Pass));
        Self { recorder: Recorder::new(), action, silent: Arc::default() }
    }

    /// Sets the action for all later calls.
    pub(crate) fn set(&self, action: Action) {
        *self.current() = action;
    }

    /// Sets whether watches deliver nothing from now on.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn current(&self) -> MutexGuard<'_, Action> {
        self.action.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule for Network {
    fn action(&self, call: &Call) -> Action {
        self.recorder.action(call);
        self.current().clone()
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        !self.silent.load(Ordering::Relaxed)
    }
}
