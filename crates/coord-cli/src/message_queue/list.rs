//! `coord queue list`: shows how many messages a queue has, and its dead letters.

use clap::Args;
use coord_core::recipes::{DeadLetter, MessageQueue, MessageQueueError};
use serde_json::json;

use super::{failure, open};
use crate::exit::{ExitError, print};
use crate::positional;
use crate::store::{ENVIRONMENT_HELP, StoreFlags};
use crate::text;

/// Show how many messages a queue has, or its dead letters.
///
/// With --dead, prints a line for each dead letter: how often it was delivered, its priority and
/// the message. With --put-back, each of them becomes a new message, after those of its priority,
/// and the line is printed when that has happened.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct List {
    /// Name of the queue
    #[arg(value_name = "NAME", value_parser = positional::name)]
    name: String,
    /// List the dead letters
    #[arg(long)]
    dead: bool,
    /// Put the dead letters that are listed back into the queue
    #[arg(long, requires = "dead")]
    put_back: bool,
    /// Print one JSON object: `name`, `ready`, `claimed` and `dead`; with --dead one object per
    /// dead letter: `key`, `payload`, `priority`, `attempts` and `revision`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord queue list mails
      show how many messages are ready, in delivery or delayed, and dead
  coord queue list mails --dead
      show the messages that were given up
  coord queue list mails --dead --put-back
      show them, and try them again

Exit status:
  0  the queue was read; it may be empty
  1  the store is unavailable, or refused a request
  2  usage error";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP].join("\n\n")
}

impl List {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        let session = open(&self.store.connect().await?).await?;
        let queue = MessageQueue::new(&session, self.name.as_str());
        let shown = if self.dead { self.show_dead(&queue).await } else { self.show(&queue).await };
        // Nothing is held by the session: a lease that is not revoked expires by itself.
        let _ = session.close().await;
        shown
    }

    fn failed(&self, error: &MessageQueueError) -> ExitError {
        failure(&format!("read {}", text::escape(self.name.as_bytes())), error)
    }

    async fn show(&self, queue: &MessageQueue) -> Result<(), ExitError> {
        let counts = queue.counts().await.map_err(|error| self.failed(&error))?;
        let (ready, claimed, dead) = (counts.ready, counts.claimed, counts.dead);
        print(if self.json {
            let name = &self.name;
            text::json_line(
                &json!({ "name": name, "ready": ready, "claimed": claimed, "dead": dead }),
            )
        } else {
            format!("{ready} ready, {claimed} in delivery or delayed, {dead} dead")
        })?;
        Ok(())
    }

    async fn show_dead(&self, queue: &MessageQueue) -> Result<(), ExitError> {
        let letters = queue.dead_letters(0).await.map_err(|error| self.failed(&error))?;
        for letter in letters {
            // Another client may have put it back, or discarded it.
            if self.put_back && !self.put_back(queue, &letter).await? {
                continue;
            }
            if !print(self.line(&letter))? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Puts a dead letter back. Returns whether it still existed.
    async fn put_back(&self, queue: &MessageQueue, letter: &DeadLetter) -> Result<bool, ExitError> {
        let operation = || {
            let (key, name) = (text::escape(&letter.key), text::escape(self.name.as_bytes()));
            format!("put {key} back into {name}")
        };
        queue.put_back(letter).await.map_err(|error| failure(&operation(), &error))
    }

    fn line(&self, letter: &DeadLetter) -> String {
        if !self.json {
            let payload = text::escape(&letter.payload);
            return format!("{} {} {payload}", letter.attempts, letter.priority);
        }
        text::json_line(&json!({
            "key": text::to_json(&letter.key),
            "payload": text::to_json(&letter.payload),
            "priority": letter.priority,
            "attempts": letter.attempts,
            "revision": letter.revision.0,
        }))
    }
}
