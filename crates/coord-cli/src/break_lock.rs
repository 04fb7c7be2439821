//! `coord break`: deletes the key of the holder of a lock or election, or requests the release from
//! the holder.
//!
//! The holder's key is read, shown, and deleted in a transaction that compares its create revision,
//! so that a holder that came after the read is not affected. A key that does not have the layout
//! of a queue key is never deleted, although contenders wait behind it: it is a foreign key, which
//! is a key that no contender has created.

use std::io::{IsTerminal as _, Write as _, stderr, stdin};

use anyhow::{Context as _, Result};
use clap::Args;
use coord_core::{
    Client,
    kv::{Compare, CompareOp, Delete, KeyValue, Txn},
    queue::ReleaseRequest,
};
use serde_json::{Value, json};

use crate::exit::{ExitError, print};
use crate::queue::{QueueKeys, is_foreign};
use crate::store::{ENVIRONMENT_HELP, StoreFlags};
use crate::{positional, text};

/// Exit status: the holder changed before its key was deleted.
const HOLDER_CHANGED_STATUS: u8 = 5;
/// Exit status: the user did not confirm the deletion.
const DECLINED_STATUS: u8 = 6;

/// Take a lock or leadership away from its holder.
///
/// Shows the holder's key and deletes the key. The next contender acquires the lock at once. The
/// holder is notified of the loss, and coord terminates the command of `coord lock` or `coord
/// elect`. The commands of the old and the new holder can run at the same time for a moment, and
/// for longer if the old holder's machine is partitioned from the store. A holder that has failed
/// needs no break, because its lease expires.
///
/// With --request nothing is deleted: the holder receives a release request. coord sends TERM to
/// the command of `coord lock` or `coord elect`, and a program that uses coord receives the request
/// if it waits for one. The holder decides, and a holder that does not wait for requests, such as
/// `etcdctl lock`, ignores it. coord does not wait until the lock is released.
///
/// At a terminal the user must confirm the deletion; elsewhere --yes is required. Only a key of the
/// wait queue is deleted, and only if its create revision is that of the key that was shown. A
/// foreign key, which is a key that no contender has created, is never deleted, and does not count
/// as a contender.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Break {
    /// Name of the lock or election
    #[arg(value_name = "NAME", value_parser = positional::name)]
    name: String,
    /// Delete the holder's key without confirmation
    #[arg(long)]
    yes: bool,
    /// Request that the holder releases, and delete nothing
    #[arg(long, conflicts_with = "yes")]
    request: bool,
    /// The reason that the holder receives with --request
    #[arg(long, value_name = "TEXT", default_value = "", requires = "request")]
    reason: String,
    /// Print one JSON object: `name`, `revision`, and `deleted` and `next`, each with `key`,
    /// `value`, `fencing_token` and `lease`; `next` is null if no contender waits, or if a foreign
    /// key blocks the queue afterwards. With --request, `requested` is in place of `deleted` and
    /// `revision`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord break nightly
      show the holder's key and delete it after confirmation
  coord break nightly --yes --json | jq -r .deleted.key
      print the deleted key, in a script
  coord break nightly --request --reason 'maintenance at 22:00'
      request that the holder releases the lock when it can";

const EXIT_STATUS: &str = "\
Exit status:
  0  the holder's key was deleted, or the request was sent
  1  the store is unavailable, or refused a request, or the first key is a foreign key
  2  usage error, or neither a terminal nor --yes
  4  the lock or election is not held
  5  the holder changed before its key was deleted or the request was sent: nothing was changed
  6  the deletion was not confirmed: nothing was deleted";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP, EXIT_STATUS].join("\n\n")
}

impl Break {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        let client = self.store.connect().await?;
        let queue = self.queue(&client).await?;
        let name = &self.name;
        let Some((holder, others)) = queue.split_first() else {
            return Err(ExitError::new(
                ExitError::NOT_HELD,
                format!("{name} is not held: nothing was deleted"),
            ));
        };
        let key = text::escape(&holder.key);
        if is_foreign(holder) {
            let why = "is a foreign key, which no contender has created";
            let remedy = "delete it with another tool if it is not needed";
            let message = format!("{key}, the first under {name}, {why}: {remedy}");
            return Err(ExitError::new(ExitError::FAILED, message));
        }
        let next = others.first().filter(|next| !is_foreign(next));
        if self.request {
            return self.send_request(&client, holder, next).await;
        }
        if !self.yes {
            self.confirm(holder, others)?;
        }
        self.delete(&client, holder, next).await
    }

    /// Reads the contenders and the foreign keys directly below the name, in queue order.
    async fn queue(&self, client: &Client) -> Result<Vec<KeyValue>> {
        let queue = QueueKeys::new(&self.name);
        let read = client.range(queue.in_order()).await;
        let read = read.with_context(|| format!("read the queue of {}", self.name));
        Ok(read?.kvs.into_iter().filter(|kv| queue.contains(&kv.key)).collect())
    }

    /// Shows the key to delete, and waits for the user's confirmation. `others` are the keys behind
    /// the holder's.
    fn confirm(&self, holder: &KeyValue, others: &[KeyValue]) -> Result<(), ExitError> {
        let (name, key) = (text::escape(self.name.as_bytes()), text::escape(&holder.key));
        let value = match text::escape(&holder.value) {
            value if value.is_empty() => value,
            value => format!(", value {value}"),
        };
        let token = holder.create_revision;
        let shown = format!("{key} holds {name} with fencing token {token}{value}");
        if !(stdin().is_terminal() && stderr().is_terminal()) {
            let message = format!("{shown}: nothing was deleted; give --yes to delete the key");
            return Err(ExitError::usage(message));
        }
        let waiting = describe_waiters(others);
        let written = write!(stderr(), "{shown}; {waiting}.\nDelete {key}? [y/N] ");
        written.context("standard error")?;
        let mut answer = String::new();
        stdin().read_line(&mut answer).context("standard input")?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(ExitError::new(DECLINED_STATUS, "nothing was deleted")),
        }
    }

    /// Sends a request to the holder, if its create revision has not changed.
    async fn send_request(
        &self,
        client: &Client,
        holder: &KeyValue,
        next: Option<&KeyValue>,
    ) -> Result<(), ExitError> {
        let (name, key) = (&self.name, text::escape(&holder.key));
        let sent = ReleaseRequest::send(client, holder, &self.reason).await;
        if !sent.with_context(|| format!("send a release request to {key}"))? {
            let message = format!("{key} does not hold {name} any more: no request was sent");
            return Err(ExitError::new(HOLDER_CHANGED_STATUS, message));
        }
        let line = if self.json {
            text::json_line(&json!({
                "name": name,
                "requested": as_json(holder),
                "next": next.map(as_json),
            }))
        } else {
            format!("requested the release of {key}, fencing token {}", holder.create_revision)
        };
        print(line)?;
        Ok(())
    }

    /// Deletes the holder's key if its create revision has not changed.
    async fn delete(
        &self,
        client: &Client,
        holder: &KeyValue,
        next: Option<&KeyValue>,
    ) -> Result<(), ExitError> {
        let (name, key) = (&self.name, text::escape(&holder.key));
        let (created, equal) = (holder.create_revision, CompareOp::Equal);
        let is_shown = Compare::create_revision(holder.key.clone(), equal, created);
        let txn = Txn::new().when([is_shown]).and_then([Delete::new(holder.key.clone())]);
        let deleted = client.txn(txn).await.with_context(|| format!("delete {key}"))?;
        if !deleted.succeeded {
            let message = format!("{key} does not hold {name} any more: nothing was deleted");
            return Err(ExitError::new(HOLDER_CHANGED_STATUS, message));
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

/// The number of contenders among the keys behind the holder's, and what they wait for afterwards.
fn describe_waiters(others: &[KeyValue]) -> String {
    let blocking = others.first().filter(|next| is_foreign(next));
    let waiters = others.iter().filter(|kv| !is_foreign(kv)).count();
    let waiting = match waiters {
        0 => "no contender waits".to_owned(),
        1 => "1 contender waits".to_owned(),
        waiters => format!("{waiters} contenders wait"),
    };
    match (waiters, blocking) {
        (_, Some(foreign)) => {
            let key = text::escape(&foreign.key);
            format!("{waiting}, and the foreign key {key} blocks the queue afterwards")
        }
        (0, None) => waiting,
        (1, None) => format!("{waiting}, and is next"),
        (_, None) => format!("{waiting}, the first is next"),
    }
}

fn as_json(contender: &KeyValue) -> Value {
    json!({
        "key": text::to_json(&contender.key),
        "value": text::to_json(&contender.value),
        "fencing_token": contender.create_revision.0,
        "lease": contender.lease.map(|lease| lease.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use coord_core::kv::LeaseId;

    use super::*;

    fn kv(key: &'static str) -> KeyValue {
        KeyValue { key: key.into(), lease: LeaseId::new(0xa1), ..KeyValue::default() }
    }

    /// Regression: foreign keys counted as contenders that wait.
    #[test]
    fn foreign_keys_do_not_count_as_waiters() {
        let (one, two, foreign) = (kv("jobs/a1-1"), kv("jobs/a1-2"), kv("jobs/config"));
        let described = |others: &[&KeyValue]| {
            describe_waiters(&others.iter().map(|kv| (*kv).clone()).collect::<Vec<_>>())
        };
        assert_eq!(described(&[]), "no contender waits");
        assert_eq!(described(&[&one]), "1 contender waits, and is next");
        assert_eq!(described(&[&one, &foreign]), "1 contender waits, and is next");
        assert_eq!(described(&[&one, &two]), "2 contenders wait, the first is next");
        let blocked = "the foreign key jobs/config blocks the queue afterwards";
        assert_eq!(described(&[&foreign]), format!("no contender waits, and {blocked}"));
        assert_eq!(described(&[&foreign, &one]), format!("1 contender waits, and {blocked}"));
    }
}
