//! `coord queue`: puts messages into a message queue, takes them, and shows how many there are.

mod list;
mod put;
mod take;

use std::time::Duration;

use clap::{Args, Subcommand};
use coord_core::recipes::MessageQueueError;
use coord_core::{Client, Session};

use crate::exit::ExitError;

/// The TTL of a session: how long a message stays in delivery if this machine fails.
const TTL: Duration = Duration::from_secs(10);

/// Put messages into a queue, and take them.
///
/// The messages of a queue are in the store, and programs that use coord's `MessageQueue` share
/// them. Messages with a lower priority number are taken first, and those of one priority in the
/// order in which they were put. A message that is not acknowledged is delivered again, at its old
/// place, and becomes a dead letter after a number of attempts.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Queue {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    Put(put::Put),
    Take(take::Take),
    List(list::List),
}

const AFTER_HELP: &str = "\
Examples:
  coord queue put mails 'welcome ada'
      put a message
  coord queue take mails -- ./send.sh
      run send.sh with the next message on its standard input
  coord queue list mails
      show how many messages there are

Exit status:
  0  the work was done
  1  the store is unavailable, or refused a request
  2  usage error
  4  no message was ready in time (take --timeout)
  5  the command failed, and the message was released (take)
  128 + N  signal N was received (take)

The help of a subcommand has more: `coord queue take --help`.";

impl Queue {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        match self.command {
            QueueCommand::Put(put) => put.run().await,
            QueueCommand::Take(take) => take.run().await,
            QueueCommand::List(list) => list.run().await,
        }
    }
}

/// Opens a session on the store.
async fn open(client: &Client) -> Result<Session, ExitError> {
    let opened = Session::builder(client).ttl(TTL).open().await;
    opened.map_err(|error| ExitError::new(ExitError::FAILED, format!("open a session: {error}")))
}

/// The exit status and message of an error of the queue.
fn failure(operation: &str, error: &MessageQueueError) -> ExitError {
    let status = match error {
        MessageQueueError::InvalidDelay { .. } => ExitError::USAGE,
        _ => ExitError::FAILED,
    };
    ExitError::new(status, format!("{operation}: {error}"))
}
