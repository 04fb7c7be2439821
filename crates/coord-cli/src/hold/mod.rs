//! Holding something while a command runs, for `coord lock` and `coord elect`.
//!
//! Both stand in a `WaitQueue`: the first contender holds the lock, or leads. The whole of it:
//!
//! ```text
//! connect, open a session      not longer than --timeout; a signal gives up
//! join the line, wait          the same
//! run the command, or wait     signals go to the command; without one, a signal ends the holding
//! give it back                 once the command is surely gone, on every path
//! ```
//!
//! **Loss.** The store can give away what is held when the lease ends, and by then nothing of the
//! command may be left. [`Session::deadline`] says until when the lease surely lives, and every
//! keep-alive that is confirmed moves it on. If none is, the command's process group gets TERM so
//! long before the deadline as it is given to stop, and KILL at the deadline, which is a tenth of
//! the time to live before the store can end the lease. For `--ttl 10s --grace 2s`:
//!
//! ```text
//!  0 s   keep-alive sent, and confirmed     the deadline is at 9 s
//!  3.3   the next one sent, no answer       (and so on)
//!  7     nobody has confirmed anything      TERM
//!  9     it is still there                  KILL
//!  9.5   a store whose clock is 5 % fast ends the lease, and somebody else holds it
//! ```
//!
//! If the lease is revoked, or the key deleted, nobody could know before: the command gets TERM as
//! soon as that is known, and KILL when its grace is over.
//!
//! What this cannot do is to stop a command when this program does not run: suspended, or killed.
//! Hence `COORD_FENCING_TOKEN`.

mod child;
mod group;
mod notice;
mod progress;
mod reaper;
mod rest;
mod stake;
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

use crate::end::{End, print};
use crate::signals::Signals;
use crate::store::{StoreFlags, duration};
use crate::text;
use child::Child;
use notice::notice;
use reaper::Reaper;
pub(crate) use stake::{Kind, Patience, Stake, exit_status};
use stake::{LOST, failed};
use wait::Limit;

/// How long to try to open a session, if neither `--connect-timeout` nor `--timeout` is longer.
const SESSION_PATIENCE: Duration = Duration::from_secs(5);

/// What is said of a store that was to be told, to whoever insisted on going.
const NOT_WAITED_FOR: &str = "the lease ends by itself: not waited for";

/// The flags that both subcommands have.
#[derive(Args, Debug)]
pub(crate) struct HoldFlags {
    /// How long it takes others to get it if this machine dies: whole seconds
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = ttl)]
    ttl: Duration,
    /// Give up if it is not had after so long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// How long CMD is given to stop when what is held is about to be lost, from TERM to KILL: a
    /// quarter of the time to live at most [default: a fifth of it]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    grace: Option<Duration>,
    /// Print what is held as a line of JSON; without CMD only
    #[arg(long)]
    json: bool,
    /// What to run while it is held; without it, the key is printed and held until a signal comes
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    store: StoreFlags,
}

fn ttl(text: &str) -> Result<Duration> {
    let ttl = duration(text)?;
    anyhow::ensure!(
        !ttl.is_zero() && ttl.subsec_nanos() == 0,
        "a time to live must be a whole number of seconds, at least 1"
    );
    Ok(ttl)
}

impl HoldFlags {
    /// What stands behind `--`: first of all names and values that begin with `-`.
    pub(crate) const fn command_mut(&mut self) -> &mut Vec<OsString> {
        &mut self.command
    }

    /// Waits, holds, and gives back; again after a loss if the stake says so.
    pub(crate) async fn hold(self, stake: Stake) -> Result<(), End> {
        self.check(&stake)?;
        // Handled from the start, so that no signal finds a key without an owner.
        let mut signals = Signals::of_a_holder().context("signals").map_err(failed)?;
        let reaper = Reaper::start().context("signals").map_err(failed)?;
        let limit = Limit::from_now(self.timeout);
        let kv = wait::connected(&self.store, &stake, &limit, &mut signals).await?;
        let patience = self.store.connect_timeout().map_err(failed)?.max(SESSION_PATIENCE);
        let patience = patience.max(self.timeout.unwrap_or_default());
        let times = [self.ttl, patience];
        let mut session = wait::opened(&kv, times, (&stake, false), &limit, &mut signals).await?;
        let mut used = self.hold_on(&session, &stake, &limit, &reaper, &mut signals).await;
        while stake.again
            && !signals.stop_requested()
            && used.cause == Cause::Loss
            && let Err(end) = &used.ended
        {
            stake.complain(&format!("{}: campaigning again", end.why()));
            let limit = Limit::from_now(self.timeout);
            session = wait::opened(&kv, times, (&stake, true), &limit, &mut signals).await?;
            used = self.hold_on(&session, &stake, &limit, &reaper, &mut signals).await;
        }
        used.ended
    }

    /// Waits, holds, and gives back, on this session, which ends with it.
    async fn hold_on(
        &self,
        session: &Session,
        stake: &Stake,
        limit: &Limit,
        reaper: &Reaper,
        signals: &mut Signals,
    ) -> Used {
        let used = match wait::held(session, stake, limit, signals).await {
            Err(end) => {
                let cause = if end.status == LOST { Cause::Loss } else { Cause::Other };
                Used { ended: Err(end), cause }
            }
            Ok(contender) => {
                let acquired = Instant::now();
                let used = self.use_it(stake, &contender, reaper, signals).await;
                if used.cause == Cause::CommandEnded {
                    rest::kept(stake, &contender, acquired, signals).await;
                }
                let Used { ended, cause } = used;
                // It was held until then, if leaving the queue succeeds.
                match (ended, unless_signalled(signals, contender.release()).await) {
                    // The cause stays: work that has ended is not repeated.
                    (Ok(()), Some(Err(PrimitiveError::Lost(reason)))) => {
                        let ended = Err(End::failed(LOST, PrimitiveError::Lost(reason)));
                        Used { ended, cause }
                    }
                    (ended, Some(_)) => Used { ended, cause },
                    (ended, None) => {
                        stake.complain(NOT_WAITED_FOR);
                        return Used { ended, cause };
                    }
                }
            }
        };
        if matches!(session.state(), SessionState::Lost(_)) {
            return used;
        }
        // Deletes the key of a contender that could not leave, too.
        match unless_signalled(signals, session.close()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                stake.complain(&format!("release {}: {error}: the lease expires", stake.name));
            }
            None => stake.complain(NOT_WAITED_FOR),
        }
        used
    }

    /// Refuses what clap cannot check, because a name may stand behind `--` as a command does.
    fn check(&self, stake: &Stake) -> Result<(), End> {
        let has_command = !self.command.is_empty();
        if self.json && has_command {
            let why = "--json prints what is held when there is no CMD: drop --json, or CMD";
            return Err(End::misused(why));
        }
        if stake.hold_at_least.is_some() && !has_command {
            let why = "--hold-at-least needs a CMD: without one, the lock is held until a signal";
            return Err(End::misused(why));
        }
        self.check_grace()
    }

    /// The time to live that the store grants may be longer, and never shorter.
    fn check_grace(&self) -> Result<(), End> {
        let limit = self.ttl / 4;
        let Some(grace) = self.grace.filter(|grace| *grace > limit) else { return Ok(()) };
        let ttl = self.ttl;
        let message = format!(
            "invalid --grace {grace:?}: must be at most {limit:?}, a quarter of --ttl {ttl:?}: \
            shorten --grace, or lengthen --ttl"
        );
        Err(End::misused(message))
    }

    /// Runs the command, or waits for a signal where there is none.
    async fn use_it(
        &self,
        stake: &Stake,
        contender: &Contender,
        reaper: &Reaper,
        signals: &mut Signals,
    ) -> Used {
        let grace = self.grace.unwrap_or(contender.session().ttl() / 5);
        let Some((program, arguments)) = self.command.split_first() else {
            return self.hold_until_signalled(contender, signals).await;
        };
        let mut command = Command::new(program);
        command.args(arguments).envs(stake.kind.variables(contender));
        let (subcommand, mask) = (stake.kind.subcommand(), signals.inherited_mask());
        let mut child = match Child::spawned(subcommand, reaper, &mut command, mask) {
            Ok(child) => child,
            Err(end) => return Used { ended: Err(end), cause: Cause::Other },
        };
        let notice = tokio::select! {
            biased;
            status = child.ends_passing_on(signals) => {
                let ended = if status == 0 { Ok(()) } else { Err(End::silent(status)) };
                let interrupted = child.was_interrupted_at_terminal(status);
                let cause = if interrupted { Cause::Interrupt } else { Cause::CommandEnded };
                return Used { ended, cause };
            }
            notice = notice(contender, grace) => notice,
        };
        stake.complain(&notice.why);
        child.end(notice.kill_at, signals).await;
        Used { ended: Err(End::silent(LOST)), cause: Cause::Loss }
    }

    async fn hold_until_signalled(&self, contender: &Contender, signals: &mut Signals) -> Used {
        let key = contender.key();
        let printed = if self.json {
            print(text::json_line(&json!({
                "key": text::json(key),
                "fencing_token": contender.fencing_token().0.0,
                "lease": contender.session().lease_id().to_string(),
            })))
        } else {
            print(text::line(key))
        };
        if let Err(error) = printed {
            return Used { ended: Err(failed(error)), cause: Cause::Other };
        }
        tokio::select! {
            biased;
            _ = signals.next() => Used { ended: Ok(()), cause: Cause::Other },
            reason = contender.lost() => {
                let ended = Err(End::failed(LOST, PrimitiveError::Lost(reason)));
                Used { ended, cause: Cause::Loss }
            }
        }
    }
}

/// How the use of what is held, or the wait for it, ended.
#[derive(Debug)]
struct Used {
    ended: Result<(), End>,
    cause: Cause,
}

/// What ended the use. The exit status does not show it: a command can exit with 122 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The command ended by itself.
    CommandEnded,
    /// The command ended by INT or QUIT from the terminal, which sends them to its group only.
    Interrupt,
    /// A loss, before the command had ended. `--again` campaigns again after this one only.
    Loss,
    /// A signal, a timeout, or a failure.
    Other,
}

/// Waits for the store, unless somebody insists that it is not to be waited for: `None`.
async fn unless_signalled<T>(signals: &mut Signals, answer: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        _ = signals.insists() => None,
        answer = answer => Some(answer),
    }
}
