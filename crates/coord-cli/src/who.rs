//! `coord who`: who holds a lock or leads, and who waits.
//!
//! There is no wall clock in the store's keys, so nobody can say since when somebody waits. What
//! can be told is how many revisions the store has made since a contender came, which gives the
//! order and, to who knows the store's traffic, an idea; and of its lease how long ago it was
//! refreshed at most, which tells whether the contender is still well:
//!
//! ```text
//! granted 10 s, 7 s left, rounded down     refreshed 3 s ago at most
//! ```
//!
//! A new leader of the cluster gives every lease its whole time again; that counts as a refresh.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use coord_core::{
    KvBackend,
    kv::{KeyValue, LeaseStatus, LeaseTimeToLive, RangeResponse},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::end::{End, print};
use crate::line::Line;
use crate::store::{ENVIRONMENT, StoreFlags};
use crate::{table, text, words};

/// How many leases are asked about at a time.
const LEASES: usize = 16;

/// Print who holds a lock or leads, and who waits behind, in order.
///
/// A line for each: its place, `has` for the first; its fencing token; how many revisions the store
/// has made since it came; its lease's time to live, and how long ago the lease was refreshed at
/// most; its key, and its value, which locks do not have. Locks and elections look the same, those
/// of `etcdctl` and Go's package too.
///
/// The store keeps no clock time, so since when somebody waits cannot be told. A lease that was
/// refreshed longer ago than a third of its time to live belongs to somebody who has trouble; when
/// all of it has passed, the next in line follows.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Who {
    /// The name of the lock or election
    #[arg(value_name = "NAME", value_parser = words::name)]
    name: String,
    /// Print one JSON object: `name`, `revision`, and `contenders`, each with `place` (0 holds),
    /// `key`, `value`, `fencing_token`, `revisions_ago`, and `lease`, which is null or has `id`,
    /// `ttl_s`, `remaining_s` and `refreshed_s_ago_max`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord who nightly
      place  token  revisions ago  lease  refreshed  key                         value
        has     17             42   10 s  ≤ 2 s ago  nightly/694d9b3a8c1e2f03-1
          1     23             36   60 s  ≤ 11 s ago  nightly/694d9b3a8c1e2f11
  coord break nightly
      take it away from its holder
  coord who nightly --json | jq '.contenders | length'
      how many there are";

const EXIT_STATUS: &str = "\
Exit status:
  0  somebody has it
  1  the store cannot be reached, or refused
  2  the command line is wrong
  4  nobody has it, and nobody waits";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT, EXIT_STATUS].enqueue("\n\n")
}

/// One who stands in the line.
#[derive(Debug)]
struct Contender {
    kv: KeyValue,
    revisions_ago: i64,
    /// `None` if the key has no lease, or that has just ended.
    lease: Option<LeaseStatus>,
}

impl Who {
    pub(crate) async fn run(self) -> Result<(), End> {
        let kv = self.store.connect().await?;
        let line = Line::new(&self.name);
        let asked = || format!("read the queue of {}", self.name);
        let read = kv.range(line.in_order()).await.with_context(asked)?;
        let revision = read.header.revision;
        let contenders = contenders(&*kv, &line, read).await?;
        if self.json {
            let contenders: Vec<_> = contenders.iter().enumerate().map(as_json).collect();
            print(text::json_line(&json!({
                "name": self.name,
                "revision": revision.0,
                "contenders": contenders,
            })))?;
        } else if !contenders.is_empty() {
            print(as_table(&contenders))?;
        }
        match (contenders.is_empty(), self.json) {
            (false, _) => Ok(()),
            (true, true) => Err(End::silent(End::NOBODY)),
            (true, false) => {
                let name = text::line(self.name.as_bytes());
                Err(End::new(End::NOBODY, format!("nobody has {name}, and nobody waits")))
            }
        }
    }
}

/// Those of the line, first come first, and how their leases are.
async fn contenders(
    kv: &dyn KvBackend,
    line: &Line,
    read: RangeResponse,
) -> Result<Vec<Contender>> {
    let now = read.header.revision;
    let of_line = read.kvs.into_iter().filter(|kv| line.owns(&kv.key));
    let asked = stream::iter(of_line).map(async |contender| {
        let lease = match contender.lease {
            Some(lease) => {
                let answer = kv.lease_time_to_live(LeaseTimeToLive::new(lease)).await;
                answer.with_context(|| format!("read the lease {lease}"))?.lease
            }
            None => None,
        };
        let revisions_ago = now.0 - contender.create_revision.0;
        Ok(Contender { kv: contender, revisions_ago, lease })
    });
    asked.buffered(LEASES).try_collect().await
}

/// How long ago a lease was refreshed at most: what is left is rounded down.
fn refreshed_ago_max(lease: &LeaseStatus) -> Duration {
    lease.granted.saturating_sub(lease.remaining)
}

fn as_json((place, contender): (usize, &Contender)) -> Value {
    let Contender { kv, revisions_ago, lease } = contender;
    let lease = kv.lease.zip(lease.as_ref()).map(|(id, lease)| {
        json!({
            "id": id.to_string(),
            "ttl_s": lease.granted.as_secs(),
            "remaining_s": lease.remaining.as_secs(),
            "refreshed_s_ago_max": refreshed_ago_max(lease).as_secs(),
        })
    });
    json!({
        "place": place,
        "key": text::json(&kv.key),
        "value": text::json(&kv.value),
        "fencing_token": kv.create_revision.0,
        "revisions_ago": revisions_ago,
        "lease": lease,
    })
}

fn as_table(contenders: &[Contender]) -> String {
    let heads = ["place", "token", "revisions ago", "lease", "refreshed", "key", "value"];
    let mut rows = vec![heads.map(str::to_owned)];
    for (place, Contender { kv, revisions_ago, lease }) in contenders.iter().enumerate() {
        let (ttl, refreshed) = match (kv.lease, lease) {
            (_, Some(lease)) => {
                let ago = refreshed_ago_max(lease).as_secs();
                (format!("{} s", lease.granted.as_secs()), format!("≤ {ago} s ago"))
            }
            (Some(_), None) => ("ended".to_owned(), String::new()),
            (None, None) => ("none".to_owned(), String::new()),
        };
        rows.push([
            if place == 0 { "has".to_owned() } else { place.to_string() },
            kv.create_revision.to_string(),
            revisions_ago.to_string(),
            ttl,
            refreshed,
            text::line(&kv.key),
            text::line(&kv.value),
        ]);
    }
    table::lines(&rows, [true, true, true, true, true, false, false])
}
