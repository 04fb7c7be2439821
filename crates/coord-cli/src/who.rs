//! `coord who`: prints the contenders of a lock or election, the holder first.
//!
//! The store records no clock time with a key, so the age of a contender is unknown. Two figures
//! replace it. The first is the number of revisions since its key was created. The second is an
//! upper bound for the time since its lease was refreshed, which shows whether the contender still
//! sends keep-alives:
//!
//! ```text
//! TTL 10 s, remaining 7 s, rounded down     refreshed at most 3 s ago
//! ```
//!
//! After a change of the cluster's leader every lease has its full TTL again, which looks like a
//! refresh.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use coord_core::{
    Client,
    kv::{KeyValue, LeaseStatus, LeaseTimeToLive, OpResponse, Range, RangeResponse, Txn},
    recipes::semaphore::admitted,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::exit::{ExitError, print};
use crate::queue::{QueueKeys, is_foreign};
use crate::store::{ENVIRONMENT_HELP, StoreFlags};
use crate::{positional, table, text};

/// How many leases are read at the same time.
const MAX_CONCURRENT_LEASE_READS: usize = 16;

/// Print the holder of a lock or the leader of an election, and the waiters in queue order.
///
/// Prints one line per contender: its position, `holds` for the first; its fencing token; how many
/// revisions the store has made since its key was created; the TTL of its lease, and an upper bound
/// for the time since the lease was refreshed; its key; and its value, which mutexes do not have.
/// Contenders of `etcdctl` and of Go's package are included. A foreign key directly below the name,
/// which is a key that no contender has created, blocks the contenders behind it: it is printed in
/// its place in the queue, with `foreign` as its position and without a token.
///
/// Of a semaphore `NAME`, such as that of `coord lock NAME --slots 3`, the queue is `NAME/permits`.
/// Each contender whose permits fit into the stored limit is printed as a holder, with their number
/// as its value. The queues of a read-write lock are `NAME/read` and `NAME/write`. Readers hold it
/// together, but only the first is printed as the holder.
///
/// The store records no clock time, so it is unknown how long a contender has waited. A contender
/// whose lease was refreshed longer ago than a third of its TTL is late with its keep-alive. When
/// the whole TTL has passed, the store deletes its key, and the next contender follows.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Who {
    /// Name of the lock or election
    #[arg(value_name = "NAME", value_parser = positional::name)]
    name: String,
    /// Print one JSON object: `name`, `revision`, and `contenders`, each with `position` (0 holds),
    /// `key`, `value`, `fencing_token`, `revisions_ago`, and `lease`, which is null or has `id`,
    /// `ttl_s`, `remaining_s` and `refreshed_s_ago_max`; and `foreign_keys`, each with the same
    /// fields but `fencing_token`, whose positions count in the queue
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord who nightly
      position  token  revisions ago  lease   refreshed  key                         value
         holds     17             42   10 s   ≤ 2 s ago  nightly/694d9b3a8c1e2f03-1
             1     23             36   60 s  ≤ 11 s ago  nightly/694d9b3a8c1e2f11
  coord break nightly
      take the lock away from its holder
  coord who nightly --json | jq '.contenders | length'
      count the contenders";

const EXIT_STATUS: &str = "\
Exit status:
  0  the queue has a holder, or a foreign key is first
  1  the store is unavailable, or refused a request
  2  usage error
  4  the queue is empty";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP, EXIT_STATUS].join("\n\n")
}

/// A contender or a foreign key as it is printed.
#[derive(Debug)]
struct QueueRow {
    kv: KeyValue,
    /// The place behind the holders, counted from 1 and with foreign keys; 0 for a holder, and for
    /// a foreign key in the place of a holder.
    position: usize,
    revisions_ago: i64,
    /// `None` if the key has no lease, or if the lease has just expired.
    lease: Option<LeaseStatus>,
}

impl Who {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        let client = self.store.connect().await?;
        let queue = QueueKeys::new(&self.name);
        let operation = || format!("read the queue of {}", self.name);
        let (read, limit) = read(&client, &queue).await.with_context(operation)?;
        let revision = read.header.revision;
        let rows = rows(&client, &queue, (read, limit)).await?;
        if self.json {
            let (foreign, contenders): (Vec<_>, Vec<_>) =
                rows.iter().partition(|row| is_foreign(&row.kv));
            let as_json = |rows: Vec<&QueueRow>| rows.into_iter().map(as_json).collect::<Vec<_>>();
            print(text::json_line(&json!({
                "name": self.name,
                "revision": revision.0,
                "contenders": as_json(contenders),
                "foreign_keys": as_json(foreign),
            })))?;
        } else if !rows.is_empty() {
            print(as_table(&rows))?;
        }
        match (rows.is_empty(), self.json) {
            (false, _) => Ok(()),
            (true, true) => Err(ExitError::silent(ExitError::NOT_HELD)),
            (true, false) => {
                let name = text::escape(self.name.as_bytes());
                Err(ExitError::new(
                    ExitError::NOT_HELD,
                    format!("{name} is not held, and no contender waits"),
                ))
            }
        }
    }
}

/// Reads the queue; also the limit, if it is the queue of a semaphore.
async fn read(
    client: &Client,
    queue: &QueueKeys,
) -> coord_core::Result<(RangeResponse, Option<KeyValue>)> {
    let limit = queue.limit_key().map(Range::new);
    let reads = [queue.in_order()].into_iter().chain(limit);
    let response = client.txn(Txn::new().and_then(reads)).await?;
    let mut reads = response.responses.into_iter().filter_map(OpResponse::into_range);
    let queue = reads.next().unwrap_or_default();
    let limit = reads.next().and_then(|mut read| read.kvs.pop());
    Ok((RangeResponse { header: response.header, ..queue }, limit))
}

/// Selects the contenders of the queue and the foreign keys directly below the name from `read`, in
/// queue order, and reads their leases. Without a limit, one contender holds.
async fn rows(
    client: &Client,
    queue: &QueueKeys,
    (read, limit): (RangeResponse, Option<KeyValue>),
) -> Result<Vec<QueueRow>> {
    let now = read.header.revision;
    let in_queue: Vec<_> = read.kvs.into_iter().filter(|kv| queue.contains(&kv.key)).collect();
    let first_waiter = limit.map_or(1, |limit| admitted(&in_queue, &limit.value));
    let positions = (0..).map(|n: usize| (n + 1).saturating_sub(first_waiter));
    let rows = stream::iter(positions.zip(in_queue)).map(async |(position, kv)| {
        let lease = match kv.lease {
            Some(lease) => {
                let response = client.lease_time_to_live(LeaseTimeToLive::new(lease)).await;
                response.with_context(|| format!("read the lease {lease}"))?.lease
            }
            None => None,
        };
        let revisions_ago = now.0 - kv.create_revision.0;
        Ok(QueueRow { kv, position, revisions_ago, lease })
    });
    rows.buffered(MAX_CONCURRENT_LEASE_READS).try_collect().await
}

/// An upper bound for the time since a lease was refreshed, because the store rounds the remaining
/// time down.
fn refreshed_ago_max(lease: &LeaseStatus) -> Duration {
    lease.granted.saturating_sub(lease.remaining)
}

fn as_json(QueueRow { kv, position, revisions_ago, lease }: &QueueRow) -> Value {
    let lease = kv.lease.zip(lease.as_ref()).map(|(id, lease)| {
        json!({
            "id": id.to_string(),
            "ttl_s": lease.granted.as_secs(),
            "remaining_s": lease.remaining.as_secs(),
            "refreshed_s_ago_max": refreshed_ago_max(lease).as_secs(),
        })
    });
    let mut shown = json!({
        "position": position,
        "key": text::to_json(&kv.key),
        "value": text::to_json(&kv.value),
        "revisions_ago": revisions_ago,
        "lease": lease,
    });
    if !is_foreign(kv) {
        shown["fencing_token"] = kv.create_revision.0.into();
    }
    shown
}

fn as_table(queue: &[QueueRow]) -> String {
    let heads = ["position", "token", "revisions ago", "lease", "refreshed", "key", "value"];
    let mut rows = vec![heads.map(str::to_owned)];
    for QueueRow { kv, position, revisions_ago, lease } in queue {
        let (ttl, refreshed) = match (kv.lease, lease) {
            (_, Some(lease)) => {
                let ago = refreshed_ago_max(lease).as_secs();
                (format!("{} s", lease.granted.as_secs()), format!("≤ {ago} s ago"))
            }
            (Some(_), None) => ("ended".to_owned(), String::new()),
            (None, None) => ("none".to_owned(), String::new()),
        };
        let (position, token) = match (is_foreign(kv), *position) {
            (true, _) => ("foreign".to_owned(), "-".to_owned()),
            (false, 0) => ("holds".to_owned(), kv.create_revision.to_string()),
            (false, position) => (position.to_string(), kv.create_revision.to_string()),
        };
        rows.push([
            position,
            token,
            revisions_ago.to_string(),
            ttl,
            refreshed,
            text::escape(&kv.key),
            text::escape(&kv.value),
        ]);
    }
    table::align(&rows, [true, true, true, true, true, false, false])
}
