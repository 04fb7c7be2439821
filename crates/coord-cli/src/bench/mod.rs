//! `coord bench`: how fast the primitives are on a store, and what they cost it.
//!
//! It takes the command line and prints the JSON of the Go program that measures etcd's own
//! `concurrency` package, so that one script can run both and compare. A run is:
//!
//! ```text
//! connect, set up     one backend per connection, one worker per `--workers`, not measured
//! warm up             the same operations, not counted
//! settle, scrape      the server's counters, once cancelled watches have reached it
//! measure             every worker repeats its operation until time or count is up
//! settle, scrape      the difference, by operation, is what the server had to do
//! judge, report       a broken invariant fails the run, whatever its speed
//! ```
//!
//! What is measured is what a user would write: a workload knows nothing of the adapter, and the
//! clock is read outside of the calls. The parts:
//!
//! - `flags`: the command line;
//! - `store`: what the workloads work on;
//! - `workload`: the operations, one file each;
//! - `phase`: workers at work, and what they note; `progress`: how far they are;
//! - `metrics`: the server's counters, and `scrape`: how to ask for them;
//! - `figures`: percentiles and fairness;
//! - `report`: what is printed.

mod figures;
mod flags;
mod metrics;
mod notes;
mod phase;
mod progress;
mod report;
mod scrape;
mod store;
mod workload;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use coord_core::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{sleep, timeout};

use crate::end::{End, print};
use figures::Fairness;
use flags::{Flags, HoldFlags, NoFlags, RawFlags, RunFlags, SessionFlags, StmFlags, TransferFlags};
use phase::{Limit, Phase};
use report::Report;
use store::Store;
use workload::election::{Campaigner, Observing};
use workload::raw::{Call, Raw};
use workload::session::SessionCycle;
use workload::stm::Changes;
use workload::turns::{Claim, Turns};
use workload::{Worker, Workload};

/// Measure the primitives on a store, and what they cost it.
///
/// One line of JSON is printed, or a table if standard output is a terminal.
#[derive(Args, Debug)]
#[command(
    subcommand_value_name = "WORKLOAD",
    subcommand_help_heading = "Workloads",
    after_help = AFTER_HELP,
)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  coord bench mutex-contended --endpoint mem: --workers 8
      in memory, in this process: what the primitives themselves cost
  coord bench mutex-contended --endpoint 127.0.0.1:2379 --workers 8 --duration 3s
      on an etcd
  coord bench raw-put --count 1000 --json
      a thousand puts, as JSON
  coord bench mutex-contended --help
      the flags of a workload

Keys are put under `--prefix` and deleted at the end, unless the run fails or times out.

Exit status:
  0  done
  1  it failed, or an invariant was broken
  2  the command line is wrong
  3  timed out";

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a key
    RawPut(Flags<RawFlags>),
    /// Read a key
    RawGet(Flags<RawFlags>),
    /// Read a key, from whichever member is asked
    RawGetStale(Flags<RawFlags>),
    /// Put a key and read it, if it exists, in one transaction
    RawTxn(Flags<RawFlags>),
    /// Open a session and close it
    SessionCycle(Flags<SessionFlags>),
    /// Lock and unlock, a lock for each worker
    MutexUncontended(Flags<HoldFlags>),
    /// Lock and unlock, one lock for all workers, a session each
    MutexContended(Flags<HoldFlags>),
    /// Campaign and resign, an election for each worker
    ElectionCycle(Flags<HoldFlags>),
    /// Campaign and resign, one election for all workers, a session each
    ElectionHandoff(Flags<HoldFlags>),
    /// Proclaim until an observer on a connection of its own is shown it; one worker
    ElectionObserve(Flags<NoFlags>),
    /// Move 1 between two accounts, in a transaction
    StmTransfer(Flags<TransferFlags>),
    /// Add 1 to a number that all workers share, in a transaction
    StmCounter(Flags<StmFlags>),
    #[command(external_subcommand)]
    Unknown(Vec<String>),
}

impl Bench {
    /// Runs the workload and prints what it found.
    pub(crate) async fn run(self) -> Result<(), End> {
        match self.command {
            Command::RawPut(flags) => raw("raw-put", Call::Put, flags).await,
            Command::RawGet(flags) => raw("raw-get", Call::Get, flags).await,
            Command::RawGetStale(flags) => raw("raw-get-stale", Call::GetStale, flags).await,
            Command::RawTxn(flags) => raw("raw-txn", Call::Txn, flags).await,
            Command::SessionCycle(Flags { run, own }) => {
                timed("session-cycle", &run, SessionCycle { ttl: own.ttl() }).await
            }
            Command::MutexUncontended(flags) => apart::<Mutex>("mutex-uncontended", flags).await,
            Command::MutexContended(flags) => shared::<Mutex>("mutex-contended", flags).await,
            Command::ElectionCycle(flags) => apart::<Campaigner>("election-cycle", flags).await,
            Command::ElectionHandoff(flags) => {
                shared::<Campaigner>("election-handoff", flags).await
            }
            Command::ElectionObserve(Flags { run, own: NoFlags {} }) => {
                if run.workers.get() > 1 {
                    return Err(End::misused("election-observe takes one worker"));
                }
                timed("election-observe", &run, Observing).await
            }
            Command::StmTransfer(Flags { run, own }) => {
                timed("stm-transfer", &run, Changes::transfer(own.accounts, own.stm)).await
            }
            Command::StmCounter(Flags { run, own }) => {
                timed("stm-counter", &run, Changes::count(own)).await
            }
            Command::Unknown(words) => Err(End::misused(format!(
                "there is no workload {:?}; there are: {}",
                words.first().map_or("", String::as_str),
                workloads().join(" ")
            ))),
        }
    }
}

/// The names of the workloads, as the command line takes them.
fn workloads() -> Vec<String> {
    let all = Command::augment_subcommands(clap::Command::new("bench"));
    all.get_subcommands().map(|workload| workload.get_name().to_owned()).collect()
}

async fn raw(name: &str, call: Call, Flags { run, own }: Flags<RawFlags>) -> Result<(), End> {
    timed(name, &run, Raw { call, keys: own.keys, val_size: own.val_size }).await
}

/// Every worker takes turns with itself alone.
async fn apart<C: Claim>(name: &str, Flags { run, own }: Flags<HoldFlags>) -> Result<(), End> {
    timed(name, &run, Turns::<C>::apart(own.session.ttl(), own.hold)).await
}

/// All workers take turns.
async fn shared<C: Claim>(name: &str, Flags { run, own }: Flags<HoldFlags>) -> Result<(), End> {
    timed(name, &run, Turns::<C>::shared(own.session.ttl(), own.hold)).await
}

/// Measures, as long as there is time, and prints what was found.
async fn timed<W: Workload>(name: &str, flags: &RunFlags, workload: W) -> Result<(), End> {
    let limit = flags.timeout.unwrap_or(Duration::from_secs(120) + 2 * flags.duration);
    let Ok(measured) = timeout(limit, measured(name, flags, workload)).await else {
        return Err(End::new(End::TIMED_OUT, "timed out"));
    };
    let report = measured?;
    let printed = if flags.json || !std::io::stdout().is_terminal() {
        serde_json::to_string(&report).context("the report as JSON")?
    } else {
        report.table()
    };
    print(printed)?;
    Ok(())
}

/// One run, from the first connection to the report.
async fn measured<W: Workload>(name: &str, flags: &RunFlags, workload: W) -> Result<Report> {
    let store = Store::connect(&flags.store, flags.conns(), &flags.prefix, name).await?;
    let mut workers = Vec::new();
    for number in 0..flags.workers.get() {
        workers.push(workload.worker(&store, number).await.context("set-up")?);
    }
    if let Some(limit) = Limit::of_warm_up(flags) {
        workload.begin();
        workers = Phase::new(limit).run("warm-up", workers).await.context("warm-up")?.workers;
    }
    let before = store.settled().await?;
    workload.begin();
    let cpu_before = cpu_time();
    let mut phase = Phase::new(Limit::of_measurement(flags)).run("measuring", workers).await?;
    let cpu = cpu_time().saturating_sub(cpu_before);
    let after = store.settled().await?;

    let operations = phase.operations();
    if operations == 0 {
        bail!("no operation completed");
    }
    let facts = workload.judged(&store, operations).await.context("invariant")?;
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
        elapsed_s: figures::rounded(phase.elapsed.as_secs_f64(), 4),
        ops_per_s: figures::rounded(operations as f64 / phase.elapsed.as_secs_f64(), 1),
        fairness: Fairness::of(&phase.by_worker()),
        latency_us: phase.summaries(),
        server: before.zip(after).map(|(before, after)| after.since(&before, operations)),
        client_cpu_us_per_op: figures::rounded(cpu.as_secs_f64() * 1e6 / operations as f64, 2),
        facts,
    };
    for worker in phase.workers {
        worker.leave().await.context("tear-down")?;
    }
    store.clean_up().await.context("tear-down")?;
    Ok(report)
}

/// Processor time that this process has taken so far, all threads, user and system.
fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

/// Lets what the workers set off reach the server: cancelled watches, above all.
async fn settle() {
    sleep(Duration::from_millis(60)).await;
}
