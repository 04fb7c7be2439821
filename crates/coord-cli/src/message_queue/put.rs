//! `coord queue put`: puts a message.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use coord_core::recipes::{Message, MessageQueue};
use serde_json::json;

use super::{failure, open};
use crate::exit::{ExitError, print};
use crate::positional;
use crate::store::{ENVIRONMENT_HELP, StoreFlags, duration};
use crate::text;

/// Put a message into a queue.
///
/// The message is put once, also if a response is lost and coord has to determine the outcome of
/// the request. It stays in the queue until a taker acknowledges it, or until it
/// becomes a dead letter.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Put {
    /// Name of the queue
    #[arg(value_name = "NAME", value_parser = positional::name)]
    name: String,
    /// The message; read from standard input if it is not given
    #[arg(value_name = "MESSAGE")]
    message: Option<String>,
    /// Priority from 0 to 65535: lower numbers are taken first
    #[arg(long, value_name = "N", default_value_t = Message::DEFAULT_PRIORITY)]
    priority: u16,
    /// Let no taker receive the message before this time has passed; whole seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    delay: Option<Duration>,
    /// Print one JSON object: `name` and `revision`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord queue put mails 'welcome ada'
      put a message
  coord queue put mails < letter.txt
      put the contents of a file
  coord queue put mails --delay 1h --priority 10 'remind ada'
      put a message that is taken in an hour, before those with the default priority

Exit status:
  0  the message was put
  1  the store is unavailable, or refused the request: the error states whether the message may
     be in the queue
  2  usage error";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP].join("\n\n")
}

impl Put {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        let payload = match &self.message {
            Some(message) => message.clone().into_bytes(),
            None => {
                let mut input = Vec::new();
                std::io::stdin().read_to_end(&mut input).context("standard input")?;
                input
            }
        };
        let mut message = Message::new(payload).priority(self.priority);
        message.delay = self.delay;
        let session = open(&self.store.connect().await?).await?;
        let queue = MessageQueue::new(&session, self.name.as_str());
        let put = queue.put(message).await;
        let operation = || format!("put into {}", text::escape(self.name.as_bytes()));
        let revision = put.map_err(|error| failure(&operation(), &error))?;
        // The message is put: a lease that is not revoked expires by itself.
        let _ = session.close().await;
        print(if self.json {
            text::json_line(&json!({ "name": self.name, "revision": revision.0 }))
        } else {
            format!("put at revision {revision}")
        })?;
        Ok(())
    }
}
