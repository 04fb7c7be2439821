//! The network between a client and the store, into which the commands of a script inject faults.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use coord_core::{kv::WatchBatch, sync};
use coord_testkit::{Action, Call, Recorder, Rule};

/// A rule that records every call and applies the current action to it. Clones share the action.
///
/// The action does not affect the events of watches, which [`set_silent_watches`] stops.
///
/// [`set_silent_watches`]: Self::set_silent_watches
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) recorder: Recorder,
    action: Arc<Mutex<Action>>,
    silent_watches: Arc<AtomicBool>,
}

impl Network {
    /// A network without faults.
    pub(crate) fn new() -> Self {
        let action = Arc::new(Mutex::new(Action::Pass));
        Self { recorder: Recorder::new(), action, silent_watches: Arc::default() }
    }

    /// Sets the action for all later calls.
    pub(crate) fn set(&self, action: Action) {
        *self.current() = action;
    }

    /// Sets whether watches deliver nothing from now on.
    pub(crate) fn set_silent_watches(&self, silent: bool) {
        self.silent_watches.store(silent, Ordering::Relaxed);
    }

    fn current(&self) -> MutexGuard<'_, Action> {
        sync::lock(&self.action)
    }
}

impl Rule for Network {
    fn action(&self, call: &Call) -> Action {
        self.recorder.action(call);
        self.current().clone()
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        !self.silent_watches.load(Ordering::Relaxed)
    }
}
