//! A job scheduler: a leader assigns jobs to workers, and each job counts exactly once.
//!
//! | primitive | what for |
//! |---|---|
//! | election | two schedulers campaign, and the leader assigns the jobs |
//! | membership | the leader assigns jobs to the workers that run |
//! | prefix cache | the leader and the workers have the jobs in memory, and the configuration |
//! | lock | one worker at a time executes a job |
//! | transaction | a result is added to the total, while the worker holds the lock of the job |
//!
//! The example `orders` combines membership and the prefix cache with the other recipes for shared
//! work: the shard assignment, the message queue and the rate limiter.
//!
//! `cargo run --example scheduler` runs all of that on a store in memory, on virtual time.
//! `tests/it/sim/scheduler.rs` runs the same modules under every fault, as
//! `docs/guide/simulation.md` describes.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

mod config;
mod jobs;
mod leader;
mod worker;

use std::time::Duration;

use coord_core::Client;
use coord_core::recipes::PrefixCache;
use coord_mem::MemBackend;
use tokio::time::{Instant, sleep};

use config::Config;
use jobs::{BOARD_PREFIX, Board, Job, Result};
use worker::Recording;

/// How long a worker needs for each unit of a job, unless the configuration has another value.
const DEFAULT_UNIT_MS: u64 = 1_000;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let store = MemBackend::new();
    let operator = Client::new(store.clone());
    for (id, units) in [("backup", 5), ("invoices", 3), ("newsletter", 2), ("report", 4)] {
        jobs::submit(&operator, id, units).await?;
    }
    operator.put("config/unit-ms", "500").await?;
    let jobs = PrefixCache::open(&operator, BOARD_PREFIX).await?;

    let started = Instant::now();
    // Each process has a client of its own.
    let [one, two, three, four] = [(); 4].map(|()| Client::new(store.clone()));
    tokio::try_join!(
        schedule(&one, "scheduler-1", started),
        schedule(&two, "scheduler-2", started),
        work(&three, "worker-1", started),
        work(&four, "worker-2", started),
    )?;

    let board = Board::of(&jobs.read().await?)?;
    let done = board.done.iter().map(|(id, worker)| format!("{id} by {worker}"));
    println!("done: {}", done.collect::<Vec<_>>().join(", "));
    println!("total: {} units", board.total);
    Ok(())
}

/// A process that is the leader, or waits until it is.
async fn schedule(client: &Client, name: &str, started: Instant) -> Result<()> {
    let elected = |_: &_| println!("{:4.1} s  {name} leads", started.elapsed().as_secs_f64());
    leader::run(client, name, elected).await
}

/// A process that executes the jobs that are assigned to it.
async fn work(client: &Client, name: &str, started: Instant) -> Result<()> {
    let config = Config::open(client).await?;
    let execute = |job: &Job, _: &_| {
        let time = Duration::from_millis(job.units * config.number("unit-ms", DEFAULT_UNIT_MS));
        println!("{:4.1} s  {name} executes {}", started.elapsed().as_secs_f64(), job.id);
        sleep(time)
    };
    worker::run(client, name, Recording::WhileHeld, execute).await
}
