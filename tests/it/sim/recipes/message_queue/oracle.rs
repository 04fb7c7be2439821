//! The oracle of message queues: the responses that producers and takers have received for each
//! message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use coord_core::kv::Revision;
use coord_core::recipes::DeadLetter;
use coord_core::session::SessionState;
use coord_core::{Session, sync};
use coord_testkit::sim::Sim;
use tokio::time::Instant;

use super::{DELAY, MAX_ATTEMPTS, is_poison};

/// All messages of a run, by payload.
#[derive(Clone)]
pub(super) struct Messages {
    sim: Sim,
    state: Arc<Mutex<BTreeMap<String, State>>>,
    /// The last first delivery of each taker, by producer.
    last: Arc<Mutex<BTreeMap<(String, String), Revision>>>,
}

/// One message.
struct State {
    /// When its put, or its last release with a delay, has begun.
    begun: Instant,
    has_delay: bool,
    is_confirmed: bool,
    put_revision: Option<Revision>,
    deliveries: u32,
    /// The session of the last delivery, and whether the taker has finished with it.
    delivery: Option<(Session, Arc<AtomicBool>)>,
    is_acknowledged: bool,
    may_be_acknowledged: bool,
}

/// A delivery that a taker relies on, until this is dropped.
#[must_use = "dropping it ends the use of the delivery"]
pub(super) struct InUse(Arc<AtomicBool>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Messages {
    pub(super) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), state: Arc::default(), last: Arc::default() }
    }

    pub(super) fn begin_put(&self, payload: &str) {
        let state = State {
            begun: Instant::now(),
            has_delay: payload.ends_with("/2"),
            is_confirmed: false,
            put_revision: None,
            deliveries: 0,
            delivery: None,
            is_acknowledged: false,
            may_be_acknowledged: false,
        };
        sync::lock(&self.state).insert(payload.to_owned(), state);
    }

    pub(super) fn confirm_put(&self, payload: &str) {
        self.change(payload, |state| state.is_confirmed = true);
    }

    /// Notes a delivery. Fails the run if it must not be.
    pub(super) fn deliver(
        &self,
        (taker, attempts): (&str, u32),
        payload: &str,
        put_revision: Revision,
        session: &Session,
    ) -> InUse {
        let is_over = Arc::new(AtomicBool::new(false));
        let wrong = self.change(payload, |state| {
            let wrong = state.check_delivery(put_revision);
            state.put_revision = Some(put_revision);
            state.deliveries += 1;
            state.delivery = Some((session.clone(), Arc::clone(&is_over)));
            wrong
        });
        if let Some(wrong) = wrong {
            self.sim.fail("delivery", format!("{payload} to {taker}: {wrong}"));
        }
        let is_ordered = !payload.ends_with("/2") && !payload.ends_with("/3");
        if attempts == 1 && is_ordered {
            self.check_order(taker, payload, put_revision);
        }
        InUse(is_over)
    }

    /// Messages of one producer are first delivered to one taker in the order of their puts.
    fn check_order(&self, taker: &str, payload: &str, put_revision: Revision) {
        let producer = payload.split('/').next().unwrap_or_default();
        let key = (taker.to_owned(), producer.to_owned());
        let last = sync::lock(&self.last).insert(key, put_revision);
        if last.is_some_and(|last| last > put_revision) {
            self.sim.fail("order", format!("{payload} to {taker}: after a later message"));
        }
    }

    /// Notes that a release with a delay, which has begun at this time, has succeeded.
    pub(super) fn delay(&self, payload: &str, begun: Instant) {
        self.change(payload, |state| (state.begun, state.has_delay) = (begun, true));
    }

    /// Notes that a taker begins to acknowledge.
    pub(super) fn may_acknowledge(&self, payload: &str) {
        self.change(payload, |state| state.may_be_acknowledged = true);
    }

    /// Notes that an acknowledgement has succeeded.
    pub(super) fn acknowledge(&self, payload: &str) {
        let again =
            self.change(payload, |state| std::mem::replace(&mut state.is_acknowledged, true));
        if again {
            self.sim.fail("acknowledgement", format!("{payload} is acknowledged twice"));
        }
    }

    pub(super) fn confirmed(&self) -> usize {
        sync::lock(&self.state).values().filter(|state| state.is_confirmed).count()
    }

    pub(super) fn has_repeated(&self) -> bool {
        let state = sync::lock(&self.state);
        state.iter().any(|(payload, state)| !is_poison(payload) && state.deliveries > 1)
    }

    /// Fails the run if a message is missing.
    pub(super) fn check_end(&self, dead: &[DeadLetter]) {
        let attempts = dead.iter().find(|letter| letter.attempts != MAX_ATTEMPTS.get());
        if let Some(letter) = attempts {
            self.sim.fail("dead letter", format!("{letter:?}"));
        }
        let dead: BTreeSet<_> =
            dead.iter().map(|letter| String::from_utf8_lossy(&letter.payload)).collect();
        for (payload, state) in &*sync::lock(&self.state) {
            let is_dead = dead.contains(payload.as_str());
            let has_ended = state.is_acknowledged || state.may_be_acknowledged || is_dead;
            if state.is_confirmed && !has_ended {
                self.sim.fail("queue", format!("{payload} is lost"));
            }
            if state.is_acknowledged && is_dead {
                self.sim.fail("queue", format!("{payload} is acknowledged and dead"));
            }
        }
    }

    fn change<T>(&self, payload: &str, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = sync::lock(&self.state);
        change(state.get_mut(payload).unwrap_or_else(|| panic!("{payload} was never put")))
    }
}

impl State {
    /// Why a delivery must not be, if it must not.
    fn check_delivery(&self, put_revision: Revision) -> Option<&'static str> {
        let may_act = self.delivery.as_ref().is_some_and(|(session, is_over)| {
            let is_alive = !matches!(session.state(), SessionState::Lost(_));
            !is_over.load(Ordering::Relaxed) && is_alive && session.deadline() > Instant::now()
        });
        // The clock of the store may be fast, by less than a tenth.
        let is_early = self.has_delay && self.begun.elapsed() < DELAY * 9 / 10;
        [
            (self.put_revision.is_some_and(|other| other != put_revision), "it was put twice"),
            (self.is_acknowledged, "it was acknowledged"),
            (self.deliveries >= MAX_ATTEMPTS.get(), "it has no attempt left"),
            (may_act, "another delivery has not ended"),
            (is_early, "before its delay has passed"),
        ]
        .into_iter()
        .find_map(|(is_wrong, text)| is_wrong.then_some(text))
    }
}
