//! Deterministic simulation: runs coordinating code under every fault, and shrinks a failure to a
//! few deviations.
//!
//! A scenario starts processes. Each has a [`Client`] of its own, over one store, through a
//! simulated network, on virtual time. The code in the processes is plain tokio and coord code. A
//! [`Sweep`] runs the scenario without faults, then under hundreds of random schedules and faults:
//!
//! ```
//! use coord_core::{Mutex, Session, error::PrimitiveError};
//! use coord_testkit::sim::Sweep;
//!
//! Sweep::new("lock_excludes").seeds(300).run(|sim| async move {
//!     let inside = sim.exclusive("printer");
//!     for name in ["a", "b"] {
//!         let inside = inside.clone();
//!         sim.spawn(name, |process| async move {
//!             let session = Session::builder(process.client()).open().await?;
//!             let guard = Mutex::new(&session, "printer").lock().await?;
//!             let _inside = inside.enter(&process, &guard);
//!             process.client().put("printed-by", process.name().to_owned()).await?;
//!             Ok::<_, PrimitiveError>(())
//!         });
//!     }
//!     sim.join().await;
//! });
//! ```
//!
//! # How a run is determined
//!
//! Everything that could go one way or another is a decision point: which ready task steps next,
//! how long a message takes, whether it is lost, whether a process is paused. Option 0 always means
//! no fault, least latency, oldest first. A seed generates the choices; the choices other than 0,
//! the [`Deviations`], alone replay the run, in another process and on another machine. See
//! `choice.rs` for the format.
//!
//! # What fails a run
//!
//! - a panic in any process, such as a failed assertion;
//! - an error that the scenario returns, and, in a run without faults, an error of a process;
//! - an oracle: [`Sim::exclusive`], [`Sim::always`], [`Sim::eventually`], [`Sim::leads_to`], and
//!   [`Sweep::check_store`], which compares responses and watches with the store;
//! - liveness: faults end after 300 s, and then the scenario must return within 600 s
//!   ([`Sweep::fault_time`], [`Sweep::settle_time`]);
//! - a lease of an ended process that outlives its TTL;
//! - livelock, and a wake-up from outside the simulation.
//!
//! An error that a process returns under faults is no failure: its session may be lost, for
//! example.
//!
//! To check that a sweep detects a violation, weaken the store with [`Sweep::weaken`].
//!
//! # What the simulator does not see
//!
//! Threads, `spawn_blocking`, sockets, unbiased `select!`, and the order of hash maps in the code
//! under test. The first three are detected when they wake a task or send a request.
//!
//! Source: FoundationDB's and TigerBeetle's simulators; `docs/guide/simulation.md`.

mod attempts;
mod backup;
mod choice;
mod driver;
mod exhaust;
mod failure;
mod faults;
mod generator;
mod network;
mod oracle;
pub(crate) mod panics;
mod process;
mod replay;
mod report;
mod run;
mod shrink;
mod store_check;
#[cfg(feature = "proptest")]
mod strategy;
mod sweep;
mod weaken;
mod world;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord_core::Client;
use tokio::time::Instant;

pub use choice::{Deviation, Deviations, ParseDeviationError};
pub use exhaust::Exhausted;
pub use failure::Failure;
pub use faults::{Fault, FaultCount, FaultCoverage};
pub use oracle::{Exclusive, Inside};
pub use process::{Exit, Process, ProcessTask};
pub use replay::{NotReplayableError, ReplayRule};
pub use report::FailureReport;
pub use run::ProcessResult;
#[cfg(feature = "proptest")]
pub use strategy::{Plan, PlanTree, Plans, plans};
pub use sweep::{Sweep, SweepReport};
pub use weaken::Weaken;

use crate::history::EventKind;
use oracle::{Always, LeadsTo};
use world::{Owner, State, World};

/// A handle to a simulated run, for its scenario. Clones are handles to the same run.
#[derive(Clone)]
pub struct Sim {
    world: Arc<World>,
}

impl Sim {
    /// Starts a process with a main task. A crash ends the process for good.
    ///
    /// # Panics
    /// If the name is empty, in use, `store` or `test`, or has other characters than letters,
    /// digits, `_` and `-`.
    pub fn spawn<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
        &self,
        name: &str,
        main: impl FnOnce(Process) -> F,
    ) -> Process {
        let process = Process::add(&self.world, name, None);
        let main = main(process.clone());
        let ended = process.clone();
        let task = async move { ended.note_exit(main.await.into_result()) };
        self.world.spawn(process.owner(), Box::pin(task));
        process
    }

    /// Adds a process without a main task: [`join`](Self::join) does not wait for it.
    ///
    /// # Panics
    /// If the name is empty, in use, `store` or `test`, or has other characters than letters,
    /// digits, `_` and `-`.
    #[must_use]
    pub fn process(&self, name: &str) -> Process {
        let process = Process::add(&self.world, name, None);
        self.world.lock().processes[process.index].has_main = false;
        process
    }

    /// Starts a process whose main task starts again, with a new client, after an error, after
    /// [`Process::crash`], and after a [`Fault::Restart`]. The next life begins a second later. A
    /// [`Fault::Crash`] ends the process for good.
    ///
    /// # Panics
    /// If the name is empty, in use, `store` or `test`, or has other characters than letters,
    /// digits, `_` and `-`.
    pub fn service<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
        &self,
        name: &str,
        main: impl Fn(Process) -> F + Send + Sync + 'static,
    ) -> Process {
        let start = move |process: Process| {
            let main = main(process.clone());
            let task = async move { process.note_exit(main.await.into_result()) };
            Box::pin(task) as coord_core::spawn::BackgroundTask
        };
        Process::add(&self.world, name, Some(Arc::new(start)))
    }

    /// Waits until the main task of every process has ended, or its process has crashed for good.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn join(&self) {
        loop {
            let exited = self.world.exited.notified();
            tokio::pin!(exited);
            exited.as_mut().enable();
            if self.world.lock().has_ended() {
                return;
            }
            exited.await;
        }
    }

    /// A client that no fault affects: for the scenario's own checks.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.world.store
    }

    /// Ends the faults before their time: no further fault is injected, stalled processes continue,
    /// and the store has space again. Messages that are late already, slow links and the clock's
    /// drift stay as they are.
    pub fn heal(&self) {
        self.world.lock().heal();
    }

    /// Returns whether the faults have ended.
    #[must_use]
    pub fn is_healed(&self) -> bool {
        self.world.lock().choices.is_healed()
    }

    /// The virtual time since the start of the run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Instant::now().saturating_duration_since(self.world.started)
    }

    /// An oracle of mutual exclusion: a resource that one holder may use at a time.
    #[must_use]
    pub fn exclusive(&self, name: &str) -> Exclusive {
        Exclusive::new(&self.world, name)
    }

    /// Fails the run when `holds` returns false. The simulator calls `holds` after every step.
    pub fn always(&self, name: &'static str, holds: impl FnMut() -> bool + Send + 'static) {
        self.world.lock().oracles.push(Box::new(Always { name, holds }));
    }

    /// Waits until `holds` returns true, and fails the run if it does not within `within`. `holds`
    /// is called every 10 ms of virtual time.
    ///
    /// # Cancel safety
    /// Dropping the future drops the condition.
    pub async fn eventually(
        &self,
        name: &'static str,
        within: Duration,
        mut holds: impl FnMut() -> bool + Send,
    ) {
        let started = Instant::now();
        while !holds() {
            if started.elapsed() > within {
                let text = format!("the condition does not hold within {within:?}");
                self.world.lock().fail(Failure::new(name, text));
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Fails the run if `effect` does not hold within `within` after `cause` holds. The simulator
    /// calls `effect` after every step, and `cause` unless `effect` holds or is awaited.
    pub fn leads_to(
        &self,
        name: &'static str,
        cause: impl FnMut() -> bool + Send + 'static,
        effect: impl FnMut() -> bool + Send + 'static,
        within: Duration,
    ) {
        let oracle = LeadsTo { name, cause, effect, within, pending_since: None };
        self.world.lock().oracles.push(Box::new(oracle));
    }

    /// Notes whether `condition` holds here. It must hold at least once in a sweep of 100 seeds or
    /// more, else the sweep has not tested what it should, and fails.
    pub fn sometimes(&self, name: &'static str, condition: bool) {
        *self.world.lock().sometimes.entry(name).or_default() |= condition;
    }

    /// Returns whether a fault of the test's own is injected here. A point is activated in a
    /// quarter of the runs that enable [`Fault::Buggify`], and then fires at random until the
    /// faults end.
    ///
    /// # Panics
    /// If the name is empty, or has other characters than letters, digits, `_` and `-`.
    #[must_use]
    pub fn buggify(&self, name: &'static str) -> bool {
        choice::check_name("point", name, []);
        let mut state = self.world.lock();
        let State { choices, activated, .. } = &mut *state;
        let lane = choices.add_lane(format!("test.{name}"), faults::BUGGIFY);
        let is_on = match choices.generator() {
            Some(generator) => *activated.entry(name).or_insert_with(|| generator.activates()),
            None => true,
        };
        let pick = (!is_on).then_some(0);
        let fires = choices.choose(lane, 0, pick, || format!("the point {name}")) > 0;
        if fires {
            choices.coverage.note_mattered(Fault::Buggify);
        }
        fires
    }

    /// Adds a line to the history.
    pub fn note(&self, text: impl fmt::Display) {
        // The text is made without the lock: it may use the run.
        if self.world.lock().history.is_some() {
            let note = EventKind::Note(text.to_string());
            self.world.lock().record(Owner::Harness, || note);
        }
    }

    /// Fails the run.
    pub fn fail(&self, oracle: &str, text: impl fmt::Display) {
        let failure = Failure::new(oracle, text.to_string());
        self.world.lock().fail(failure);
    }

    /// How the main task of a process ended; `None` while it runs.
    ///
    /// # Panics
    /// If there is no process of this name.
    #[must_use]
    pub fn exit(&self, name: &str) -> Option<Exit> {
        let state = self.world.lock();
        let process = state.processes.iter().find(|process| &*process.name == name);
        process.unwrap_or_else(|| panic!("no process is named {name:?}")).exit.clone()
    }

    /// The failure of a process in a run without any fault.
    fn failure_without_faults(&self) -> Option<Failure> {
        let state = self.world.lock();
        if state.choices.has_deviated() {
            return None;
        }
        state.processes.iter().find_map(|process| match &process.exit {
            Some(Exit::Failed(error)) => {
                let text = format!("{} failed without any fault: {error}", process.name);
                Some(Failure::new("process", text))
            }
            _ => None,
        })
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}
