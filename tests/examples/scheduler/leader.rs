//! The leader: assigns jobs to workers.

use std::time::Duration;

use coord_core::election::Leadership;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{Member, PrefixCache};
use coord_core::{Client, Election, Session};
use tokio::time::sleep;

use super::config::Config;
use super::jobs::{BOARD_PREFIX, Board, Result, TTL, assigned_key, workers};

/// How often the leader plans: new jobs, workers that join or leave, and changes of the
/// configuration.
const PLAN_INTERVAL: Duration = Duration::from_secs(1);
/// How many jobs each worker may have at once, unless the configuration has another number.
const DEFAULT_JOBS_PER_WORKER: usize = 2;

/// Waits for the leadership, and assigns jobs until all are done. What `elected` returns is dropped
/// when the process does not lead any more. After an error, start the process again.
pub(crate) async fn run<T: Send>(
    client: &Client,
    name: &str,
    elected: impl FnOnce(&Leadership) -> T + Send,
) -> Result<()> {
    let session = Session::builder(client).ttl(TTL).open().await?;
    let leadership = Election::new(&session, "scheduler").campaign(name).await?;
    let leading = elected(&leadership);
    leadership.run_while_held(lead(client, &leadership)).await??;
    drop(leading);
    leadership.resign().await?;
    session.close().await?;
    Ok(())
}

async fn lead(client: &Client, leadership: &Leadership) -> Result<()> {
    let config = Config::open(client).await?;
    let jobs = PrefixCache::open(client, BOARD_PREFIX).await?;
    let members = workers(client).members().await?;
    loop {
        // Consistent reads: the board has the assignments of the last round.
        let board = Board::of(&jobs.read().await?)?;
        if board.is_finished() {
            return Ok(());
        }
        let workers =
            members.read().await?.iter().map(Member::metadata).collect::<Result<_, _>>()?;
        let at_once = config.number("jobs-per-worker", DEFAULT_JOBS_PER_WORKER);
        for (id, worker) in board.plan(&workers, at_once) {
            // The store refuses the assignment of a former leader.
            let assignment = Put::new(assigned_key(id), worker.to_owned());
            leadership.txn(Txn::new().and_then([assignment])).await?;
        }
        sleep(PLAN_INTERVAL).await;
    }
}
