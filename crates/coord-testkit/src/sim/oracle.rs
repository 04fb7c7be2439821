//! Oracles: conditions that a run must satisfy, besides the assertions of its processes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::kv::FencingToken;
use coord_core::queue::{Held, Ownership};
use coord_core::session::SessionState;
use coord_core::sync;
use tokio::time::Instant;

use super::failure::Failure;
use super::process::Process;
use super::world::{Oracle, Owner, World};

/// A condition that must always hold.
pub(crate) struct Always<F> {
    pub(crate) name: &'static str,
    pub(crate) holds: F,
}

impl<F: FnMut() -> bool + Send> Oracle for Always<F> {
    fn check(&mut self, _: Instant) -> Option<Failure> {
        let text = "the condition does not hold any more";
        (!(self.holds)()).then(|| Failure::new(self.name, text))
    }
}

/// A condition that must be followed by another one within some time.
pub(crate) struct LeadsTo<P, Q> {
    pub(crate) name: &'static str,
    pub(crate) cause: P,
    pub(crate) effect: Q,
    pub(crate) within: Duration,
    /// Since when the cause has waited for the effect.
    pub(crate) pending_since: Option<Instant>,
}

impl<P: FnMut() -> bool + Send, Q: FnMut() -> bool + Send> Oracle for LeadsTo<P, Q> {
    fn check(&mut self, now: Instant) -> Option<Failure> {
        if (self.effect)() {
            self.pending_since = None;
            return None;
        }
        if self.pending_since.is_none() && (self.cause)() {
            self.pending_since = Some(now);
        }
        let waited = now.saturating_duration_since(self.pending_since?);
        let Self { name, within, .. } = self;
        (waited > *within)
            .then(|| Failure::new(*name, format!("the effect did not follow within {within:?}")))
    }
}

/// A holder that uses the resource.
#[derive(Clone)]
struct Holder {
    process: Process,
    token: FencingToken,
    still_held: StillHeld,
}

/// Whether a holder may still act. Called without the lock of the holders.
type StillHeld = Arc<dyn Fn() -> bool + Send + Sync>;

impl Holder {
    fn entry(&self) -> (FencingToken, Owner) {
        (self.token, self.process.owner())
    }

    /// A crashed process does not act any more.
    fn may_act(&self) -> bool {
        !self.process.has_crashed() && (self.still_held)()
    }
}

/// Whether a holder may still act: no loss was reported to it, and its session's deadline has not
/// passed.
fn is_held(ownership: &Ownership) -> bool {
    let session = ownership.session();
    ownership.reported_loss().is_none()
        && !matches!(session.state(), SessionState::Lost(_))
        && session.deadline() > Instant::now()
}

/// The holders of one resource.
#[derive(Default)]
struct Holders {
    inside: BTreeMap<u64, Holder>,
    entered: u64,
    /// The largest token so far, and its holder.
    last: Option<(FencingToken, Owner)>,
}

/// An oracle of mutual exclusion, by what the guards themselves report. It fails the run if a
/// holder enters while another holder inside may still act, or with a fencing token that is not
/// larger than all before. Created by [`Sim::exclusive`](super::Sim::exclusive); clones share the
/// resource.
#[derive(Clone)]
pub struct Exclusive {
    name: Arc<str>,
    world: Arc<World>,
    holders: Arc<Mutex<Holders>>,
}

impl Exclusive {
    pub(crate) fn new(world: &Arc<World>, name: &str) -> Self {
        Self { name: name.into(), world: Arc::clone(world), holders: Arc::default() }
    }

    /// Notes that `process` uses the resource until the returned value is dropped. `held` is its
    /// lock or leadership.
    pub fn enter(&self, process: &Process, held: &impl Held) -> Inside {
        let ownership: &Ownership = held.contender();
        let (ownership, token) = (ownership.clone(), held.contender().fencing_token());
        self.enter_while(process, token, move || is_held(&ownership))
    }

    /// Notes that `process` uses the resource until the returned value is dropped, under a lock
    /// that is not coord's. `still_held` returns whether the process may still act as the holder:
    /// no loss was reported to it, and no deadline has passed. `still_held` is called when another
    /// holder enters, and may use this resource.
    pub fn enter_while(
        &self,
        process: &Process,
        token: FencingToken,
        still_held: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Inside {
        let entering = format!("{} entered with token {token}", process.name());
        // A holder may enter more than once with one guard.
        let entry = (token, process.owner());
        let inside: Vec<_> = sync::lock(&self.holders).inside.values().cloned().collect();
        // Without the lock: `still_held` is code of the test.
        let mut others = inside.into_iter().filter(|other| other.entry() != entry);
        let other = others.find(Holder::may_act);
        let mut holders = sync::lock(&self.holders);
        let failure = match (other, holders.last) {
            (Some(Holder { process, token, .. }), _) => {
                let name = process.name();
                Some(format!("{entering} while {name} is inside with token {token}"))
            }
            (None, Some(last)) if last != entry && last.0 >= token => {
                Some(format!("{entering}, not larger than token {} of an earlier holder", last.0))
            }
            (None, _) => None,
        };
        if holders.last.is_none_or(|(last, _)| last < token) {
            holders.last = Some(entry);
        }
        holders.entered += 1;
        let number = holders.entered;
        let process = process.clone();
        let holder = Holder { process, token, still_held: Arc::new(still_held) };
        holders.inside.insert(number, holder);
        drop(holders);
        if let Some(text) = failure {
            self.world.lock().fail(Failure::new(&*self.name, text));
        }
        Inside { holders: Arc::clone(&self.holders), number }
    }

    /// Returns how often the resource was entered.
    #[must_use]
    pub fn entered(&self) -> u64 {
        sync::lock(&self.holders).entered
    }
}

impl fmt::Debug for Exclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exclusive").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The use of a resource by a holder, which ends when the value is dropped.
#[must_use = "dropping it leaves the resource"]
pub struct Inside {
    holders: Arc<Mutex<Holders>>,
    number: u64,
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inside({})", self.number)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        sync::lock(&self.holders).inside.remove(&self.number);
    }
}
