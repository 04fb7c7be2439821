//! `coord queue take`: takes messages, and acknowledges each after it was processed.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use coord_core::kv::{LeaseGrant, TTL_MAX};
use coord_core::recipes::{Delivery, MessageQueue, MessageQueueError};
use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};

use super::{failure, open};
use crate::exit::{ExitError, print};
use crate::hold::group::Group;
use crate::positional;
use crate::signals::{Signals, spawn_with_mask, status_of};
use crate::store::{ENVIRONMENT_HELP, StoreFlags, duration};
use crate::text;

/// Exit status: the command failed, and the message was released.
const COMMAND_FAILED_STATUS: u8 = 5;

/// Take messages from a queue, and run a command with each.
///
/// Waits for a message, and runs CMD with the message on its standard input. If CMD exits with 0,
/// the message is acknowledged, which deletes it. Otherwise it is released: it is ready again, at
/// its old place, and coord exits. With --retry-after, it is ready after that time. Without CMD,
/// coord prints the message and acknowledges it.
///
/// If this machine fails, the message is delivered again when the lease has expired, after 10 s.
/// Each delivery is an attempt. After --max-attempts of them the message becomes a dead letter.
///
/// If coord loses its lease, or receives INT, TERM, HUP or QUIT, the process group of CMD gets
/// KILL, and the message is ready again. A message can be processed twice: CMD can have done its
/// work before.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Take {
    /// Name of the queue
    #[arg(value_name = "NAME", value_parser = positional::name)]
    name: String,
    /// How many messages to take, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Fail if no message is ready within this time; `0s` does not wait
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// How often a message is delivered before it becomes a dead letter; all takers should set the
    /// same number
    #[arg(long, value_name = "N", default_value = "10")]
    max_attempts: NonZeroU32,
    /// After a failure of CMD, let no taker receive the message before this time has passed; whole
    /// seconds
    #[arg(long, value_name = "TIME", value_parser = delay, requires = "command")]
    retry_after: Option<Duration>,
    /// Print one JSON object per message: `key`, `payload`, `priority`, `attempts`, `put_revision`
    /// and `fencing_token`; only without CMD
    #[arg(long, conflicts_with = "command")]
    json: bool,
    /// Command to run with each message on its standard input
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord queue take mails -- ./send.sh
      run send.sh with the next message
  coord queue take mails --count 1000000 -- ./send.sh
      run send.sh with each message, until it fails
  coord queue take mails --retry-after 30s -- ./send.sh
      run send.sh with the next message; if it fails, the message is ready again in 30 s
  coord queue take mails --timeout 0s --json
      print the next message, if there is one

Variables of CMD:
  COORD_MESSAGE_KEY       the key of the message, the same for each delivery
  COORD_MESSAGE_ATTEMPTS  how often the message was delivered, this delivery included
  COORD_FENCING_TOKEN     larger for each later delivery

Exit status:
  0  the messages were taken and acknowledged
  1  the store is unavailable, or refused a request, or the lease was lost, or CMD was not found
  2  usage error
  4  no message was ready within --timeout
  5  CMD failed, and the message was released
  128 + N  signal N was received";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP].join("\n\n")
}

/// Parses a delay: a whole number of seconds, at least 1.
fn delay(text: &str) -> anyhow::Result<Duration> {
    let delay = duration(text)?;
    let is_valid = !delay.is_zero() && LeaseGrant::new(delay).check().is_ok();
    anyhow::ensure!(is_valid, MessageQueueError::InvalidDelay { delay, limit: TTL_MAX });
    Ok(delay)
}

/// The process group of the command while it runs. Dropping it kills the group.
struct RunningGroup(Option<Group>);

impl Drop for RunningGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // A process of another user refuses it, and the message is ready all the same.
            let _ = group.send(Signal::KILL);
        }
    }
}

impl Take {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        let mut signals = Signals::new().map_err(anyhow::Error::from)?;
        let mask = signals.inherited_mask();
        let opened = async { open(&self.store.connect().await?).await };
        let session = tokio::select! {
            biased;
            signal = signals.next() => return Err(ExitError::silent(status_of(signal))),
            opened = opened => opened?,
        };
        let queue = MessageQueue::new(&session, self.name.as_str()).max_attempts(self.max_attempts);
        let taken = tokio::select! {
            biased;
            signal = signals.next() => Err(ExitError::silent(status_of(signal))),
            taken = self.take_all(&queue, mask) => taken,
        };
        // This makes a message ready that was in delivery. Otherwise the lease expires by itself.
        let _ = session.close().await;
        taken
    }

    /// Takes the messages. The commands get this signal mask.
    async fn take_all(&self, queue: &MessageQueue, mask: SigSet) -> Result<(), ExitError> {
        for _ in 0..self.count {
            let delivery = self.next(queue).await?;
            if self.command.is_empty() {
                let is_printed = print(self.line(&delivery))?;
                self.end(delivery, is_printed).await?;
                if !is_printed {
                    return Ok(());
                }
                continue;
            }
            let ended = delivery.run_while_held(self.run_command(&delivery, mask)).await;
            let status = ended.map_err(|lost| {
                let message = format!("the delivery was lost: {lost}: the message is ready again");
                ExitError::new(ExitError::FAILED, message)
            })?;
            match status {
                Ok(status) if status.success() => self.end(delivery, true).await?,
                Ok(status) => {
                    self.end(delivery, false).await?;
                    let message = format!("the command failed, {status}: the message was released");
                    return Err(ExitError::new(COMMAND_FAILED_STATUS, message));
                }
                Err(error) => {
                    self.end(delivery, false).await?;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Waits for the next message.
    async fn next(&self, queue: &MessageQueue) -> Result<Delivery, ExitError> {
        let operation = || format!("take from {}", text::escape(self.name.as_bytes()));
        let failed = |error| failure(&operation(), &error);
        let none = || ExitError::new(ExitError::NOT_HELD, format!("{}: no message", operation()));
        if self.timeout == Some(Duration::ZERO) {
            return queue.try_take().await.map_err(failed)?.ok_or_else(none);
        }
        // A time that exceeds the range of `Instant` is no limit.
        match self.timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
            None => queue.take().await.map_err(failed),
            Some(until) => match timeout_at(until, queue.take()).await {
                Ok(taken) => taken.map_err(failed),
                Err(_) => Err(none()),
            },
        }
    }

    /// Runs the command with the message on its standard input. Dropping the future kills its
    /// process group.
    async fn run_command(&self, delivery: &Delivery, mask: SigSet) -> anyhow::Result<ExitStatus> {
        let (program, arguments) = self.command.split_first().context("the command is empty")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .process_group(0)
            // Unescaped, because the command uses it as a key.
            .env("COORD_MESSAGE_KEY", OsStr::from_bytes(delivery.key()))
            .env("COORD_MESSAGE_ATTEMPTS", delivery.attempts().to_string())
            .env("COORD_FENCING_TOKEN", delivery.fencing_token().to_string())
            .stdin(Stdio::piped())
            .kill_on_drop(true);
        let mut child = spawn_with_mask(mask, || command.spawn())
            .with_context(|| format!("run {}", program.display()))?;
        let process = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut running = RunningGroup(process.map(Group));
        let mut input = child.stdin.take();
        let write = async {
            if let Some(input) = &mut input {
                // A command need not read its input.
                let _ = input.write_all(delivery.payload()).await;
            }
            drop(input);
        };
        // A process that the command has left may keep the input open without reading it.
        let status = tokio::select! {
            biased;
            status = child.wait() => status,
            () = write => child.wait().await,
        };
        running.0 = None;
        status.context("wait for the command")
    }

    /// Acknowledges or releases a delivery. Tries it once more after an error.
    async fn end(&self, delivery: Delivery, is_processed: bool) -> Result<(), ExitError> {
        let mut delivery = delivery;
        for is_last in [false, true] {
            let ended = match self.retry_after {
                _ if is_processed => delivery.acknowledge().await,
                Some(delay) => delivery.release_after(delay).await,
                None => delivery.release().await,
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if is_last || error.loss().is_some() => {
                    let verb = if is_processed { "acknowledge" } else { "release" };
                    let message = format!("{verb} the message: {}", error.cause);
                    return Err(ExitError::new(ExitError::FAILED, message));
                }
                Err(error) => delivery = *error.held,
            }
        }
        Ok(())
    }

    fn line(&self, delivery: &Delivery) -> String {
        if !self.json {
            return text::escape(delivery.payload());
        }
        text::json_line(&json!({
            "key": text::to_json(delivery.key()),
            "payload": text::to_json(delivery.payload()),
            "priority": delivery.priority(),
            "attempts": delivery.attempts(),
            "put_revision": delivery.put_revision().0,
            "fencing_token": delivery.fencing_token().0.0,
        }))
    }
}
