//! One run of a scenario.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::convert::Infallible;
use std::fmt;
use std::hash::{Hash, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use coord_core::Client;
use coord_core::kv::{KeyRange, LeaseTimeToLive, Range};
use coord_core::spawn::BackgroundTask;
use coord_mem::MemBackend;
use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep};

use super::choice::{Choices, Deviations, ReachedPoint, Source};
use super::failure::{self, Failure};
use super::faults::{self, Fault, FaultCoverage};
use super::process::Exit;
use super::store_check::{CheckedStore, StoreCheck};
use super::world::{Message, Owner, State, World};
use super::{Sim, driver, panics};
use crate::history::{EventKind, History};

/// The result of a scenario or of a process: nothing, or an error that can be printed.
pub trait ProcessResult: Send + 'static {
    /// The result, with the text of the error.
    ///
    /// # Errors
    /// The text of the error, if this is one.
    fn into_result(self) -> Result<(), String>;
}

impl ProcessResult for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

/// The result of a service that never ends.
impl ProcessResult for Infallible {
    fn into_result(self) -> Result<(), String> {
        match self {}
    }
}

impl<E: fmt::Display + Send + 'static> ProcessResult for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// A scenario, without its types.
pub(crate) type Scenario<'a> = &'a (dyn Fn(Sim) -> ScenarioFuture + Sync);

/// The future of a scenario.
pub(crate) type ScenarioFuture = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Wraps the store of a run, for example to weaken it.
pub(crate) type WrapStore = Arc<dyn Fn(MemBackend) -> Client + Send + Sync>;

/// What the runs of a sweep have in common.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) faults: Vec<Fault>,
    /// When faults stop, in virtual time.
    pub(crate) fault_time: Duration,
    /// How long the scenario may take to return after that.
    pub(crate) settle_time: Duration,
    pub(crate) max_steps: u64,
    pub(crate) wrap_store: Option<WrapStore>,
    /// Whether responses and watches are compared with the store.
    pub(crate) checks_store: bool,
}

/// The result of one run.
#[derive(Debug)]
pub(crate) struct RunResult {
    pub(crate) failure: Option<Failure>,
    pub(crate) deviations: Deviations,
    /// What each deviation meant, if the run was recorded.
    pub(crate) words: Vec<String>,
    pub(crate) points: Vec<ReachedPoint>,
    pub(crate) coverage: FaultCoverage,
    /// Empty unless the run was recorded.
    pub(crate) history: History,
    pub(crate) steps: u64,
    pub(crate) sometimes: BTreeMap<&'static str, bool>,
    pub(crate) exits: BTreeMap<Arc<str>, Option<Exit>>,
    /// Identifies the final contents of the store; 0 unless the run was recorded.
    pub(crate) store_hash: u64,
    /// What no longer fits of a replayed list.
    pub(crate) mismatch: Option<String>,
}

/// What is kept of a run, besides its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing else.
    #[default]
    Result,
    /// The points that were reached.
    Points,
    /// The history, the words of the deviations and the hash of the store.
    History,
}

/// Runs a scenario once.
pub(crate) fn run(
    scenario: Scenario<'_>,
    settings: &Settings,
    source: Source,
    keep: Keep,
) -> RunResult {
    assert!(
        Handle::try_current().is_err() || can_block(),
        "a simulated run needs a runtime of its own: use a plain #[test] instead of #[tokio::test]"
    );
    let _capture = panics::Capture::start();
    // Ids and jitter of coord and of the scenario come from this thread's generator.
    let seed_before = fastrand::get_seed();
    fastrand::seed(0);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O can be built");
    let result = runtime.block_on(run_world(scenario, settings, source, keep));
    drop(runtime);
    fastrand::seed(seed_before);
    result
}

/// Whether a runtime may run on this thread, which belongs to a runtime: yes on a thread for
/// blocking code.
fn can_block() -> bool {
    let _capture = panics::Capture::start();
    let runtime =
        Builder::new_current_thread().build().expect("a runtime without I/O can be built");
    let entered = panics::catch(|| runtime.block_on(async {}));
    // Unlike dropping it, this does not block.
    runtime.shutdown_background();
    entered.is_ok()
}

async fn run_world(
    scenario: Scenario<'_>,
    settings: &Settings,
    source: Source,
    keep: Keep,
) -> RunResult {
    let mut choices = Choices::new(source, keep == Keep::History, keep == Keep::Points);
    let clock = choices.add_lane("store.clock".to_owned(), faults::CLOCK);
    let drift = choices.choose(clock, 0, None, || "the clock of the store".to_owned());
    let rate = match drift {
        1 => 1.05,
        2 => 0.95,
        _ => 1.0,
    };
    let mem = MemBackend::builder().seed(1).lease_clock_rate(rate).build();
    let store = mem.clone();
    // The code under test also runs where its store is built and where its values are dropped.
    let built = panics::catch(|| match &settings.wrap_store {
        Some(wrap) => wrap(store),
        None => Client::new(store),
    });
    let (store, failure) = match built {
        Ok(store) => (store, None),
        Err(failure) => (Client::new(MemBackend::new()), Some(failure)),
    };
    let check = settings.checks_store.then(|| StoreCheck::new(mem.clone()));
    let store = match &check {
        Some(check) => Client::new(CheckedStore::new(store, Arc::clone(check))),
        None => store,
    };
    let is_recorded = keep == Keep::History;
    let world = World::new(mem, store, choices, settings.settle_time, is_recorded, check);
    let sim = Sim { world: Arc::clone(&world) };
    let heal = |world: &Arc<World>| world.lock().heal();
    world.lock().send(Owner::Harness, settings.fault_time, Message::Change(Box::new(heal)));
    let started = match failure {
        Some(failure) => Err(failure),
        None => panics::catch(|| scenario(sim.clone())),
    };
    match started {
        Ok(main) => world.spawn(Owner::Harness, main_task(sim, main)),
        Err(failure) => world.lock().fail(failure),
    }
    driver::drive(&world, settings.max_steps).await;
    let store_hash = if keep == Keep::History { hash_store(&world.store).await } else { 0 };
    let mut result = take_result(&world, store_hash);
    if drift > 0 && !world.lock().leases.is_empty() {
        result.coverage.note_mattered(Fault::ClockDrift);
    }
    let released = panics::catch(|| release(&world));
    result.failure = result.failure.or(released.err());
    result
}

impl State {
    /// Ends the faults: no choice deviates any more, no process is stalled, and the store has
    /// space. Messages that are late already, slow links and the clock's drift stay as they are.
    /// From now on, the scenario has the settle time to return.
    pub(crate) fn heal(&mut self) {
        if self.choices.is_healed() {
            return;
        }
        self.out_of_space_until = None;
        self.choices.heal();
        self.record(Owner::Harness, || EventKind::Note("healed".to_owned()));
        for index in 0..self.processes.len() {
            self.end_all_stalls(index);
        }
        let within = self.settle_time;
        let late = move |world: &Arc<World>| {
            if world.lock().has_returned {
                return;
            }
            let unfinished = world.describe_unfinished();
            let text = format!("{within:?} after the faults ended, {unfinished}");
            world.lock().fail(Failure::new("liveness", text));
        };
        self.send(Owner::Harness, within, Message::Change(Box::new(late)));
    }
}

/// Runs the scenario, then checks what it leaves behind.
fn main_task(sim: Sim, main: ScenarioFuture) -> BackgroundTask {
    Box::pin(async move {
        let result = main.await;
        sim.world.lock().has_returned = true;
        sim.heal();
        let failure = match result {
            Err(error) => Some(Failure::new(failure::SCENARIO, error)),
            Ok(()) => match sim.failure_without_faults() {
                None => left_behind(&sim.world).await,
                failure => failure,
            },
        };
        let mut state = sim.world.lock();
        if let Some(failure) = failure {
            state.fail(failure);
        }
        state.is_done = true;
    })
}

/// How long a lease of a process that has ended may exist beyond its TTL: the drift of the store's
/// clock, a leader change, and the time that the cleanup of a session may take.
const LEASE_GRACE: Duration = Duration::from_secs(60);

/// Checks that no lease of a process that has ended outlives its TTL: its keys would stay too.
async fn left_behind(world: &World) -> Option<Failure> {
    let started = Instant::now();
    loop {
        let leases = world.store.leases().await.ok()?.leases;
        let of_ended = {
            let state = world.lock();
            leases.into_iter().find_map(|lease| {
                let process = &state.processes[*state.leases.get(&lease)?];
                process.exit.as_ref().map(|_| (lease, Arc::clone(&process.name)))
            })
        };
        let (lease, name) = of_ended?;
        let lease_state = world.store.lease_time_to_live(LeaseTimeToLive::new(lease)).await.ok()?;
        let ttl = lease_state.lease.map_or(Duration::ZERO, |lease| lease.granted);
        let waited = started.elapsed();
        if waited > ttl + LEASE_GRACE {
            let text = format!("lease {lease} of {name} still exists {waited:?} after the end");
            return Some(Failure::new("left behind", text));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

fn take_result(world: &World, store_hash: u64) -> RunResult {
    let mut state = world.lock();
    let placeholder = Choices::new(Source::replay(&Deviations::default()), false, false);
    let choices = std::mem::replace(&mut state.choices, placeholder);
    let mismatch = choices.mismatch();
    let (deviations, words, points, coverage) = choices.into_parts();
    let exits = state.processes.iter_mut();
    let exits = exits.map(|process| (Arc::clone(&process.name), process.exit.take())).collect();
    RunResult {
        failure: state.failure.take(),
        deviations,
        words,
        points,
        coverage,
        history: History(state.history.take().unwrap_or_default()),
        steps: state.steps,
        sometimes: std::mem::take(&mut state.sometimes),
        exits,
        store_hash,
        mismatch,
    }
}

/// Drops the tasks and messages of the world, which refer to it, until none is left.
fn release(world: &World) {
    loop {
        // Dropping a task may send a message or start another task.
        let unfinished = world.lock().take_unfinished();
        if unfinished.is_none() {
            return;
        }
    }
}

/// Identifies the contents of a store: all keys with their revisions, the current revision, and all
/// leases with their remaining time.
async fn hash_store(store: &Client) -> u64 {
    let mut hasher = DefaultHasher::new();
    let contents = store.range(Range::new(KeyRange::all())).await;
    format!("{contents:?}").hash(&mut hasher);
    for lease in store.leases().await.map(|response| response.leases).unwrap_or_default() {
        let lease = store.lease_time_to_live(LeaseTimeToLive::new(lease)).await;
        format!("{lease:?}").hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, Weak};

    use coord_core::kv::LeaseGrant;
    use coord_core::{Mutex as Lock, Session};

    use super::*;

    #[test]
    fn store_hash_depends_on_leases() {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let hash = |ttl: Option<u64>| async move {
            let store = Client::new(MemBackend::builder().seed(1).build());
            if let Some(ttl) = ttl {
                store.lease_grant(LeaseGrant::new(Duration::from_secs(ttl))).await.unwrap();
            }
            hash_store(&store).await
        };
        let hashes = runtime.unwrap().block_on(async {
            [hash(None).await, hash(None).await, hash(Some(5)).await, hash(Some(6)).await]
        });
        assert_eq!(hashes[0], hashes[1]);
        assert!(hashes[0] != hashes[2] && hashes[2] != hashes[3]);
    }

    #[test]
    fn world_of_a_run_with_crashes_is_dropped() {
        let worlds = Mutex::new(Vec::<Weak<World>>::new());
        let scenario = |sim: Sim| {
            worlds.lock().unwrap().push(Arc::downgrade(&sim.world));
            let running = async move {
                for name in ["a", "b"] {
                    let process = sim.service(name, |process| async move {
                        let session = Session::builder(process.client()).open().await?;
                        let guard = Lock::new(&session, "m").lock().await?;
                        let mut watch = process.client().watch_prefix("m").await?;
                        process.spawn(async move { while watch.next().await.is_some() {} });
                        guard.lost().await;
                        Ok::<_, coord_core::error::PrimitiveError>(())
                    });
                    sleep(Duration::from_millis(5)).await;
                    process.crash();
                }
                sleep(Duration::from_secs(1)).await;
                Ok(())
            };
            Box::pin(running) as ScenarioFuture
        };
        let settings = Settings {
            faults: Vec::new(),
            fault_time: Duration::from_secs(300),
            settle_time: Duration::from_secs(300),
            max_steps: 10_000,
            wrap_store: None,
            checks_store: false,
        };
        let source = Source::replay(&Deviations::default());
        let result = run(&scenario, &settings, source, Keep::Result);
        assert_eq!(result.failure, None);
        let worlds = worlds.into_inner().unwrap();
        assert!(worlds.iter().all(|world| world.upgrade().is_none()), "a run leaks its world");
    }
}
