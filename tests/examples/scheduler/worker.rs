//! A worker: executes the jobs that are assigned to it, and records each result once.

use coord_core::mutex::MutexGuard;
use coord_core::recipes::PrefixCache;
use coord_core::stm::Transaction;
use coord_core::{Client, Mutex, Session, Stm};

use super::jobs::{BOARD_PREFIX, Board, Job, Result, TOTAL_KEY, TTL, done_key, workers};

/// When the store accepts a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recording {
    /// While the worker holds the lock of the job.
    WhileHeld,
    /// Always: the bug that `docs/guide/simulation.md` describes.
    #[allow(dead_code, reason = "only the test with faults has the bug")]
    Always,
}

/// Executes jobs until all are done. `execute` is called with each job, while its lock is held.
/// After an error, start the process again.
pub(crate) async fn run<F: Future + Send>(
    client: &Client,
    name: &str,
    recording: Recording,
    execute: impl Fn(&Job, &MutexGuard) -> F + Send + Sync,
) -> Result<()> {
    let session = Session::builder(client).ttl(TTL).open().await?;
    let member = workers(client).join(&session, &name.to_owned()).await?;
    // After a loss, the leader assigns the jobs to other workers.
    member.run_while_held(work(&session, name, recording, execute)).await??;
    member.leave().await?;
    session.close().await?;
    Ok(())
}

async fn work<F: Future + Send>(
    session: &Session,
    name: &str,
    recording: Recording,
    execute: impl Fn(&Job, &MutexGuard) -> F + Send + Sync,
) -> Result<()> {
    let client = session.client();
    let jobs = PrefixCache::open(client, BOARD_PREFIX).await?;
    let mut changes = jobs.changes();
    loop {
        // The board in memory may be late, so the lock and the store decide what is executed.
        let board = Board::of(&jobs.snapshot())?;
        // A job may have been submitted since: a consistent read confirms that none is open.
        if board.is_finished() && Board::of(&jobs.read().await?)?.is_finished() {
            return Ok(());
        }
        for job in board.assigned_to(name) {
            let guard = Mutex::new(session, format!("lock/{}", job.id)).lock().await?;
            // This worker, or one that had the job before, may have done it.
            if client.get(done_key(&job.id)).await?.is_none() {
                guard.run_while_held(execute(job, &guard)).await?;
                record(client, &guard, job, name, recording).await?;
            }
            guard.unlock().await?;
        }
        // The stream has every change since it was opened, also those during an execution.
        changes.next().await.transpose()?;
    }
}

/// Marks a job as done and adds its units to the total, in one transaction.
async fn record(
    client: &Client,
    guard: &MutexGuard,
    job: &Job,
    worker: &str,
    recording: Recording,
) -> Result<()> {
    let (job, worker) = (job.clone(), worker.to_owned());
    let (lock_key, token) = (guard.key().clone(), guard.fencing_token());
    let result = async move |tx: &mut Transaction| -> Result<()> {
        // The transaction has read the key of the lock, so it commits only if the lock is held.
        if recording == Recording::WhileHeld
            && tx.revision_of(lock_key.clone()).await? != Some(token.0)
        {
            return Err(format!("the lock of {} is lost", job.id).into());
        }
        let total: Option<String> = tx.get_as(TOTAL_KEY).await?;
        let total: u64 = total.map_or(Ok(0), |total| total.parse())?;
        tx.put(TOTAL_KEY, (total + job.units).to_string());
        tx.put(done_key(&job.id), worker.clone());
        Ok(())
    };
    Stm::new(client).run(result).await?;
    Ok(())
}
