//! The example `scheduler` under every fault, and a bug in it that a sweep finds.

#[path = "../../examples/scheduler/config.rs"]
mod config;
#[path = "../../examples/scheduler/jobs.rs"]
mod jobs;
#[path = "../../examples/scheduler/leader.rs"]
mod leader;
mod without_simulation;
#[path = "../../examples/scheduler/worker.rs"]
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_core::Client;
use coord_core::recipes::PrefixCache;
use coord_mem::MemBackend;
use coord_testkit::sim::{Deviations, Exclusive, Process, Sim, Sweep};
use tokio::time::sleep;

use super::print;
use super::simulator::replayed;
use crate::support::secs;
use jobs::{BOARD_PREFIX, Board, Result};
use without_simulation::{JOBS, SHRUNK_LIST, TOTAL, TOTAL_WITH_A_JOB_TWICE, run_jobs_on};
use worker::Recording;

async fn schedule(process: Process, leaders: Exclusive) -> Result<()> {
    let elected = |leadership: &_| leaders.enter(&process, leadership);
    leader::run(process.client(), process.name(), elected).await
}

async fn work(process: Process, checks: Checks, recording: Recording) -> Result<()> {
    let execute = |job: &jobs::Job, guard: &_| {
        checks.executions.fetch_add(1, Ordering::Relaxed);
        let executing = checks.sim.exclusive(&job.id).enter(&process, guard);
        let time = secs(job.units);
        async move {
            sleep(time).await;
            drop(executing);
        }
    };
    worker::run(process.client(), process.name(), recording, execute).await
}

/// What the workers of one run have in common.
#[derive(Clone)]
struct Checks {
    sim: Sim,
    executions: Arc<AtomicUsize>,
}

/// Starts a scheduler and a worker.
fn start(sim: &Sim, number: u32, leaders: &Exclusive, checks: &Checks, recording: Recording) {
    let leaders = leaders.clone();
    sim.service(&format!("scheduler-{number}"), move |process| schedule(process, leaders.clone()));
    let checks = checks.clone();
    sim.service(&format!("worker-{number}"), move |process| {
        work(process, checks.clone(), recording)
    });
}

/// Two schedulers and two workers, until all jobs are done.
async fn run_jobs(sim: Sim, recording: Recording) -> Result<()> {
    let client = sim.client().clone();
    for (id, units) in JOBS {
        jobs::submit(&client, id, units).await?;
    }
    let jobs = PrefixCache::open(&client, BOARD_PREFIX).await?;
    let leaders = sim.exclusive("at most one leader");
    let checks = Checks { sim: sim.clone(), executions: Arc::default() };
    start(&sim, 1, &leaders, &checks, recording);
    start(&sim, 2, &leaders, &checks, recording);
    let healed = async {
        while !sim.is_healed() {
            sleep(secs(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = sim.join() => {}
        () = healed => {}
    }
    if !Board::of(&jobs.read().await?)?.is_finished() {
        // Processes have crashed for good. Their replacements meet no fault.
        sim.heal();
        start(&sim, 3, &leaders, &checks, recording);
    }
    // Every process ends when all jobs are done.
    sim.join().await;

    let board = Board::of(&jobs.read().await?)?;
    if !board.is_finished() {
        return Err(format!("a job is not done: {board:?}").into());
    }
    if board.total != TOTAL {
        return Err(format!("the total is {} units, not {TOTAL}", board.total).into());
    }
    let executions = checks.executions.load(Ordering::Relaxed);
    sim.sometimes("a job is executed twice", executions > JOBS.len());
    Ok(())
}

#[test]
fn scheduler_counts_each_job_once_under_every_fault() {
    let sweep = Sweep::new("scheduler_counts_each_job_once_under_every_fault").seeds(300);
    print("scheduler", &sweep.run(|sim| run_jobs(sim, Recording::WhileHeld)));
}

/// The bug of `docs/guide/simulation.md`, and its shrunk report.
#[test]
fn scheduler_without_the_lock_condition_counts_a_job_twice() {
    let sweep = Sweep::new("scheduler_without_the_lock_condition_counts_a_job_twice");
    let report = sweep.seeds(1_000).check(|sim| run_jobs(sim, Recording::Always));
    let report = report.expect_err("a seed finds the bug");
    assert!(report.deviations.0.len() <= 3, "{report}");
    assert_eq!(report.failure.oracle, "scenario");
    assert!(report.failure.text.starts_with("the total is 1"), "{report}");
    let test = format!("sim::scheduler::{}", report.sweep);
    let command = format!("COORD_SIM='{}' cargo test {test} -- --exact", report.deviations);
    assert!(report.to_string().contains(&command), "{report}");
}

/// The guide shows the report of a run. The seed and the number of runs in it are examples.
#[test]
fn report_in_the_guide_is_that_of_a_run() {
    let page = include_str!("../../../docs/guide/simulation.md");
    let name = "scheduler_without_the_lock_condition_counts_a_job_twice";
    let list = SHRUNK_LIST.parse().unwrap();
    let mut report = replayed(name, &list, |sim| run_jobs(sim, Recording::Always));
    report.test = Some(format!("sim::scheduler::{name}"));
    let real = format!("{report}{}", report.history);
    let blocks = page.split("```text\n").skip(1).filter_map(|block| block.split("```").next());
    let shown = |block: &&str| block.starts_with("the sweep") || block.contains(" == #");
    let lines = blocks.filter(shown).flat_map(str::lines);
    let lines = lines.filter(|line| !line.starts_with("seed ") && !line.starts_with('…'));
    let missing: Vec<_> = lines.filter(|line| !real.contains(line)).collect();
    assert!(missing.is_empty(), "not in the report: {missing:#?}\n{real}");
}

#[test]
fn scheduler_with_the_lock_condition_survives_the_same_list() {
    let sweep = Sweep::new("scheduler_with_the_lock_condition_survives_the_same_list");
    sweep.replay(SHRUNK_LIST, |sim| run_jobs(sim, Recording::WhileHeld));
}

/// The failure is not an artefact of the simulator: the same request, if late, has the same effect
/// without it. `tests/etcd/cluster/scheduler.rs` replays the list on etcd.
#[tokio::test(start_paused = true)]
async fn shrunk_list_counts_a_job_twice_without_a_simulation_too() {
    let store = || Client::new(MemBackend::new());
    let list = SHRUNK_LIST.parse().unwrap();
    assert_eq!(run_jobs_on(&store(), &list, Recording::Always).await, TOTAL_WITH_A_JOB_TWICE);
    assert_eq!(run_jobs_on(&store(), &list, Recording::WhileHeld).await, TOTAL);
    assert_eq!(run_jobs_on(&store(), &Deviations::default(), Recording::Always).await, TOTAL);
}
