//! `coord list`: prints the locks and elections under a prefix that are held.
//!
//! A key belongs to a wait queue if its last part is the id of its own lease, with or without a key
//! suffix (see `queue`). Every other key in the range of a queue is a foreign key: a key that no
//! contender has created. A foreign key is left out unless it is older than all contenders of its
//! queue. Keys are read without values, in pages of one revision, so that large values of foreign
//! keys cost nothing. Afterwards the values of the holders are read, and all values in the queue of
//! a semaphore with several contenders, to count its holders.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use coord_core::{
    Client,
    kv::{KeyRange, KeyValue, Range, Revision},
    recipes::semaphore::admitted,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::exit::{ExitError, print};
use crate::queue::{QueueKeys, is_foreign, parent_of};
use crate::store::{ENVIRONMENT_HELP, StoreFlags};
use crate::{table, text};

/// How many keys one request reads.
const KEYS_PER_PAGE: u64 = 1000;
/// How many values of holders are read at the same time.
const MAX_CONCURRENT_VALUE_READS: usize = 16;

/// Printed in place of the value of a foreign key that blocks a queue.
const BLOCKED_BY_FOREIGN_KEY: &str = "(foreign key: blocks the queue)";

/// List the locks and elections that are held, ordered by name.
///
/// Prints one line per queue: its name; the number of waiters; the holder's fencing token; how many
/// revisions the store has made since the holder's key was created; the holder's key; and its
/// value, which mutexes do not have. Queues of `etcdctl` and of Go's package are included. A
/// foreign key, which is a key that no contender has created, is left out, with one exception: a
/// foreign key that is older than all contenders of its queue blocks the queue, and is printed in
/// place of the holder.
///
/// A semaphore is listed as NAME/permits, with its first holder. Its other holders are no waiters.
/// The readers of a read-write lock are listed as NAME/read, and its writers as NAME/read and as
/// NAME/write. Readers that hold it together are listed as one holder and waiters. NAME/takers has
/// the takers that wait for a message of a queue.
///
/// Keys below coord/ are coord's own, and are listed only if PREFIX begins with coord/.
///
/// The store records no clock time, so the age of a key is counted in revisions.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct List {
    /// Prefix of the names; without one, all are listed
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Print one JSON object: `prefix`, `revision`, and `queues`, each with `name`, `waiters`, and
    /// `holder`, which has `key`, `value`, `fencing_token`, `revisions_ago` and `lease`; if a
    /// foreign key blocks the queue, `holder` is null and `blocked_by` is that key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

/// The beginning of the names of keys that coord keeps beside its queues.
const OWN_NAMES: &[u8] = b"coord/";

const EXAMPLES: &str = "\
Examples:
  coord list
      name     waiters  token  revisions ago  key                         value
      nightly        1     17             42  nightly/694d9b3a8c1e2f03-1
      web/api        0     23             36  web/api/694d9b3a8c1e2f11-0  a.example:80
  coord list web/
      list the names that start with web/
  coord list --json | jq -r '.queues[] | select(.waiters > 10) | .name'
      print the names with more than ten waiters";

const EXIT_STATUS: &str = "\
Exit status:
  0  at least one lock or election is held, or a foreign key blocks its queue
  1  the store is unavailable, or refused a request
  2  usage error
  4  none is held";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP, EXIT_STATUS].join("\n\n")
}

/// A wait queue as it is printed.
#[derive(Debug)]
struct ListedQueue {
    /// The first contender.
    first: KeyValue,
    /// The number of contenders behind the first.
    others: usize,
    /// The number of contenders that hold: 1. For a semaphore with several contenders, how many
    /// fit into its limit: 0 if the limit cannot be read.
    holders: usize,
    /// A foreign key directly below the name that is older than the first contender, which waits
    /// behind it.
    blocked_by: Option<KeyValue>,
}

impl ListedQueue {
    /// The first contender, unless a foreign key blocks the queue.
    fn holder(&self) -> Option<&KeyValue> {
        self.blocked_by.is_none().then_some(&self.first)
    }

    fn waiters(&self) -> usize {
        let holders = if self.blocked_by.is_some() { 0 } else { self.holders };
        (self.others + 1).saturating_sub(holders)
    }
}

impl List {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        let client = self.store.connect().await?;
        let operation = || match self.prefix.as_str() {
            "" => "list all keys".to_owned(),
            prefix => format!("list the keys under {prefix}"),
        };
        let (revision, mut queues) = self.queues(&client).await.with_context(operation)?;
        read_values(&client, revision, &mut queues).await.with_context(operation)?;
        if self.json {
            let queues: Vec<_> =
                queues.iter().map(|(name, queue)| as_json(name, queue, revision)).collect();
            print(text::json_line(&json!({
                "prefix": self.prefix,
                "revision": revision.0,
                "queues": queues,
            })))?;
        } else if !queues.is_empty() {
            print(as_table(&queues, revision))?;
        }
        match (queues.is_empty(), self.json) {
            (false, _) => Ok(()),
            (true, true) => Err(ExitError::silent(ExitError::NOT_HELD)),
            (true, false) if self.prefix.is_empty() => {
                Err(ExitError::new(ExitError::NOT_HELD, "no lock or election is held"))
            }
            (true, false) => {
                let message = format!("no lock or election under {} is held", self.prefix);
                Err(ExitError::new(ExitError::NOT_HELD, message))
            }
        }
    }

    /// Whether a name is listed. Keys of coord's own, such as idempotency keys and release
    /// requests, look like contenders and are none.
    fn lists(&self, name: &[u8]) -> bool {
        let is_own = name.starts_with(OWN_NAMES) && !self.prefix.as_bytes().starts_with(OWN_NAMES);
        name.starts_with(self.prefix.as_bytes()) && !is_own
    }

    /// Reads the queues under the prefix, ordered by name. Also returns the revision of the read.
    async fn queues(&self, client: &Client) -> Result<(Revision, BTreeMap<Bytes, ListedQueue>)> {
        let all = KeyRange::prefix(self.prefix.clone());
        let (mut queues, mut foreign) = (BTreeMap::new(), BTreeMap::new());
        let (mut start, mut revision) = (all.start().clone(), None);
        loop {
            let page = KeyRange::from_wire(start, all.range_end().clone());
            let mut page = Range::new(page).keys_only().limit(KEYS_PER_PAGE);
            if let Some(revision) = revision {
                page = page.at(revision);
            }
            let read = client.range(page).await?;
            let first_read = *revision.get_or_insert(read.header.revision);
            let last = read.kvs.last().map(|kv| kv.key.clone());
            for kv in read.kvs {
                // The prefix limits names, and a key can start with it although its name does not.
                let parent = parent_of(&kv).filter(|name| self.lists(name));
                match parent {
                    Some(name) if is_foreign(&kv) => keep_oldest_foreign(&mut foreign, name, kv),
                    Some(name) => add_contender(&mut queues, name, kv),
                    None => {}
                }
            }
            match last {
                Some(last) if read.more => start = [&last[..], b"\0"].concat().into(),
                _ => {
                    for (name, queue) in &mut queues {
                        queue.blocked_by = foreign
                            .remove(name)
                            .filter(|kv| kv.create_revision < queue.first.create_revision);
                    }
                    return Ok((first_read, queues));
                }
            }
        }
    }
}

/// Adds a contender to its queue.
fn add_contender(queues: &mut BTreeMap<Bytes, ListedQueue>, name: Bytes, contender: KeyValue) {
    match queues.get_mut(&name) {
        None => {
            let (first, blocked_by) = (contender, None);
            queues.insert(name, ListedQueue { first, others: 0, holders: 1, blocked_by });
        }
        Some(queue) => {
            queue.others += 1;
            if contender.create_revision < queue.first.create_revision {
                queue.first = contender;
            }
        }
    }
}

/// Keeps a foreign key if it is the oldest one of its name.
fn keep_oldest_foreign(foreign: &mut BTreeMap<Bytes, KeyValue>, name: Bytes, kv: KeyValue) {
    match foreign.get_mut(&name) {
        None => {
            foreign.insert(name, kv);
        }
        Some(oldest) if kv.create_revision < oldest.create_revision => *oldest = kv,
        Some(_) => {}
    }
}

/// Reads the values of the holders, at the revision at which their keys were read.
async fn read_values(
    client: &Client,
    revision: Revision,
    queues: &mut BTreeMap<Bytes, ListedQueue>,
) -> Result<()> {
    let held = queues.iter_mut().filter(|(_, queue)| queue.holder().is_some());
    let reads = held.map(async |(name, queue)| {
        let read = client.range(Range::new(queue.first.key.clone()).at(revision)).await?;
        if let Some(holder) = read.kvs.into_iter().next() {
            queue.first = holder;
        }
        if queue.others > 0 {
            count_holders(client, revision, name, queue).await?;
        }
        Ok::<_, anyhow::Error>(())
    });
    stream::iter(reads).buffered(MAX_CONCURRENT_VALUE_READS).try_collect().await
}

/// Counts the holders, if the queue is that of a semaphore.
async fn count_holders(
    client: &Client,
    revision: Revision,
    name: &Bytes,
    queue: &mut ListedQueue,
) -> Result<()> {
    let Ok(name) = std::str::from_utf8(name) else { return Ok(()) };
    let keys = QueueKeys::new(name);
    let Some(limit_key) = keys.limit_key() else { return Ok(()) };
    let limit = client.range(Range::new(limit_key).at(revision)).await?;
    let Some(limit) = limit.kvs.into_iter().next() else { return Ok(()) };
    let read = client.range(keys.in_order().at(revision)).await?;
    let in_queue = read.kvs.iter().filter(|kv| keys.contains(&kv.key));
    queue.holders = admitted(in_queue, &limit.value);
    Ok(())
}

fn as_json(name: &Bytes, queue: &ListedQueue, now: Revision) -> Value {
    let holder = queue.holder().map(|holder| {
        json!({
            "key": text::to_json(&holder.key),
            "value": text::to_json(&holder.value),
            "fencing_token": holder.create_revision.0,
            "revisions_ago": now.0 - holder.create_revision.0,
            "lease": holder.lease.map(|lease| lease.to_string()),
        })
    });
    let mut shown =
        json!({ "name": text::to_json(name), "waiters": queue.waiters(), "holder": holder });
    if let Some(blocking) = &queue.blocked_by {
        shown["blocked_by"] = text::to_json(&blocking.key);
    }
    shown
}

fn as_table(queues: &BTreeMap<Bytes, ListedQueue>, now: Revision) -> String {
    let heads = ["name", "waiters", "token", "revisions ago", "key", "value"];
    let mut rows = vec![heads.map(str::to_owned)];
    for (name, queue) in queues {
        let (name, waiters) = (text::escape(name), queue.waiters().to_string());
        let none = || "-".to_owned();
        rows.push(match &queue.blocked_by {
            None => [
                name,
                waiters,
                queue.first.create_revision.to_string(),
                (now.0 - queue.first.create_revision.0).to_string(),
                text::escape(&queue.first.key),
                text::escape(&queue.first.value),
            ],
            Some(blocking) => [
                name,
                waiters,
                none(),
                none(),
                text::escape(&blocking.key),
                BLOCKED_BY_FOREIGN_KEY.to_owned(),
            ],
        });
    }
    table::align(&rows, [false, true, true, true, false, false])
}
