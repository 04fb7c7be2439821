//! What lies between a client and the store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coord_core::WatchBatch;
use coord_testkit::{Action, Call, Recorder, Rule};

/// A rule that remembers every call, and lets all meet the same fate, which can be changed. Clones
/// are handles to it.
///
/// Calls and watches are apart: a watch goes on to deliver when calls are lost, and is silenced on
/// its own.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) record: Recorder,
    fate: Arc<Mutex<Action>>,
    silent: Arc<AtomicBool>,
}

impl Network {
    /// A network on which nothing is lost.
    pub(crate) fn new() -> Self {
        let fate = Arc::new(Mutex::new(Action::Pass));
        Self { record: Recorder::new(), fate, silent: Arc::default() }
    }

    /// What becomes of calls from now on.
    pub(crate) fn set(&self, fate: Action) {
        *self.current() = fate;
    }

    /// What watches tell from now on is lost, or is not.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn current(&self) -> MutexGuard<'_, Action> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule for Network {
    fn action(&self, call: &Call) -> Action {
        self.record.action(call);
        self.current().clone()
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        !self.silent.load(Ordering::Relaxed)
    }
}
