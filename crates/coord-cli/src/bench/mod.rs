//! `coord bench`: benchmarks of the primitives on a store, and their cost for the server.
//!
//! Flags and JSON fields are those of the Go program that measures etcd's `concurrency` package, so
//! that one script can run and compare both. The steps of a run:
//!
//! ```text
//! connect, set up     one client per connection, `--workers` workers; not measured
//! warm up             the same operations; not counted
//! settle, scrape      read the server's metrics, after cancellations of watches have reached it
//! measure             every worker repeats its operation until the time limit or the count
//! settle, scrape      the difference per operation is the cost for the server
//! check, report       a violated invariant fails the run
//! ```
//!
//! A workload uses the public API as an application does: it does not depend on the adapter, and
//! reads the clock outside of the calls. The modules:
//!
//! - `flags`: the command line;
//! - `store`: the connections and the key prefix of a run;
//! - `workload`: the operations, one file for each kind; `recipes` runs those of the recipes;
//! - `phase`: runs the workers, with `samples` for their latencies and `progress` for the bar;
//! - `metrics`: the server's metrics, and `scrape` to read them;
//! - `stats`: percentiles and fairness;
//! - `report`: the output.

mod flags;
mod metrics;
mod phase;
mod progress;
mod recipes;
mod report;
mod samples;
mod scrape;
mod stats;
mod store;
mod workload;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use coord_core::{Mutex, Session};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{sleep, timeout};

use crate::exit::{ExitError, print};
use flags::{
    Flags, HoldTimeFlags, NoFlags, RawFlags, RunFlags, SessionFlags, StmFlags, TransferFlags,
};
use phase::{Phase, PhaseLimit};
use recipes::RecipeCommand;
use report::Report;
use stats::Fairness;
use store::Store;
use workload::election::{Candidate, ObserveWorkload};
use workload::lock_cycle::{LockCycle, LockLike, Sharing};
use workload::raw::{RawRequest, RawWorkload};
use workload::session::SessionCycle;
use workload::stm::StmWorkload;
use workload::{Worker, Workload};

/// Measure the speed of the primitives on a store, and their cost for the server.
///
/// Prints a table if standard output is a terminal, and one line of JSON otherwise.
#[derive(Args, Debug)]
#[command(
    subcommand_value_name = "WORKLOAD",
    subcommand_help_heading = "Workloads",
    after_help = AFTER_HELP,
)]
pub(crate) struct Bench {
    #[command(subcommand)]
    workload: WorkloadCommand,
}

const AFTER_HELP: &str = "\
Examples:
  coord bench mutex-contended --endpoint mem: --workers 8
      measure the primitives themselves, on a store in memory
  coord bench mutex-contended --endpoint 127.0.0.1:2379 --workers 8 --duration 3s
      measure on an etcd server
  coord bench raw-put --count 1000 --json
      measure a thousand puts and print JSON
  coord bench mutex-contended --help
      print the flags of a workload

All keys have the prefix `--prefix`, except the limit of a semaphore: `coord/limit/` is before its
prefix. The run deletes them at its end, unless it fails or times out.

Exit status:
  0  the run completed
  1  the run failed, or an invariant was violated
  2  usage error
  3  timed out";

/// The workloads and their flags.
#[derive(Debug, Subcommand)]
enum WorkloadCommand {
    /// Put a key
    RawPut(Flags<RawFlags>),
    /// Read a key
    RawGet(Flags<RawFlags>),
    /// Read a key with a serializable read
    RawGetStale(Flags<RawFlags>),
    /// Put and read a key in one transaction, if the key exists
    RawTxn(Flags<RawFlags>),
    /// Open a session and close it
    SessionCycle(Flags<SessionFlags>),
    /// Lock and unlock, one lock for each worker
    MutexUncontended(Flags<HoldTimeFlags>),
    /// Lock and unlock, one lock for all workers, one session each
    MutexContended(Flags<HoldTimeFlags>),
    /// Campaign and resign, one election for each worker
    ElectionCycle(Flags<HoldTimeFlags>),
    /// Campaign and resign, one election for all workers, one session each
    ElectionHandoff(Flags<HoldTimeFlags>),
    /// Proclaim a value and wait until an observer on another connection receives it; one worker
    ElectionObserve(Flags<NoFlags>),
    /// Move 1 between two accounts in a transaction
    StmTransfer(Flags<TransferFlags>),
    /// Add 1 to a counter of all workers in a transaction
    StmCounter(Flags<StmFlags>),
    #[command(flatten)]
    Recipe(RecipeCommand),
    #[command(external_subcommand)]
    Unknown(Vec<String>),
}

impl Bench {
    /// Runs the workload and prints its report.
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        match self.workload {
            WorkloadCommand::RawPut(flags) => run_raw("raw-put", RawRequest::Put, flags).await,
            WorkloadCommand::RawGet(flags) => run_raw("raw-get", RawRequest::Get, flags).await,
            WorkloadCommand::RawGetStale(flags) => {
                run_raw("raw-get-stale", RawRequest::GetStale, flags).await
            }
            WorkloadCommand::RawTxn(flags) => run_raw("raw-txn", RawRequest::Txn, flags).await,
            WorkloadCommand::SessionCycle(Flags { run, own }) => {
                run_and_print("session-cycle", &run, SessionCycle { ttl: own.ttl() }).await
            }
            WorkloadCommand::MutexUncontended(flags) => {
                run_lock_cycle("mutex-uncontended", Sharing::PerWorker, flags, mutex).await
            }
            WorkloadCommand::MutexContended(flags) => {
                run_lock_cycle("mutex-contended", CONTENDED, flags, mutex).await
            }
            WorkloadCommand::ElectionCycle(flags) => {
                run_lock_cycle("election-cycle", Sharing::PerWorker, flags, Candidate::new).await
            }
            WorkloadCommand::ElectionHandoff(flags) => {
                run_lock_cycle("election-handoff", CONTENDED, flags, Candidate::new).await
            }
            WorkloadCommand::ElectionObserve(Flags { run, own: NoFlags {} }) => {
                if run.workers.get() > 1 {
                    return Err(ExitError::usage(
                        "election-observe runs with one worker: use --workers 1",
                    ));
                }
                run_and_print("election-observe", &run, ObserveWorkload).await
            }
            WorkloadCommand::StmTransfer(Flags { run, own }) => {
                run_and_print("stm-transfer", &run, StmWorkload::transfer(own.accounts, own.stm))
                    .await
            }
            WorkloadCommand::StmCounter(Flags { run, own }) => {
                run_and_print("stm-counter", &run, StmWorkload::counter(own)).await
            }
            WorkloadCommand::Recipe(recipe) => recipe.run().await,
            WorkloadCommand::Unknown(words) => Err(ExitError::usage(format!(
                "unknown workload {:?}: use one of {}",
                words.first().map_or("", String::as_str),
                workloads().join(" ")
            ))),
        }
    }
}

/// The names of the workloads on the command line.
fn workloads() -> Vec<String> {
    let all = WorkloadCommand::augment_subcommands(clap::Command::new("bench"));
    all.get_subcommands().map(|workload| workload.get_name().to_owned()).collect()
}

/// Runs a `raw-*` workload.
async fn run_raw(
    name: &str,
    request: RawRequest,
    Flags { run, own }: Flags<RawFlags>,
) -> Result<(), ExitError> {
    run_and_print(name, &run, RawWorkload { request, keys: own.keys, val_size: own.val_size }).await
}

/// How workers share one lock or election.
const CONTENDED: Sharing = Sharing::Contended { holders: 1 };

/// Creates the lock of a worker.
fn mutex(session: &Session, name: String, _worker: usize) -> Mutex {
    Mutex::new(session, name)
}

/// Runs a workload in which workers acquire and release locks or leaderships.
async fn run_lock_cycle<L: LockLike>(
    name: &str,
    sharing: Sharing,
    Flags { run, own }: Flags<HoldTimeFlags>,
    create: impl Fn(&Session, String, usize) -> L + Send + Sync + 'static,
) -> Result<(), ExitError> {
    run_and_print(name, &run, LockCycle::new(sharing, &own, create)).await
}

/// Measures a workload within the time limit, and prints the report.
async fn run_and_print<W: Workload>(
    name: &str,
    flags: &RunFlags,
    workload: W,
) -> Result<(), ExitError> {
    let limit = flags.timeout.unwrap_or(Duration::from_secs(120) + 2 * flags.duration);
    let Ok(report) = timeout(limit, measure(name, flags, workload)).await else {
        let message = format!("timed out after {limit:?}: see --timeout");
        return Err(ExitError::new(ExitError::TIMED_OUT, message));
    };
    let report = report?;
    let printed = if flags.json || !std::io::stdout().is_terminal() {
        serde_json::to_string(&report).context("the report as JSON")?
    } else {
        report.table()
    };
    print(printed)?;
    Ok(())
}

/// One run, from the first connection to the report.
async fn measure<W: Workload>(name: &str, flags: &RunFlags, workload: W) -> Result<Report> {
    let store = Store::connect(&flags.store, flags.conns(), &flags.prefix, name).await?;
    let mut workers = Vec::new();
    for number in 0..flags.workers.get() {
        workers.push(workload.worker(&store, number).await.context("set-up")?);
    }
    if let Some(limit) = PhaseLimit::of_warm_up(flags) {
        workload.begin_phase();
        workers = Phase::new(limit).run("warm-up", workers).await.context("warm-up")?.workers;
    }
    let before = store.settle_and_scrape().await?;
    workload.begin_phase();
    let cpu_before = cpu_time();
    let mut phase = Phase::new(PhaseLimit::of_measurement(flags)).run("measuring", workers).await?;
    let cpu = cpu_time().saturating_sub(cpu_before);
    let after = store.settle_and_scrape().await?;

    let operations = phase.operations();
    if operations == 0 {
        bail!("no operation completed: give a longer --duration");
    }
    let fields = workload.check(&store, operations).await.context("invariant")?;
    let report = Report {
        impl_name: "coord",
        impl_version: concat!("coord ", env!("CARGO_PKG_VERSION")),
        workload: name.to_owned(),
        workers: flags.workers.get(),
        conns: flags.conns(),
        run: flags.run,
        tag: flags.tag.clone(),
        server_version: after.as_ref().and_then(|after| after.version.clone()),
        ops: operations,
        elapsed_s: stats::round_to(phase.elapsed.as_secs_f64(), 4),
        ops_per_s: stats::round_to(operations as f64 / phase.elapsed.as_secs_f64(), 1),
        fairness: Fairness::of(&phase.by_worker()),
        latency_us: phase.summaries(),
        server: before.zip(after).map(|(before, after)| after.since(&before, operations)),
        client_cpu_us_per_op: stats::round_to(cpu.as_secs_f64() * 1e6 / operations as f64, 2),
        fields,
    };
    for worker in phase.workers {
        worker.tear_down().await.context("tear-down")?;
    }
    store.clean_up().await.context("tear-down")?;
    Ok(report)
}

/// The processor time of this process so far: all threads, user and system.
fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

/// Pauses, so that requests in flight reach the server, above all the cancellation of watches.
async fn settle() {
    sleep(Duration::from_millis(60)).await;
}
