//! Every schedule of a user's own transactions.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::rc::Rc;

use bytes::Bytes;
use coord_core::kv::IntoBytes;
use coord_core::stm::{Isolation, StmError, Transaction};
use coord_core::{Error, Stm};

use super::explore::{self, Explored};
use super::perform::retry;
use super::run::{FinalState, RunOutcome, Setup, StartProcess};
use super::schedule::Schedule;
use crate::isolation::{self, Level, Status};
use crate::sim::panics;

/// How many attempts a transaction makes at most.
const ATTEMPTS_MAX: u32 = 3;

type Invariant = Rc<dyn Fn(&FinalState) -> bool>;

/// A few closures, each with a client of its own, which are run under every schedule of their
/// requests, each time on a fresh store.
///
/// ```
/// use coord_core::{Error, stm::Isolation};
/// use coord_testkit::programs::Closures;
///
/// let doctors = Closures::new(Isolation::ReadCommitted).put("ada", "on duty").put("bob", "on duty");
/// let failure = doctors
///     .transaction(async |tx| {
///         if tx.get("bob").await?.is_some() { tx.delete("ada") }
///         Ok::<_, Error>(())
///     })
///     .transaction(async |tx| {
///         if tx.get("ada").await?.is_some() { tx.delete("bob") }
///         Ok::<_, Error>(())
///     })
///     .invariant(|state| state.contains("ada") || state.contains("bob"))
///     .check()
///     .expect_err("ReadCommitted permits write skew");
///
/// assert_eq!(
///     failure.to_string(),
///     "the invariant does not hold\n\
///      T1 read bob: bob@2\n\
///      T2 read ada: ada@2\n\
///      T1 delete ada: revision 3\n\
///      T2 delete bob: revision 4\n\
///      replay it with .replay(\"T1 T2 T1 T2\")\n"
/// );
/// ```
///
/// At another level the second `delete` conflicts, and no schedule fails.
///
/// The closures must decide by what they read, and by nothing that changes from run to run: no
/// random numbers, and no state that outlives a run. They may wait for time to pass, which is
/// virtual, up to one second between two requests, but not for each other. They send one request
/// after the other. A run has at most 10,000 requests. A closure that neither returns nor waits
/// blocks its run, as it would block any thread.
#[derive(Clone)]
#[must_use = "call `run` or `check`"]
pub struct Closures {
    isolation: Isolation,
    initial: BTreeMap<Bytes, Bytes>,
    processes: Vec<StartProcess>,
    invariant: Option<Invariant>,
    level: Option<Level>,
    stale_window: u32,
    schedules_max: u64,
}

/// A schedule under which closures have failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScheduleFailure {
    /// What went wrong.
    pub text: String,
    /// The order of the requests.
    pub schedule: Schedule,
    /// The requests with their responses.
    pub requests: Vec<String>,
}

impl fmt::Display for ScheduleFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text.trim_end())?;
        self.requests.iter().try_for_each(|request| writeln!(f, "{request}"))?;
        writeln!(f, "replay it with .replay(\"{}\")", self.schedule)
    }
}

impl std::error::Error for ScheduleFailure {}

impl Closures {
    /// No closures yet. Their transactions have this level.
    ///
    /// The stale window is one revision, a transaction makes at most three attempts, and
    /// [`schedules_max`](Self::schedules_max) is 100,000.
    pub fn new(isolation: Isolation) -> Self {
        Self {
            isolation,
            initial: BTreeMap::new(),
            processes: Vec::new(),
            invariant: None,
            level: None,
            stale_window: 1,
            schedules_max: 100_000,
        }
    }

    /// Adds a key that exists before the closures start.
    pub fn put(mut self, key: impl IntoBytes, value: impl IntoBytes) -> Self {
        self.initial.insert(key.into_bytes(), value.into_bytes());
        self
    }

    /// Adds a process that runs one transaction.
    ///
    /// An error of the closure aborts the transaction and fails nothing, and neither does a
    /// transaction that has spent its attempts. An error of the backend fails the schedule.
    pub fn transaction<T, E>(
        self,
        closure: impl AsyncFn(&mut Transaction) -> Result<T, E> + 'static,
    ) -> Self
    where
        T: 'static,
        E: From<Error> + 'static,
    {
        let closure = Rc::new(closure);
        self.process(async move |stm| match stm.run(async |tx| closure(tx).await).await {
            Ok(_) | Err(StmError::Aborted(_) | StmError::RetriesExhausted { .. }) => Ok(()),
            Err(StmError::OutcomeUnknown(error) | StmError::Backend(error)) => {
                Err(error.to_string())
            }
            Err(_) => Err("the session is lost".to_owned()),
        })
    }

    /// Adds a process that runs any number of transactions, one after the other. An error or a
    /// panic fails the schedule.
    ///
    /// ```
    /// use coord_core::stm::{Isolation, StmError};
    /// use coord_core::{Error, Stm};
    /// use coord_testkit::programs::Closures;
    ///
    /// async fn add_twice(stm: Stm) -> Result<(), StmError<Error>> {
    ///     for _ in 0..2 {
    ///         stm.run(async |tx| {
    ///             let sum = tx.get_as::<i64>("sum").await?.unwrap_or(0);
    ///             tx.put_as("sum", &(sum + 1))?;
    ///             Ok::<_, Error>(())
    ///         })
    ///         .await?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// let explored = Closures::new(Isolation::Serializable)
    ///     .process(add_twice)
    ///     .process(add_twice)
    ///     .invariant(|state| state.get("sum").as_deref() == Some("4"))
    ///     .run();
    /// assert!(explored.is_complete);
    /// ```
    pub fn process<E: fmt::Display>(
        mut self,
        closure: impl AsyncFn(Stm) -> Result<(), E> + 'static,
    ) -> Self {
        let (closure, isolation) = (Rc::new(closure), self.isolation);
        self.processes.push(Rc::new(move |client| {
            let closure = Rc::clone(&closure);
            let stm = Stm::new(&client).isolation(isolation).retry(retry(ATTEMPTS_MAX));
            Box::pin(async move { closure(stm).await.map_err(|error| error.to_string()) })
        }));
        self
    }

    /// Sets what must hold of the store when all processes have ended.
    pub fn invariant(mut self, holds: impl Fn(&FinalState) -> bool + 'static) -> Self {
        self.invariant = Some(Rc::new(holds));
        self
    }

    /// Fails a schedule also if its history refutes a level. This finds out whether transactions at
    /// a weak level need a stronger one, without an invariant.
    pub const fn keeps(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// Sets how many revisions a member may be behind that serves a serializable read.
    pub const fn stale_window(mut self, revisions: u32) -> Self {
        self.stale_window = revisions;
        self
    }

    /// Sets how many schedules are run at most: of the schedules without stale reads, which run
    /// first, and again of all schedules. If more are left, [`run`](Self::run) panics, and
    /// [`check`](Self::check) returns an [`Explored`] that is not complete.
    pub const fn schedules_max(mut self, schedules: u64) -> Self {
        self.schedules_max = schedules;
        self
    }

    /// Runs every schedule, and returns how many there are.
    ///
    /// # Panics
    /// With the failure, if a schedule fails. If [`schedules_max`](Self::schedules_max) is reached
    /// before all schedules were run. Also where [`check`](Self::check) panics.
    #[track_caller]
    pub fn run(&self) -> Explored {
        match self.check() {
            Ok(explored) if explored.is_complete => explored,
            Ok(Explored { schedules, .. }) => panic!(
                "only {schedules} schedule{} explored: raise schedules_max, or use check, which \
                 permits that schedules are left",
                if schedules == 1 { " was" } else { "s were" }
            ),
            Err(failure) => panic!("{failure}"),
        }
    }

    /// Runs every schedule, until one fails.
    ///
    /// # Errors
    /// The first schedule that fails: the invariant does not hold, a process has panicked or
    /// returned an error, a level that [`keeps`](Self::keeps) has set is refuted, or a transaction
    /// did not get what its level promises.
    ///
    /// # Panics
    /// If the closures send other requests in a second run with the same turns. If the store
    /// refuses the initial keys: a key is empty, or there are more than 128. Inside an async
    /// runtime.
    pub fn check(&self) -> Result<Explored, Box<ScheduleFailure>> {
        let explored = self.check_with(0)?;
        // A failure with current reads is easier to understand, so these schedules come first.
        if self.stale_window == 0 { Ok(explored) } else { self.check_with(self.stale_window) }
    }

    fn check_with(&self, stale_window: u32) -> Result<Explored, Box<ScheduleFailure>> {
        let mut failed = None;
        let setup = Setup { stale_window, ..self.setup() };
        let explored = explore::explore(&setup, self.schedules_max, &mut |outcome| {
            let Some(text) = self.failure_of(&outcome) else {
                return ControlFlow::Continue(());
            };
            failed = Some((outcome.schedule, text));
            ControlFlow::Break(())
        });
        match failed {
            None => Ok(explored),
            Some((schedule, text)) => {
                self.replay_schedule(&setup, &schedule)?;
                let text = format!(
                    "{text}\nthis schedule does not fail again: the closures, or the invariant, \
                     must decide by what they read only"
                );
                Err(Box::new(ScheduleFailure { text, schedule, requests: Vec::new() }))
            }
        }
    }

    /// Runs one schedule, as a failure prints it.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    ///
    /// # Panics
    /// If `schedule` is not a schedule. If the store refuses the initial keys. Inside an async
    /// runtime.
    pub fn replay(&self, schedule: &str) -> Result<(), Box<ScheduleFailure>> {
        let schedule: Schedule = schedule.parse().unwrap_or_else(|error| panic!("{error}"));
        self.replay_schedule(&self.setup(), &schedule)
    }

    fn replay_schedule(
        &self,
        setup: &Setup,
        schedule: &Schedule,
    ) -> Result<(), Box<ScheduleFailure>> {
        let outcome = explore::replay(setup, schedule);
        let Some(text) = self.failure_of(&outcome) else { return Ok(()) };
        let RunOutcome { schedule, requests, .. } = outcome;
        Err(Box::new(ScheduleFailure { text, schedule, requests }))
    }

    fn failure_of(&self, outcome: &RunOutcome) -> Option<String> {
        for (number, result) in (1..).zip(&outcome.results) {
            if let Err(error) = result {
                return Some(format!("T{number} failed: {error}"));
            }
        }
        if let Some(holds) = &self.invariant {
            let captured = panics::Capture::start();
            let checked = panics::catch(|| holds(&outcome.state));
            drop(captured);
            match checked {
                Ok(true) => {}
                Ok(false) => return Some("the invariant does not hold".to_owned()),
                Err(failure) => {
                    return Some(format!("the invariant has panicked: {}", failure.text));
                }
            }
        }
        let verdict = isolation::check(&outcome.history);
        if verdict.declared() == Status::Not {
            return Some(format!("the level was not kept\n{verdict}"));
        }
        let level = self.level.filter(|level| verdict.status(*level).is_refuted())?;
        Some(format!("the transactions are not {level}\n{verdict}"))
    }

    fn setup(&self) -> Setup {
        Setup {
            initial: self.initial.clone(),
            processes: self.processes.clone(),
            layer: None,
            stale_window: self.stale_window,
        }
    }
}

impl fmt::Debug for Closures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closures")
            .field("isolation", &self.isolation)
            .field("processes", &self.processes.len())
            .finish_non_exhaustive()
    }
}
