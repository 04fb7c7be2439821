//! Holding something while a command runs, for `coord lock` and `coord elect`.
//!
//! Both stand in a [`WaitingLine`]: whoever is first holds the lock, or leads. The whole of it:
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
mod progress;
mod terminal;

use std::ffi::OsString;
use std::future::pending;
use std::os::unix::ffi::OsStringExt as _;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use clap::Args;
use coord_core::contender::{Contender, WaitingLine};
use coord_core::{PrimitiveError, Session, SessionState};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::end::{End, complain, print};
use crate::line::Line;
use crate::signals::{Signals, status_of};
use crate::store::{StoreFlags, duration};
use crate::text;
use child::Child;

/// What was held, or the place in the line, is lost.
const LOST: u8 = 122;
/// Somebody else holds it, and it was not to be waited for.
const TAKEN: u8 = 123;
/// It was waited for long enough.
const TIMED_OUT: u8 = 124;
/// This program failed: the store cannot be reached, for one.
const FAILED: u8 = 125;

/// What is said of a store that was to be told, to whoever insisted on going.
const NOT_WAITED_FOR: &str = "the lease ends by itself: not waited for";

/// For the help of both subcommands.
macro_rules! exit_status {
    () => {
        "\
Exit status:
  that of CMD, or 128 + n if signal n ended it; and if it did not come to its end:
    0  without CMD: held until a signal came, and given back
    2  the command line is wrong
  122  lost: CMD was ended
  123  somebody else has it (--try)
  124  not had in time (--timeout)
  125  coord failed: the store cannot be reached, for one
  126  CMD cannot be run
  127  CMD is not there
  128 + n  signal n came while it was waited for"
    };
}
pub(crate) use exit_status;

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
    #[arg(long, conflicts_with = "command")]
    json: bool,
    /// What to run while it is held; without it, the key is printed and held until a signal comes
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    store: StoreFlags,
}

fn ttl(text: &str) -> Result<Duration> {
    let ttl = duration(text)?;
    anyhow::ensure!(!ttl.is_zero() && ttl.subsec_nanos() == 0, "not a whole number of seconds");
    Ok(ttl)
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Patience {
    /// As `--timeout` says.
    Wait,
    /// Take it if it is free.
    Try,
}

/// What is stood in line for.
#[derive(Debug)]
pub(crate) struct Stake {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// What others read under the key.
    pub(crate) value: String,
    pub(crate) patience: Patience,
}

/// What being first in the line means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Lock,
    Election,
}

impl Kind {
    const fn subcommand(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Election => "elect",
        }
    }

    /// What the command is told.
    fn variables(self, held: &Contender) -> Vec<(&'static str, OsString)> {
        // As it is, whatever is in it: it is for other programs, and not to be looked at.
        let key = || OsString::from_vec(held.key().to_vec());
        let token = ("COORD_FENCING_TOKEN", held.fencing_token().to_string().into());
        match self {
            Self::Lock => vec![
                ("COORD_LOCK_KEY", key()),
                token,
                ("ETCD_LOCK_KEY", key()),
                ("ETCD_LOCK_REV", held.header().revision.to_string().into()),
            ],
            Self::Election => vec![("COORD_ELECTION_KEY", key()), token],
        }
    }
}

impl Stake {
    fn complain(&self, message: &str) {
        complain(self.kind.subcommand(), message);
    }
}

impl HoldFlags {
    /// Waits, holds, and gives back.
    pub(crate) async fn hold(self, stake: Stake) -> Result<(), End> {
        self.check_grace()?;
        // Heard from the start, so that no signal finds a key without an owner.
        let mut signals = Signals::of_a_holder().context("signals").map_err(failed)?;
        let mut late = pin!(self.late());
        let session = tokio::select! {
            biased;
            // A lease that may have been granted has no key, and ends by itself.
            signal = signals.next() => return Err(End::silent(status_of(signal))),
            opened = self.open() => opened.map_err(failed)?,
            end = &mut late => return Err(end),
        };
        let had = tokio::select! {
            biased;
            signal = signals.next() => Err(End::silent(status_of(signal))),
            had = self.stand_in_line(&stake, &session) => had,
            end = &mut late => Err(end),
        };
        let ended = match had {
            Err(end) => Err(end),
            Ok(contender) => {
                let ended = self.use_it(&stake, &contender, &mut signals).await;
                // It was held until then, if leaving the line says so.
                match (ended, unless_signalled(&mut signals, contender.leave()).await) {
                    (Ok(()), Some(Err(PrimitiveError::Lost(reason)))) => {
                        Err(End::failed(LOST, PrimitiveError::Lost(reason)))
                    }
                    (ended, Some(_)) => ended,
                    (ended, None) => {
                        stake.complain(NOT_WAITED_FOR);
                        return ended;
                    }
                }
            }
        };
        if matches!(session.state(), SessionState::Lost(_)) {
            return ended;
        }
        // Takes along the key of whoever did not get so far as to leave.
        match unless_signalled(&mut signals, session.close()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => stake.complain(&format!("the lease ends by itself: {error}")),
            None => stake.complain(NOT_WAITED_FOR),
        }
        ended
    }

    /// The time to live that the store grants may be longer, and never shorter.
    fn check_grace(&self) -> Result<(), End> {
        let limit = self.ttl / 4;
        if self.grace.is_none_or(|grace| grace <= limit) {
            return Ok(());
        }
        let message = format!("--grace is longer than a quarter of the time to live, {limit:?}");
        Err(End::misused(message))
    }

    /// Waits as long as it may be waited, all in all.
    async fn late(&self) -> End {
        match self.timeout {
            Some(limit) => sleep(limit).await,
            None => pending().await,
        }
        End::new(TIMED_OUT, "timed out")
    }

    async fn open(&self) -> Result<Session> {
        // What ends the wait is the timeout of the command itself, which is a little shorter.
        let within = self.timeout.map(|limit| limit.saturating_add(Duration::from_secs(1)));
        let kv = self.store.connect_within(within).await?;
        let patience = self.store.connect_timeout().max(Duration::from_secs(5));
        let patience = patience.max(self.timeout.unwrap_or_default());
        let builder = Session::builder(kv).ttl(self.ttl).connect_timeout(patience);
        Ok(builder.open().await?)
    }

    async fn stand_in_line(&self, stake: &Stake, session: &Session) -> Result<Contender, End> {
        let line = WaitingLine::new(session, stake.name.clone());
        if stake.patience == Patience::Try {
            let had = line.try_join(stake.value.clone()).await.map_err(lost_or_failed)?;
            return had.ok_or_else(|| End::new(TAKEN, "somebody else has it"));
        }
        let mut contender = line.join(stake.value.clone()).await.map_err(lost_or_failed)?;
        let mine = contender.fencing_token();
        let seen = Line::new(&stake.name);
        let progress = progress::told(session, &seen, mine);
        tokio::select! {
            biased;
            turn = contender.wait_turn() => turn.map_err(lost_or_failed)?,
            never = progress => match never {},
        }
        Ok(contender)
    }

    /// Runs the command, or waits for a signal where there is none.
    async fn use_it(
        &self,
        stake: &Stake,
        contender: &Contender,
        signals: &mut Signals,
    ) -> Result<(), End> {
        let grace = self.grace.unwrap_or(contender.session().ttl() / 5);
        let Some((program, arguments)) = self.command.split_first() else {
            return self.hold_until_signalled(contender, signals).await;
        };
        let variables = stake.kind.variables(contender);
        let mut child = Child::spawned(program, arguments, variables)?;
        let notice = tokio::select! {
            biased;
            status = child.ends_passing_on(signals) => {
                return match status.map_err(failed)? {
                    0 => Ok(()),
                    status => Err(End::silent(status)),
                };
            }
            notice = notice(contender, grace) => notice,
        };
        stake.complain(&notice.why);
        child.end(notice.kill_at).await.map_err(failed)?;
        Err(End::silent(LOST))
    }

    async fn hold_until_signalled(
        &self,
        contender: &Contender,
        signals: &mut Signals,
    ) -> Result<(), End> {
        let key = contender.key();
        if self.json {
            print(json!({
                "key": text::json(key),
                "fencing_token": contender.fencing_token().0.0,
                "lease": contender.session().lease_id().to_string(),
            }))
        } else {
            print(text::line(key))
        }
        .map_err(failed)?;
        tokio::select! {
            biased;
            _ = signals.next() => Ok(()),
            reason = contender.lost() => Err(End::failed(LOST, PrimitiveError::Lost(reason))),
        }
    }
}

/// That a command has to end.
#[derive(Debug)]
struct Notice {
    why: String,
    /// When nothing may be left of it.
    kill_at: Instant,
}

/// Waits until what is held is lost, or would be before a command could stop.
async fn notice(contender: &Contender, grace: Duration) -> Notice {
    let session = contender.session();
    let about_to_be_lost = async {
        loop {
            let deadline = session.deadline();
            sleep_until(deadline - grace).await;
            // Nothing was confirmed meanwhile.
            if session.deadline() == deadline {
                break deadline;
            }
        }
    };
    tokio::select! {
        biased;
        reason = contender.lost() => Notice {
            why: PrimitiveError::Lost(reason).to_string(),
            kill_at: Instant::now() + grace,
        },
        kill_at = about_to_be_lost => Notice {
            why: "no keep-alive was confirmed, and the lease is about to end".to_owned(),
            kill_at,
        },
    }
}

/// Waits for the store, unless somebody insists that it is not to be waited for: `None`.
async fn unless_signalled<T>(signals: &mut Signals, answer: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        _ = signals.insists() => None,
        answer = answer => Some(answer),
    }
}

fn failed(error: impl Into<Error>) -> End {
    End::failed(FAILED, error)
}

fn lost_or_failed(error: PrimitiveError) -> End {
    let status = if error.loss().is_some() { LOST } else { FAILED };
    End::failed(status, error)
}
