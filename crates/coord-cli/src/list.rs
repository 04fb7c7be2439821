//! `coord list`: the locks and elections under a prefix.
//!
//! A key belongs to a wait queue if its last part is the lease that it hangs on, as coord and Go's
//! package name theirs. All other keys under the prefix are data, and are left out unless
//! contenders wait behind them. Keys are read without their values, a page at a time and all of one
//! revision, so that data of any size costs only its keys.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use coord_core::{
    KvBackend,
    kv::{KeyRange, KeyValue, Range, Revision},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::end::{End, print};
use crate::line::{parent_of, queue_of};
use crate::store::{ENVIRONMENT, StoreFlags};
use crate::{table, text};

/// How many keys are read at a time.
const PAGE: i64 = 1000;
/// How many holders' values are read at a time.
const HOLDERS: usize = 16;

/// What is shown in place of a value of a key that is data and has contenders behind it.
const BLOCKS: &str = "(data: blocks the queue)";

/// List the locks and elections that are held, in order of their names.
///
/// A line for each: its name; how many contenders wait; the holder's fencing token; how many
/// revisions the store has made since the holder's key was created; the holder's key, and its
/// value, which locks do not have. Locks and elections look the same, and so do those of `etcdctl`
/// and Go's package. Other keys under the prefix are left out, unless one is older than all
/// contenders of its queue: all of them wait behind it, so it is shown in place of a holder.
///
/// The store keeps no clock time, so the age of a key is counted in revisions.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct List {
    /// What the names start with; all are listed without it
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Print one JSON object: `prefix`, `revision`, and `queues`, each with `name`, `waiters`, and
    /// `holder`, which has `key`, `value`, `fencing_token`, `revisions_ago` and `lease`; `holder`
    /// is null if all contenders wait behind a key that is data, which `blocked_by` is then
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord list
      name     waiters  token  revisions ago  key                         value
      nightly        1     17             42  nightly/694d9b3a8c1e2f03-1
      web/api        0     23             36  web/api/694d9b3a8c1e2f11-0  a.example:80
  coord list web/
      those whose names start with web/
  coord list --json | jq -r '.queues[] | select(.waiters > 10) | .name'
      where many wait";

const EXIT_STATUS: &str = "\
Exit status:
  0  at least one is held, or waited for behind a key that is data
  1  the store cannot be reached, or refused
  2  the command line is wrong
  4  none is held";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT, EXIT_STATUS].join("\n\n")
}

/// A wait queue.
#[derive(Debug)]
struct Queue {
    /// The first contender.
    first: KeyValue,
    /// The contenders behind it.
    others: usize,
    /// A key of the queue that is older and no contender's: the first contender waits behind it.
    blocked_by: Option<KeyValue>,
}

impl Queue {
    /// The first contender, if it does not wait behind a key that is data.
    fn holder(&self) -> Option<&KeyValue> {
        self.blocked_by.is_none().then_some(&self.first)
    }

    fn waiters(&self) -> usize {
        self.others + usize::from(self.blocked_by.is_some())
    }
}

impl List {
    pub(crate) async fn run(self) -> Result<(), End> {
        let kv = self.store.connect().await?;
        let under = || match self.prefix.as_str() {
            "" => "list all keys".to_owned(),
            prefix => format!("list the keys under {prefix}"),
        };
        let (revision, mut queues) = self.queues(&*kv).await.with_context(under)?;
        with_values(&*kv, revision, &mut queues).await.with_context(under)?;
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
            (true, true) => Err(End::silent(End::NOBODY)),
            (true, false) if self.prefix.is_empty() => {
                Err(End::new(End::NOBODY, "no lock or election is held"))
            }
            (true, false) => {
                let message = format!("no lock or election under {} is held", self.prefix);
                Err(End::new(End::NOBODY, message))
            }
        }
    }

    /// The queues under the prefix by their names, and the revision that they were read at.
    async fn queues(&self, kv: &dyn KvBackend) -> Result<(Revision, BTreeMap<Bytes, Queue>)> {
        let all = KeyRange::prefix(self.prefix.clone());
        let (mut queues, mut data) = (BTreeMap::new(), BTreeMap::new());
        let (mut start, mut revision) = (all.start().clone(), None);
        loop {
            let page = KeyRange::from_wire(start, all.range_end().clone());
            let mut page = Range::new(page).keys_only().limit(PAGE);
            if let Some(revision) = revision {
                page = page.at(revision);
            }
            let read = kv.range(page).await?;
            let first_read = *revision.get_or_insert(read.header.revision);
            let last = read.kvs.last().map(|kv| kv.key.clone());
            for kv in read.kvs {
                // The prefix is that of names: a key is longer than the name of its queue.
                let parent = parent_of(&kv).filter(|name| name.starts_with(self.prefix.as_bytes()));
                match parent {
                    Some(name) if queue_of(&kv).is_some() => count(&mut queues, name, kv),
                    Some(name) => note_data(&mut data, name, kv),
                    None => {}
                }
            }
            match last {
                Some(last) if read.more => start = [&last[..], b"\0"].concat().into(),
                _ => {
                    for (name, queue) in &mut queues {
                        queue.blocked_by = data
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
fn count(queues: &mut BTreeMap<Bytes, Queue>, name: Bytes, contender: KeyValue) {
    match queues.get_mut(&name) {
        None => {
            queues.insert(name, Queue { first: contender, others: 0, blocked_by: None });
        }
        Some(queue) => {
            queue.others += 1;
            if contender.create_revision < queue.first.create_revision {
                queue.first = contender;
            }
        }
    }
}

/// Keeps the oldest key that is data of each name.
fn note_data(data: &mut BTreeMap<Bytes, KeyValue>, name: Bytes, kv: KeyValue) {
    match data.get_mut(&name) {
        None => {
            data.insert(name, kv);
        }
        Some(oldest) if kv.create_revision < oldest.create_revision => *oldest = kv,
        Some(_) => {}
    }
}

/// Reads the values of the holders, as of the revision that their keys were read at.
async fn with_values(
    kv: &dyn KvBackend,
    revision: Revision,
    queues: &mut BTreeMap<Bytes, Queue>,
) -> Result<()> {
    let held = queues.values_mut().filter(|queue| queue.holder().is_some());
    let reads = held.map(async |queue| {
        let read = kv.range(Range::new(queue.first.key.clone()).at(revision)).await?;
        if let Some(holder) = read.kvs.into_iter().next() {
            queue.first = holder;
        }
        Ok::<_, anyhow::Error>(())
    });
    stream::iter(reads).buffered(HOLDERS).try_collect().await
}

fn as_json(name: &Bytes, queue: &Queue, now: Revision) -> Value {
    let holder = queue.holder().map(|holder| {
        json!({
            "key": text::json(&holder.key),
            "value": text::json(&holder.value),
            "fencing_token": holder.create_revision.0,
            "revisions_ago": now.0 - holder.create_revision.0,
            "lease": holder.lease.map(|lease| lease.to_string()),
        })
    });
    let mut shown =
        json!({ "name": text::json(name), "waiters": queue.waiters(), "holder": holder });
    if let Some(data) = &queue.blocked_by {
        shown["blocked_by"] = text::json(&data.key);
    }
    shown
}

fn as_table(queues: &BTreeMap<Bytes, Queue>, now: Revision) -> String {
    let heads = ["name", "waiters", "token", "revisions ago", "key", "value"];
    let mut rows = vec![heads.map(str::to_owned)];
    for (name, queue) in queues {
        let (name, waiters) = (text::line(name), queue.waiters().to_string());
        let none = || "-".to_owned();
        rows.push(match &queue.blocked_by {
            None => [
                name,
                waiters,
                queue.first.create_revision.to_string(),
                (now.0 - queue.first.create_revision.0).to_string(),
                text::line(&queue.first.key),
                text::line(&queue.first.value),
            ],
            Some(data) => [name, waiters, none(), none(), text::line(&data.key), BLOCKS.to_owned()],
        });
    }
    table::lines(&rows, [false, true, true, true, false, false])
}
