//! The leader: assigns jobs to workers.

use coord_core::election::Leadership;
use coord_core::kv::{Put, Txn};
use coord_core::{Client, Election, Session};
use tokio::time::sleep;

use super::config::Config;
use super::jobs::{Board, POLL_INTERVAL, Result, TTL, assigned_key};

/// How many jobs each worker may have at once, unless the configuration has another number.
const DEFAULT_JOBS_PER_WORKER: usize = 2;

/// Waits for the leadership, and assigns jobs until all are done. What `elected` returns is dropped
/// when the process does not lead any more. After an error, start the process again.
pub(crate) async fn run<T: Send>(
    client: &Client,
    name: &str,
    config: &Config,
    elected: impl FnOnce(&Leadership) -> T + Send,
) -> Result<()> {
    let session = Session::builder(client).ttl(TTL).open().await?;
    let leadership = Election::new(&session, "scheduler").campaign(name).await?;
    let leading = elected(&leadership);
    leadership.run_while_held(lead(client, &leadership, config)).await??;
    drop(leading);
    leadership.resign().await?;
    session.close().await?;
    Ok(())
}

async fn lead(client: &Client, leadership: &Leadership, config: &Config) -> Result<()> {
    loop {
        let board = Board::read(client).await?;
        if board.is_finished() {
            return Ok(());
        }
        for (id, worker) in board.plan(config.number("jobs-per-worker", DEFAULT_JOBS_PER_WORKER)) {
            // The store refuses the assignment of a former leader.
            let assignment = Put::new(assigned_key(id), worker.to_owned());
            leadership.txn(Txn::new().and_then([assignment])).await?;
        }
        sleep(POLL_INTERVAL).await;
    }
}
