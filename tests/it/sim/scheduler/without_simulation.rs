//! The scheduler on a store without a simulation, with the faults of a list that was shrunk in one.
//!
//! A list names a request by its number, so `worker-1` must send the same requests as in the
//! simulation. It does if the leader assigns the jobs after the workers have read the board once,
//! and before they read it again, a second later:
//!
//! ```text
//! worker-1   grant 1, register 2, read 3 |            | read 4, enqueue 5, …      | commit 11
//! leader                                 | assign all |
//! time       0 s                                        1 s                         4 s
//! ```

use std::sync::Arc;
use std::time::Duration;

use coord_core::Client;
use coord_testkit::Intercept;
use coord_testkit::sim::Deviations;
use tokio::time::sleep;

use super::config::Config;
use super::jobs::{self, Board, Job};
use super::leader;
use super::worker::{self, Recording};

pub(super) const JOBS: [(&str, u64); 3] = [("backup", 3), ("invoices", 2), ("report", 4)];
/// The units of all jobs.
pub(super) const TOTAL: u64 = 9;
/// The total if the job `backup` counts twice.
pub(super) const TOTAL_WITH_A_JOB_TWICE: u64 = 12;
/// What the failure of the scheduler without the lock's condition shrinks to: the commit of
/// `worker-1` is late.
pub(super) const SHRUNK_LIST: &str = "worker-1.request#11=4/11";

/// How long a worker needs at most for its first read of the board after its registration, and the
/// leader for the assignments.
const MARGIN: Duration = Duration::from_millis(300);

/// The timeout of a request in the simulation.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

/// Runs the jobs on a store, with the faults of `list` in the first life of each process. Returns
/// the total.
pub(super) async fn run_jobs_on(store: &Client, list: &Deviations, recording: Recording) -> u64 {
    for (id, units) in JOBS {
        jobs::submit(store, id, units).await.expect("the store is available");
    }
    let client = |name: &str| {
        let rule = list.rule(name).expect("the list has only messages");
        Client::new(Intercept::new(Arc::clone(store.backend()), rule).timeout(REQUEST_TIMEOUT))
    };
    let schedule = async |name: &str| {
        let (client, config) = (client(name), Config::default());
        tokio::select! {
            biased;
            never = config.follow(&client) => match never {},
            result = leader::run(&client, name, &config, |_| ()) => result.expect("no fault"),
        }
    };
    let work = async |name: &str| {
        let execute = |job: &Job, _: &_| sleep(Duration::from_secs(job.units));
        // The client owns the requests that are late, so it must outlive the first life.
        let first = client(name);
        if worker::run(&first, name, recording, execute).await.is_err() {
            sleep(Duration::from_secs(1)).await;
            let second = Client::new(Arc::clone(store.backend()));
            worker::run(&second, name, recording, execute).await.expect("no fault");
        }
    };
    let schedulers = async {
        wait_for_workers(store).await;
        tokio::join!(schedule("scheduler-1"), schedule("scheduler-2"))
    };
    tokio::join!(schedulers, work("worker-1"), work("worker-2"));
    Board::read(store).await.expect("the store is available").total
}

/// Waits until both workers are registered and have read the board once.
async fn wait_for_workers(store: &Client) {
    while store.get_prefix(jobs::worker_key("")).await.expect("the store is available").len() < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(MARGIN).await;
}
