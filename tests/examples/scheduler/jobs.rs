//! The state of the scheduler: jobs, assignments and results, as keys of the store.
//!
//! ```text
//! batch/job/report          "4"          submitted: 4 units
//! batch/assigned/report     "worker-1"   by the leader
//! batch/done/report         "worker-1"   with the result, in one transaction
//! batch/total               "4"          the units of all jobs that are done
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::time::Duration;

use coord_core::Client;
use coord_core::recipes::{Membership, PrefixSnapshot};

pub(crate) type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

pub(crate) const BOARD_PREFIX: &str = "batch/";
pub(crate) const TOTAL_KEY: &str = "batch/total";

/// The TTL of the sessions: a process that is silent for longer has lost its jobs.
pub(crate) const TTL: Duration = Duration::from_secs(10);

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) units: u64,
}

pub(crate) fn assigned_key(id: &str) -> String {
    format!("{BOARD_PREFIX}assigned/{id}")
}

pub(crate) fn done_key(id: &str) -> String {
    format!("{BOARD_PREFIX}done/{id}")
}

/// The group of the workers that run. The metadata of each is its name.
pub(crate) fn workers(client: &Client) -> Membership<String> {
    Membership::new(client, "workers")
}

/// Adds a job.
pub(crate) async fn submit(client: &Client, id: &str, units: u64) -> Result<()> {
    client.put(format!("{BOARD_PREFIX}job/{id}"), units.to_string()).await?;
    Ok(())
}

/// All jobs, assignments and results, as of one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    jobs: Vec<Job>,
    assigned: BTreeMap<String, String>,
    /// The worker of each job that is done.
    pub(crate) done: BTreeMap<String, String>,
    /// The units of all jobs that are done.
    pub(crate) total: u64,
}

impl Board {
    /// The board in a snapshot of the keys with [`BOARD_PREFIX`].
    pub(crate) fn of(snapshot: &PrefixSnapshot) -> Result<Self> {
        let mut board = Self::default();
        for kv in snapshot.iter() {
            let key = String::from_utf8(kv.key[BOARD_PREFIX.len()..].to_vec())?;
            let value = String::from_utf8(kv.value.to_vec())?;
            match key.split_once('/') {
                Some(("job", id)) => {
                    board.jobs.push(Job { id: id.to_owned(), units: value.parse()? });
                }
                Some(("assigned", id)) => drop(board.assigned.insert(id.to_owned(), value)),
                Some(("done", id)) => drop(board.done.insert(id.to_owned(), value)),
                _ => board.total = value.parse()?,
            }
        }
        Ok(board)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.jobs.iter().all(|job| self.done.contains_key(&job.id))
    }

    /// The open jobs that are assigned to a worker.
    pub(crate) fn assigned_to<'a>(&'a self, worker: &'a str) -> impl Iterator<Item = &'a Job> {
        self.jobs.iter().filter(move |job| {
            let is_assigned = self.assigned.get(&job.id).is_some_and(|to| to == worker);
            is_assigned && !self.done.contains_key(&job.id)
        })
    }

    /// Assignments of jobs without a worker that runs: to the worker with the fewest jobs, up to
    /// `at_once` for each.
    pub(crate) fn plan<'a>(
        &'a self,
        workers: &'a BTreeSet<String>,
        at_once: usize,
    ) -> Vec<(&'a str, &'a str)> {
        let load = |worker| self.assigned_to(worker).count();
        let names = workers.iter().map(String::as_str);
        let mut loads: Vec<_> = names.map(|worker| (load(worker), worker)).collect();
        let mut plan = Vec::new();
        for job in &self.jobs {
            let assigned = self.assigned.get(&job.id);
            let has_worker = assigned.is_some_and(|worker| workers.contains(worker));
            if has_worker || self.done.contains_key(&job.id) {
                continue;
            }
            match loads.iter_mut().min() {
                Some((load, worker)) if *load < at_once => {
                    *load += 1;
                    plan.push((job.id.as_str(), *worker));
                }
                _ => break,
            }
        }
        plan
    }
}
