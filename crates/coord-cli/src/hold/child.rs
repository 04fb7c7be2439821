//! The command that runs while something is held, and all that it starts: a process group.
//!
//! A group of its own, so that all of it can be told to stop, and killed, without the shell or the
//! script that started this program.
//!
//! A command that is stopped with ctrl-Z goes on at once: who holds something that others wait for
//! is not to be suspended. One that is stopped because it wants the terminal goes on when that can
//! be given to it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::group::Group;
use super::reaper::{Ended, Reaper};
use super::terminal::Terminal;
use crate::end::{End, complain};
use crate::signals::{Signals, name_of, status_of};

/// The command cannot be run.
const NOT_RUN: u8 = 126;
/// The command is not there.
const NOT_FOUND: u8 = 127;

/// How often to look whether a group is gone whose leader is.
const POLL: Duration = Duration::from_millis(10);
/// How often to look whether processes that may not be signalled are gone.
const UNREACHABLE_POLL: Duration = Duration::from_millis(200);
/// How long a group that was killed may take to be gone.
const BURIAL: Duration = Duration::from_secs(1);
/// How often to look whether the terminal that the command wants is ours to give by now.
const ASKING: Duration = Duration::from_millis(200);

/// A command that runs. Dropped before it has ended, it is killed.
#[derive(Debug)]
pub(super) struct Child {
    /// What complains.
    subcommand: &'static str,
    ended: Ended,
    group: Group,
    /// That a child was stopped, or has ended. Listened to from before there was one.
    stops: unix::Signal,
    terminal: Terminal,
    /// That it was stopped for want of the terminal.
    wants_terminal: bool,
}

impl Child {
    /// Spawns it in a process group of its own.
    pub(super) fn spawned(
        subcommand: &'static str,
        reaper: &Reaper,
        command: &mut Command,
        mask: SigSet,
    ) -> Result<Self, End> {
        let stops = unix::signal(SignalKind::child());
        let stops = stops.map_err(|error| End::new(NOT_RUN, format!("signals: {error}")))?;
        let spawned = reaper.spawn(command.process_group(0), mask);
        let (process, ended) = spawned.map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let status = if missing { NOT_FOUND } else { NOT_RUN };
            End::new(status, format!("{}: {error}", command.get_program().display()))
        })?;
        let (group, terminal) = (Group(process), Terminal::new());
        let mut child = Self { subcommand, ended, group, stops, terminal, wants_terminal: false };
        if child.terminal.is_for_the_command() {
            child.wants_terminal = true;
            child.give_terminal();
        }
        Ok(child)
    }

    /// Waits until it ends by itself, and passes on all signals meanwhile. Gives the status that a
    /// shell would. Processes of its group that may not be signalled are waited for too.
    pub(super) async fn ends_passing_on(&mut self, signals: &mut Signals) -> u8 {
        let mut reported = false;
        loop {
            let leads = !self.ended.has_come();
            if !leads {
                let Some(process) = self.group.unreachable() else { break };
                if !std::mem::replace(&mut reported, true) {
                    self.complain_of(process, None);
                }
            }
            tokio::select! {
                biased;
                _ = self.ended.status(), if leads => {}
                signal = signals.next() => {
                    if let Some(process) = self.group.deliver(signal) {
                        reported = true;
                        self.complain_of(process, Some(name_of(signal)));
                    }
                }
                _ = self.stops.recv() => self.go_on(),
                () = sleep(ASKING), if self.wants_terminal => self.give_terminal(),
                () = sleep(UNREACHABLE_POLL), if !leads => {}
            }
        }
        self.ended.status().await
    }

    /// Whether this status is that of a command that INT or QUIT from the terminal ended.
    pub(super) fn was_interrupted_at_terminal(&self, status: u8) -> bool {
        let by = [Signal::INT, Signal::QUIT].map(status_of);
        self.terminal.is_given() && by.contains(&status)
    }

    /// Tells it to stop, and kills what is left of it at `kill_at`. When this returns, nothing is,
    /// unless a process cannot die: one that may not be signalled is waited for, until a second
    /// signal is received.
    pub(super) async fn end(mut self, kill_at: Instant, signals: &mut Signals) {
        if let Some(process) = self.group.deliver(Signal::TERM) {
            self.complain_of(process, Some("TERM"));
        }
        if timeout_at(kill_at, self.gone()).await.is_ok() {
            return;
        }
        if let Some(process) = self.group.send(Signal::KILL) {
            self.complain_of(process, Some("KILL"));
        }
        let mut signalled = false;
        while let Some(process) = self.group.unreachable() {
            tokio::select! {
                biased;
                signal = signals.insists() => {
                    if std::mem::replace(&mut signalled, true) {
                        return;
                    }
                    let message = format!(
                        "{}: process {process} of the command still runs, as another user: a \
                        second signal ends coord, and leaves the process running",
                        name_of(signal)
                    );
                    complain(self.subcommand, &message);
                }
                () = sleep(UNREACHABLE_POLL) => {}
            }
        }
        self.ended.status().await;
        // Not without end: where orphans are not ours, they may never be reaped.
        let _ = timeout(BURIAL, self.gone()).await;
    }

    /// Reports a process that refused a signal, or that outlives the command and would refuse one.
    fn complain_of(&self, process: Pid, refused: Option<&str>) {
        let message = match refused {
            Some(signal) => format!(
                "process {process} of the command refuses {signal}, because it runs as another \
                user: end it as that user; what is held is kept until it has ended, or the lease \
                has"
            ),
            None => format!(
                "process {process} of the command still runs, as another user: what is held is \
                kept until it has ended"
            ),
        };
        complain(self.subcommand, &message);
    }

    /// Has it go on if it was stopped from the terminal, or for want of it.
    fn go_on(&mut self) {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let stopped = waitid(WaitId::Pid(self.group.0), options).ok().flatten();
        let by =
            stopped.and_then(|status| status.stopping_signal()).and_then(Signal::from_named_raw);
        match by {
            Some(Signal::TSTP) => {
                self.group.send(Signal::CONT);
            }
            // Without the terminal it would stop again.
            Some(Signal::TTIN | Signal::TTOU) => {
                self.wants_terminal = true;
                self.give_terminal();
            }
            _ => {}
        }
    }

    fn give_terminal(&mut self) {
        if self.terminal.give_to(self.group.0) {
            self.wants_terminal = false;
            // It may have been stopped for reading before it was allowed to.
            self.group.send(Signal::CONT);
        }
    }

    /// Waits until nothing of it is left.
    async fn gone(&mut self) {
        self.ended.status().await;
        while self.group.is_alive() {
            sleep(POLL).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended.has_come() {
            self.group.send(Signal::KILL);
        }
        self.terminal.take_back();
    }
}
