//! `coord break`: take a lock or leadership away from its holder.
//!
//! The holder's key is read, shown, and deleted in a transaction that compares its create revision:
//! a holder that came meanwhile keeps what it holds. A key that is not named as a wait queue names
//! its keys is never deleted: it is data, although contenders wait behind it.

use std::io::{IsTerminal as _, Write as _, stderr, stdin};

use anyhow::{Context as _, Result};
use clap::Args;
use coord_core::{
    KvBackend,
    kv::{Compare, CompareOp, Delete, KeyValue, Txn},
};
use serde_json::{Value, json};

use crate::end::{End, print};
use crate::line::{Line, queue_of};
use crate::store::{ENVIRONMENT, StoreFlags};
use crate::{text, words};

/// Another holder came before the key was deleted.
const CHANGED: u8 = 5;
/// The answer was no.
const DECLINED: u8 = 6;

/// Take a lock or leadership away from its holder, so that the next contender has it.
///
/// Shows the holder's key and deletes it: the holder is notified of the loss, and a command that it
/// runs with coord is ended. The next contender does not wait for that, which takes a moment, or
/// longer on a machine that is cut off. A holder that has died needs no break: its lease expires.
///
/// At a terminal the deletion has to be confirmed; elsewhere --yes is needed. Only a key of the
/// wait queue is deleted, and only if it is still the one that was shown.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Break {
    /// The name of the lock or election
    #[arg(value_name = "NAME", value_parser = words::name)]
    name: String,
    /// Delete the holder's key without a question
    #[arg(long)]
    yes: bool,
    /// Print one JSON object: `name`, `revision`, and `deleted` and `next`, each with `key`,
    /// `value`, `fencing_token` and `lease`; `next` is null if no contender waits
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord break nightly
      show the holder of nightly, ask, and delete its key
  coord break nightly --yes --json | jq -r .deleted.key
      in a script: which key was deleted";

const EXIT_STATUS: &str = "\
Exit status:
  0  the holder's key was deleted
  1  the store cannot be reached, or refused, or the first key does not belong to a wait queue
  2  the command line is wrong, or there is no terminal to ask at and no --yes
  4  it is not held
  5  the holder changed before its key was deleted: nothing was deleted
  6  the answer was no: nothing was deleted";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT, EXIT_STATUS].join("\n\n")
}

impl Break {
    pub(crate) async fn run(self) -> Result<(), End> {
        let kv = self.store.connect().await?;
        let queue = self.queue(&*kv).await?;
        let name = &self.name;
        let Some((holder, waiters)) = queue.split_first() else {
            return Err(End::new(End::NOBODY, format!("{name} is not held: nothing was deleted")));
        };
        let key = text::line(&holder.key);
        if queue_of(holder).is_none() {
            let why = "is no key of a wait queue, which would be named by its lease";
            let remedy = "delete it by other means if it is no data";
            let message = format!("{key}, the first under {name}, {why}: {remedy}");
            return Err(End::new(End::FAILED, message));
        }
        if !self.yes {
            self.confirm(holder, waiters.len())?;
        }
        self.delete(&*kv, holder, waiters.first()).await
    }

    /// The contenders, first come first.
    async fn queue(&self, kv: &dyn KvBackend) -> Result<Vec<KeyValue>> {
        let line = Line::new(&self.name);
        let read = kv.range(line.in_order()).await;
        let read = read.with_context(|| format!("read the queue of {}", self.name));
        Ok(read?.kvs.into_iter().filter(|kv| line.owns(&kv.key)).collect())
    }

    /// Shows what would be deleted, and asks.
    fn confirm(&self, holder: &KeyValue, waiters: usize) -> Result<(), End> {
        let (name, key) = (text::line(self.name.as_bytes()), text::line(&holder.key));
        let value = match text::line(&holder.value) {
            value if value.is_empty() => value,
            value => format!(", value {value}"),
        };
        let token = holder.create_revision;
        let shown = format!("{key} holds {name} with fencing token {token}{value}");
        if !(stdin().is_terminal() && stderr().is_terminal()) {
            let message = format!("{shown}: nothing was deleted; give --yes to delete the key");
            return Err(End::misused(message));
        }
        let behind = match waiters {
            0 => "no contender waits".to_owned(),
            1 => "1 contender waits, and is next".to_owned(),
            waiters => format!("{waiters} contenders wait, the first is next"),
        };
        let asked = write!(stderr(), "{shown}; {behind}.\nDelete {key}? [y/N] ");
        asked.context("standard error")?;
        let mut answer = String::new();
        stdin().read_line(&mut answer).context("standard input")?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(End::new(DECLINED, "nothing was deleted")),
        }
    }

    /// Deletes the key if it is still the holder's that was shown.
    async fn delete(
        &self,
        kv: &dyn KvBackend,
        holder: &KeyValue,
        next: Option<&KeyValue>,
    ) -> Result<(), End> {
        let (name, key) = (&self.name, text::line(&holder.key));
        let (created, equal) = (holder.create_revision, CompareOp::Equal);
        let is_shown = Compare::create_revision(holder.key.clone(), equal, created);
        let txn = Txn::new().when([is_shown]).and_then([Delete::new(holder.key.clone())]);
        let deleted = kv.txn(txn).await.with_context(|| format!("delete {key}"))?;
        if !deleted.succeeded {
            let message = format!("{key} does not hold {name} any more: nothing was deleted");
            return Err(End::new(CHANGED, message));
        }
        let line = if self.json {
            text::json_line(&json!({
                "name": name,
                "revision": deleted.header.revision.0,
                "deleted": as_json(holder),
                "next": next.map(as_json),
            }))
        } else {
            format!("deleted {key}, fencing token {created}")
        };
        print(line)?;
        Ok(())
    }
}

fn as_json(contender: &KeyValue) -> Value {
    json!({
        "key": text::json(&contender.key),
        "value": text::json(&contender.value),
        "fencing_token": contender.create_revision.0,
        "lease": contender.lease.map(|lease| lease.to_string()),
    })
}
