//! Acquire, run a command, release: the common part of `coord lock` and `coord elect`.
//!
//! Both are contenders of a wait queue, whose first contender holds the lock or leads. With
//! `--slots N`, the first N contenders hold a slot each. The steps:
//!
//! ```text
//! connect, open a session      bounded by --timeout; a signal ends the step
//! enqueue, wait                bounded by --timeout; a signal ends the step
//! run the command              signals are forwarded; without a command, a signal ends the hold
//! release                      on every path, once the command has ended
//! ```
//!
//! **Loss.** When the lease ends, another client can acquire the lock, so the command must have
//! ended before. The lease is alive until [`Session::deadline`], and every confirmed keep-alive
//! extends the deadline. If none is confirmed, the command's process group gets TERM the grace
//! period before the deadline, and KILL at the deadline. The deadline is earlier than the end of
//! the lease by the clock-drift margin, a tenth of the TTL. For `--ttl 10s --grace 2s`:
//!
//! ```text
//!  0 s   keep-alive sent, and confirmed     the deadline is at 9 s
//!  3.3   next keep-alive sent, no response  (and so on)
//!  7     no keep-alive was confirmed        TERM
//!  9     the command still runs             KILL
//!  9.5   a store whose clock is 5 % fast ends the lease, and another client acquires the lock
//! ```
//!
//! If another client revokes the lease or deletes the key, there is no warning: the command gets
//! TERM as soon as coord is notified, and KILL after the grace period.
//!
//! A coord that is suspended or was killed cannot stop the command. The resource that the lock
//! protects must check `COORD_FENCING_TOKEN` then.

mod child;
pub(crate) mod group;
mod loss;
mod min_hold;
mod progress;
mod reaper;
mod release;
mod request;
mod slots;
mod terminal;
mod wait;

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use coord_core::queue::Contender;
use coord_core::{Session, error::PrimitiveError, session::SessionState};
use serde_json::json;
use tokio::time::Instant;

use crate::exit::{ExitError, print};
use crate::signals::Signals;
use crate::store::{StoreFlags, duration};
use crate::text;
use child::Child;
use loss::loss_notice;
use reaper::Reaper;
pub(crate) use request::{HoldRequest, Primitive, WaitMode, exit_status};
use request::{LOST_STATUS, failure};
use wait::WaitLimit;

/// How long to try to open a session, unless `--connect-timeout` or `--timeout` is longer.
const MIN_SESSION_OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Reported when a signal ends the wait for the release.
const RELEASE_NOT_CONFIRMED: &str = "release not confirmed: the key stays until the lease expires";

/// The flags of both subcommands.
#[derive(Args, Debug)]
pub(crate) struct HoldFlags {
    /// TTL of the lease, the time after which another client can acquire if this machine fails;
    /// whole seconds
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = ttl)]
    ttl: Duration,
    /// If this machine fails, keep others out for at least this much longer than the TTL; whole
    /// seconds. A release frees at once
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = whole_seconds)]
    lock_delay: Duration,
    /// Fail if not acquired within this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Time from TERM to KILL when a loss is imminent; at most a quarter of the TTL [default: a
    /// fifth of the TTL]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    grace: Option<Duration>,
    /// Print the key as one JSON object; only without CMD
    #[arg(long)]
    json: bool,
    /// Command to run; without one, the key is printed and held until a signal is received
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    store: StoreFlags,
}

/// Parses a TTL: a whole number of seconds, at least 1.
fn ttl(text: &str) -> Result<Duration> {
    let ttl = duration(text)?;
    anyhow::ensure!(
        !ttl.is_zero() && ttl.subsec_nanos() == 0,
        "a TTL must be a whole number of seconds, at least 1"
    );
    Ok(ttl)
}

/// Parses a whole number of seconds.
fn whole_seconds(text: &str) -> Result<Duration> {
    let time = duration(text)?;
    anyhow::ensure!(time.subsec_nanos() == 0, "the time must be a whole number of seconds");
    Ok(time)
}

impl HoldFlags {
    /// The words after `--`: names and values that begin with `-`, and the command.
    pub(crate) const fn command_mut(&mut self) -> &mut Vec<OsString> {
        &mut self.command
    }

    /// Acquires, runs the command and releases. Repeats that after a loss if `request.again` is
    /// set.
    pub(crate) async fn hold(self, request: HoldRequest) -> Result<(), ExitError> {
        self.check(&request)?;
        // Handled from the start, so that no signal ends the program while it has a key.
        let mut signals = Signals::for_holder().context("signals").map_err(failure)?;
        let reaper = Reaper::start().context("signals").map_err(failure)?;
        let limit = WaitLimit::from_now(self.timeout);
        let client = wait::connect(&self.store, &request, &limit, &mut signals).await?;
        let connect_timeout = self.store.connect_timeout().map_err(failure)?;
        let open_timeout = connect_timeout.max(MIN_SESSION_OPEN_TIMEOUT);
        let open_timeout = open_timeout.max(self.timeout.unwrap_or_default());
        let options = Session::builder(&client)
            .ttl(self.ttl)
            .lock_delay(self.lock_delay)
            .connect_timeout(open_timeout);
        let retry = false;
        let mut session =
            wait::open_session(&options, (&request, retry), &limit, &mut signals).await?;
        let mut outcome = self.hold_once(&session, &request, &limit, &reaper, &mut signals).await;
        while request.again
            && !signals.stop_requested()
            && outcome.cause == EndCause::Loss
            && let Err(error) = &outcome.result
        {
            request.report(&format!("{}: campaigning again", error.reason()));
            let limit = WaitLimit::from_now(self.timeout);
            let retry = true;
            session = wait::open_session(&options, (&request, retry), &limit, &mut signals).await?;
            outcome = self.hold_once(&session, &request, &limit, &reaper, &mut signals).await;
        }
        outcome.result
    }

    /// Acquires on this session, runs the command, releases, and closes the session.
    async fn hold_once(
        &self,
        session: &Session,
        request: &HoldRequest,
        limit: &WaitLimit,
        reaper: &Reaper,
        signals: &mut Signals,
    ) -> HoldOutcome {
        let outcome = match wait::acquire(session, request, limit, signals).await {
            Err(error) => {
                let cause =
                    if error.status == LOST_STATUS { EndCause::Loss } else { EndCause::Other };
                HoldOutcome { result: Err(error), cause }
            }
            Ok(contender) => {
                let acquired = Instant::now();
                let request_sender = signals.request_sender();
                let run = async {
                    let outcome = self.run_command(request, &contender, reaper, signals).await;
                    if outcome.cause == EndCause::CommandEnded {
                        min_hold::keep(request, &contender, acquired, signals).await;
                    }
                    outcome
                };
                let outcome = tokio::select! {
                    biased;
                    outcome = run => outcome,
                    never = release::forward_requests(request, &contender, request_sender) =>
                        match never {},
                };
                let HoldOutcome { result, cause } = outcome;
                // A successful release proves that the lock was held until then.
                match (result, release::release(contender, signals).await) {
                    // The cause stays: a command that has ended is not run again.
                    (Ok(()), Some(Err(PrimitiveError::Lost(reason)))) => {
                        let error =
                            ExitError::from_error(LOST_STATUS, PrimitiveError::Lost(reason));
                        HoldOutcome { result: Err(error), cause }
                    }
                    (result, Some(_)) => HoldOutcome { result, cause },
                    (result, None) => {
                        request.report(RELEASE_NOT_CONFIRMED);
                        return HoldOutcome { result, cause };
                    }
                }
            }
        };
        if matches!(session.state(), SessionState::Lost(_)) {
            return outcome;
        }
        // Also deletes the key of a contender whose release failed.
        match unless_signalled(signals, session.close()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let why = "the key stays until the lease expires";
                request.report(&format!("release {}: {error}: {why}", request.name));
            }
            None => request.report(RELEASE_NOT_CONFIRMED),
        }
        outcome
    }

    /// Checks combinations of flags. clap cannot check them, because names may come after `--`.
    fn check(&self, request: &HoldRequest) -> Result<(), ExitError> {
        let has_command = !self.command.is_empty();
        if self.json && has_command {
            let why = "--json prints the key when there is no CMD: remove --json, or CMD";
            return Err(ExitError::usage(why));
        }
        if request.hold_at_least.is_some() && !has_command {
            let why = "--hold-at-least needs a CMD: without one, the lock is held until a signal";
            return Err(ExitError::usage(why));
        }
        self.check_grace()
    }

    /// Checks `--grace` against `--ttl`. The TTL that the store grants may be longer, but not
    /// shorter.
    fn check_grace(&self) -> Result<(), ExitError> {
        let limit = self.ttl / 4;
        let Some(grace) = self.grace.filter(|grace| *grace > limit) else { return Ok(()) };
        let ttl = self.ttl;
        let message = format!(
            "invalid --grace {grace:?}: must be at most {limit:?}, a quarter of --ttl {ttl:?}: \
            shorten --grace, or lengthen --ttl"
        );
        Err(ExitError::usage(message))
    }

    /// Runs the command, and ends it on a loss. Without a command, waits for a signal.
    async fn run_command(
        &self,
        request: &HoldRequest,
        contender: &Contender,
        reaper: &Reaper,
        signals: &mut Signals,
    ) -> HoldOutcome {
        let grace = self.grace.unwrap_or(contender.session().ttl() / 5);
        let Some((program, arguments)) = self.command.split_first() else {
            return self.hold_until_signalled(contender, signals).await;
        };
        let mut command = Command::new(program);
        command.args(arguments).envs(request.primitive.variables(contender));
        let (subcommand, mask) = (request.primitive.subcommand(), signals.inherited_mask());
        let mut child = match Child::spawn(subcommand, reaper, &mut command, mask) {
            Ok(child) => child,
            Err(error) => return HoldOutcome { result: Err(error), cause: EndCause::Other },
        };
        let notice = tokio::select! {
            biased;
            status = child.wait_forwarding(signals) => {
                let result = if status == 0 { Ok(()) } else { Err(ExitError::silent(status)) };
                let interrupted = child.was_interrupted_at_terminal(status);
                let cause = if interrupted { EndCause::Interrupt } else { EndCause::CommandEnded };
                return HoldOutcome { result, cause };
            }
            notice = loss_notice(contender, grace) => notice,
        };
        request.report(&notice.reason);
        child.terminate(notice.kill_at, signals).await;
        HoldOutcome { result: Err(ExitError::silent(LOST_STATUS)), cause: EndCause::Loss }
    }

    /// Prints the key, and waits for a signal or a loss.
    async fn hold_until_signalled(
        &self,
        contender: &Contender,
        signals: &mut Signals,
    ) -> HoldOutcome {
        let key = contender.key();
        let printed = if self.json {
            print(text::json_line(&json!({
                "key": text::to_json(key),
                "fencing_token": contender.fencing_token().0.0,
                "lease": contender.session().lease_id().to_string(),
            })))
        } else {
            print(text::escape(key))
        };
        if let Err(error) = printed {
            return HoldOutcome { result: Err(failure(error)), cause: EndCause::Other };
        }
        tokio::select! {
            biased;
            _ = signals.next() => HoldOutcome { result: Ok(()), cause: EndCause::Other },
            reason = contender.lost() => {
                let error = ExitError::from_error(LOST_STATUS, PrimitiveError::Lost(reason));
                HoldOutcome { result: Err(error), cause: EndCause::Loss }
            }
        }
    }
}

/// How the wait or the hold ended.
#[derive(Debug)]
struct HoldOutcome {
    result: Result<(), ExitError>,
    cause: EndCause,
}

/// What ended the wait or the hold. The exit status does not show it: a command can exit with 122
/// too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndCause {
    /// The command ended by itself.
    CommandEnded,
    /// INT or QUIT from the terminal ended the command. The terminal sends them to its group only.
    Interrupt,
    /// A loss before the command had ended, the only cause after which `--again` campaigns again.
    Loss,
    /// A signal, a timeout, or a failure.
    Other,
}

/// Waits for a response of the store; `None` if a signal is received first that is no duplicate of
/// the last one.
async fn unless_signalled<T>(
    signals: &mut Signals,
    response: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        _ = signals.next_distinct() => None,
        response = response => Some(response),
    }
}
