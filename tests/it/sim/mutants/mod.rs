//! Mutants: deliberately wrong primitives and stores, which the simulator must catch.
//!
//! A simulator is worth as much as the flaws it finds. Each mutant has one known flaw. A family
//! is a scenario whose correct variant must hold for as many seeds as its mutants get.

mod caches;
mod elections;
mod handoffs;
mod lease;
mod locks;
mod queues;
mod reads;
mod rwlocks;
mod semaphores;
mod stores;
mod swarm;
mod transactions;

use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use coord_testkit::sim::{Exclusive, FailureReport, Process, Sim, Sweep, Weaken};
use tokio::time::{Instant, sleep};

/// How many seeds a mutant may take until it is caught.
const SEEDS: u64 = 1_000;

/// How many deviations a shrunk failure may have, and in how many runs it is shrunk.
const DEVIATIONS: usize = 5;
const SHRINK_RUNS: usize = 500;

/// The result of a process: any error ends it.
pub(super) type TaskResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub(super) type BoxedRun = Pin<Box<dyn Future<Output = ()> + Send>>;

type Scenario = Box<dyn Fn(Sim) -> BoxedRun + Send + Sync>;

/// One deliberate flaw.
struct Mutant {
    name: String,
    scenario: Scenario,
    weakness: Option<Weaken>,
}

/// A correct scenario and its mutants.
pub(super) struct Family {
    name: &'static str,
    correct: Scenario,
    mutants: Vec<Mutant>,
}

/// A scenario of which a family is made: correct without a flaw.
pub(super) struct FamilyBuilder<W> {
    family: Family,
    scenario: Arc<dyn Fn(Sim, Option<W>) -> BoxedRun + Send + Sync>,
}

/// Starts the processes `a`, `b` and `c`, 30 ms after each other, which contend for one lock.
fn spawn_contenders<F: Future<Output = TaskResult> + Send + 'static>(
    sim: &Sim,
    work: impl Fn(Process, Exclusive) -> F,
) {
    let inside = sim.exclusive("lock");
    for (name, starts) in [("a", 0), ("b", 30), ("c", 60)] {
        sim.spawn(name, |process| {
            let working = work(process, inside.clone());
            async move {
                sleep(Duration::from_millis(starts)).await;
                working.await
            }
        });
    }
}

/// Starts a family.
pub(super) fn family<W: 'static, F: Future<Output = ()> + Send + 'static>(
    name: &'static str,
    scenario: fn(Sim, Option<W>) -> F,
) -> FamilyBuilder<W> {
    let correct = Box::new(move |sim| Box::pin(scenario(sim, None)) as BoxedRun);
    FamilyBuilder {
        family: Family { name, correct, mutants: Vec::new() },
        scenario: Arc::new(move |sim, flaw| Box::pin(scenario(sim, flaw))),
    }
}

impl<W: Copy + Send + Sync + 'static> FamilyBuilder<W> {
    /// Adds a mutant: the scenario with a flaw.
    pub(super) fn mutant(mut self, name: &str, flaw: W) -> Self {
        let scenario = Arc::clone(&self.scenario);
        let scenario = Box::new(move |sim| scenario(sim, Some(flaw)));
        self.family.mutants.push(Mutant { name: name.to_owned(), scenario, weakness: None });
        self
    }

    /// Adds a mutant: the correct scenario on a weakened store.
    pub(super) fn weakened(mut self, weakness: Weaken) -> Self {
        let scenario = Arc::clone(&self.scenario);
        let scenario = Box::new(move |sim| scenario(sim, None));
        let name = format!("store: {weakness}");
        self.family.mutants.push(Mutant { name, scenario, weakness: Some(weakness) });
        self
    }

    pub(super) fn done(self) -> Family {
        self.family
    }
}

fn families() -> Vec<Family> {
    vec![
        locks::key_lock(),
        queues::queue_lock(),
        handoffs::handoffs(),
        elections::leaders(),
        transactions::counters(),
        transactions::duty(),
        transactions::producers(),
        reads::audits(),
        reads::own_writes(),
        caches::caches(),
        semaphores::permits(),
        rwlocks::readers_and_writers(),
        stores::locks(),
        stores::transactions(),
    ]
}

/// One line of the table.
struct Row {
    mutant: String,
    report: Option<Box<FailureReport>>,
    /// The real time from the failure to its shrunk report.
    shrunk_in: Duration,
}

impl Row {
    fn is_small(&self) -> bool {
        let is_small = |report: &FailureReport| {
            report.deviations.0.len() <= DEVIATIONS && report.shrink_runs <= SHRINK_RUNS
        };
        self.report.as_ref().is_some_and(|report| is_small(report))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(report) = &self.report else {
            return write!(f, "| {} | not caught | | | | |", self.mutant);
        };
        // Seeds are numbered from 0. Without a seed, the run without faults failed.
        let seeds = report.seed.map_or(0, |seed| seed + 1);
        let (before, after) = (report.first_deviations, report.deviations.0.len());
        let text = report.failure.text.split(", not finished").next().unwrap_or_default();
        write!(
            f,
            "| {} | {seeds} | {before} | {} | {after} | {}: {text} |",
            self.mutant, report.shrink_runs, report.failure.oracle
        )
    }
}

/// The sweep of a family. Its processes need about 15 s. A key that is left behind must outlive the
/// faults.
fn sweep(family: &Family) -> Sweep {
    let sweep = Sweep::new(family.name).seeds(SEEDS).without_canary().without_coverage();
    sweep.fault_time(Duration::from_secs(15)).settle_time(Duration::from_secs(120))
}

/// The sweep of a mutant.
fn sweep_of(family: &Family, mutant: &Mutant) -> Sweep {
    mutant.weakness.map_or(sweep(family), |weakness| sweep(family).weaken(weakness))
}

/// The rows of a family's mutants. The correct scenario must hold.
fn try_family(family: &Family) -> Vec<Row> {
    if let Err(report) = sweep(family).check(&family.correct) {
        panic!("false alarm: the correct `{}` failed\n{report}", family.name);
    }
    family.mutants.iter().map(|mutant| try_mutant(family, mutant)).collect()
}

/// Searches for a seed that fails, then shrinks its failure. The time of the second part includes
/// two runs more than the shrinking: the one without faults and that of the seed.
fn try_mutant(family: &Family, mutant: &Mutant) -> Row {
    let sweep = sweep_of(family, mutant);
    let found = sweep.clone().shrink_runs(0).check(&mutant.scenario).err();
    let shrinking = Instant::now();
    let report = found.and_then(|found| {
        // Without a seed, the run without faults has failed, and no seed is run.
        let sweep = sweep.first_seed(found.seed.unwrap_or_default()).seeds(1);
        sweep.shrink_runs(SHRINK_RUNS).check(&mutant.scenario).err()
    });
    Row { mutant: mutant.name.clone(), report, shrunk_in: shrinking.elapsed() }
}

/// Searches the mutants of a family, all of which must be caught, and prints how.
#[expect(clippy::print_stdout, reason = "the output of a test that is run with `--nocapture`")]
pub(super) fn assert_caught(family: &Family) {
    let rows = try_family(family);
    let table: String = rows.iter().map(|row| format!("{row}\n")).collect();
    println!("{table}");
    assert!(rows.len() >= 3 && rows.iter().all(|row| row.report.is_some()), "{table}");
}

/// The median and the longest time from a failure to its shrunk report: figures of this machine,
/// which are no part of what the test asserts.
fn describe_times(rows: &[Row]) -> String {
    let mut times: Vec<_> = rows.iter().map(|row| (row.shrunk_in, &row.mutant)).collect();
    times.sort();
    let median = times[times.len() / 2].0;
    let (longest, mutant) = times[times.len() - 1];
    format!("failure to shrunk report: median {median:.1?}, longest {longest:.1?} ({mutant})")
}

/// The results of all families, in their order, run on two threads.
fn in_two_threads<T: Send>(families: &[Family], run: impl Fn(&Family) -> Vec<T> + Sync) -> Vec<T> {
    let waiting = Mutex::new(families.iter().enumerate().rev().collect::<Vec<_>>());
    let results = Mutex::new(Vec::new());
    let work = || {
        while let Some((index, family)) = { waiting.lock().unwrap().pop() } {
            let own = run(family);
            results.lock().unwrap().push((index, own));
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().flat_map(|(_, own)| own).collect()
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is kept in docs/guide/simulation.md")]
fn mutants_are_caught_and_shrunk() {
    let rows = in_two_threads(&families(), try_family);
    let mut table = String::from(
        "| mutant | seeds | deviations | runs to shrink | deviations after | what broke |\n\
         |---|---:|---:|---:|---:|---|\n",
    );
    for row in &rows {
        writeln!(table, "{row}").unwrap();
    }
    println!("{table}\n{}", describe_times(&rows));
    for report in rows.iter().filter(|row| !row.is_small()).filter_map(|row| row.report.as_ref()) {
        println!("{report}");
    }
    let uncaught = rows.iter().filter(|row| row.report.is_none()).count();
    assert_eq!(uncaught, 0, "a mutant was not caught:\n{table}");
    let small = rows.iter().filter(|row| row.is_small()).count();
    assert!(rows.len() >= 15 && small * 10 >= rows.len() * 9, "{small} are small:\n{table}");
}
