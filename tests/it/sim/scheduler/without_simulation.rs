//! The scheduler on a store without a simulation, with the faults of a list that was shrunk in one.
//!
//! A list names a request by its number, so `worker-1` must send the same requests as in the
//! simulation. It does if the leader starts when both workers have joined, because it then assigns
//! the jobs in the same way, and if `worker-1` commits its result between the first and the second
//! keep-alive of its lease, at 3.3 s and 6.7 s:
//!
//! ```text
//! worker-1   grant 1, join 2, … |            | enqueue 6, … | keep-alive 9 | commit 12
//! leader                        | assign all |
//! time       0 s                                              3.3 s          4 s
//! ```

use std::sync::Arc;
use std::time::Duration;

use coord_core::Client;
use coord_core::recipes::PrefixCache;
use coord_testkit::Intercept;
use coord_testkit::sim::Deviations;
use tokio::time::sleep;

use super::jobs::{self, BOARD_PREFIX, Board, Job};
use super::leader;
use super::worker::{self, Recording};

pub(super) const JOBS: [(&str, u64); 3] = [("backup", 4), ("invoices", 2), ("report", 3)];
/// The units of all jobs.
pub(super) const TOTAL: u64 = 9;
/// The total if the job `backup` counts twice.
pub(super) const TOTAL_WITH_A_JOB_TWICE: u64 = 13;
/// What the failure of the scheduler without the lock's condition shrinks to: the commit of
/// `worker-1` is late.
pub(super) const SHRUNK_LIST: &str = "worker-1.request#12=4/11";

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
        leader::run(&client(name), name, |_| ()).await.expect("no fault");
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
    let jobs = PrefixCache::open(store, BOARD_PREFIX).await.expect("the store is available");
    Board::of(&jobs.snapshot()).expect("the values are valid").total
}

/// Waits until both workers have joined.
async fn wait_for_workers(store: &Client) {
    let workers = jobs::workers(store).members().await.expect("the store is available");
    let mut joined = workers.events();
    while joined.members().len() < 2 {
        joined.next().await.expect("the list is open").expect("the store is available");
    }
}
