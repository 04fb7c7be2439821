//! An oracle of shared resources: which holders are inside and may still act, by what they
//! themselves report.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};

use coord_core::queue::{Held, Ownership};
use coord_core::session::SessionState;
use coord_core::sync;
use coord_testkit::sim::Sim;
use tokio::time::Instant;

/// The holders of one resource. `U` is how a holder uses it.
#[derive(Clone)]
pub(super) struct Holders<U> {
    sim: Sim,
    /// Whether the uses of holders that may still act exclude the use of a holder that enters; then
    /// the text of the failure.
    conflict: fn(entering: &U, inside: &[U]) -> Option<String>,
    state: Arc<Mutex<State<U>>>,
}

struct State<U> {
    entered: u64,
    inside: BTreeMap<u64, (U, MayAct)>,
}

/// Whether a holder may still act: no loss was reported to it, and no deadline has passed.
type MayAct = Box<dyn Fn() -> bool + Send>;

/// The use of the resource by a holder, which ends when the value is dropped.
#[must_use = "dropping it leaves the resource"]
pub(super) struct Inside<U> {
    number: u64,
    state: Arc<Mutex<State<U>>>,
}

impl<U: Clone> Holders<U> {
    pub(super) fn new(sim: &Sim, conflict: fn(&U, &[U]) -> Option<String>) -> Self {
        let state = State { entered: 0, inside: BTreeMap::new() };
        Self { sim: sim.clone(), conflict, state: Arc::new(Mutex::new(state)) }
    }

    /// Notes that the holder of `held` uses the resource until the returned value is dropped. Fails
    /// the run if holders that may still act exclude it.
    pub(super) fn enter(&self, held: &impl Held, usage: U) -> Inside<U> {
        let ownership: &Ownership = held.contender();
        let key = ownership.key().escape_ascii().to_string();
        let ownership = ownership.clone();
        self.enter_while(key, usage, move || is_held(&ownership))
    }

    /// As [`enter`](Self::enter), for a holder that may act while `may_act` returns true.
    pub(super) fn enter_while(
        &self,
        name: impl Display,
        usage: U,
        may_act: impl Fn() -> bool + Send + 'static,
    ) -> Inside<U> {
        let mut state = sync::lock(&self.state);
        let acting = state.inside.values().filter(|(_, may_act)| may_act());
        let acting: Vec<_> = acting.map(|(usage, _)| usage.clone()).collect();
        if let Some(text) = (self.conflict)(&usage, &acting) {
            self.sim.fail("holders", format!("{name} entered: {text}"));
        }
        state.entered += 1;
        let number = state.entered;
        state.inside.insert(number, (usage, Box::new(may_act)));
        Inside { number, state: Arc::clone(&self.state) }
    }

    /// How often the resource was entered.
    pub(super) fn entered(&self) -> u64 {
        sync::lock(&self.state).entered
    }
}

impl<U> Drop for Inside<U> {
    fn drop(&mut self) {
        sync::lock(&self.state).inside.remove(&self.number);
    }
}

fn is_held(holder: &Ownership) -> bool {
    let session = holder.session();
    holder.reported_loss().is_none()
        && !matches!(session.state(), SessionState::Lost(_))
        && session.deadline() > Instant::now()
}
