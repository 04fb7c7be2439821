//! The command that runs during the hold, in a process group of its own.
//!
//! coord can signal the whole group, including processes that the command starts, and does not
//! affect the shell or script that started coord.
//!
//! A command that is stopped with ctrl-Z is continued at once, because other clients wait for the
//! lock. A command that is stopped because it uses the terminal in the background is continued when
//! coord can move it to the foreground.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::group::Group;
use super::reaper::{CommandExit, Reaper};
use super::terminal::Terminal;
use crate::exit::{ExitError, report};
use crate::signals::{Signals, name_of, status_of};

/// Exit status: the command cannot be run.
const CANNOT_RUN_STATUS: u8 = 126;
/// Exit status: the command was not found.
const NOT_FOUND_STATUS: u8 = 127;

/// How often to check whether the group is empty after the command has ended.
const GROUP_POLL: Duration = Duration::from_millis(10);
/// How often to check whether processes that refuse signals have ended.
const REFUSING_POLL: Duration = Duration::from_millis(200);
/// How long to wait until a killed group is empty.
const MAX_GROUP_END_WAIT: Duration = Duration::from_secs(1);
/// How often to retry to move the command to the foreground.
const FOREGROUND_RETRY: Duration = Duration::from_millis(200);

/// The running command. It is killed if this is dropped before it has ended.
#[derive(Debug)]
pub(super) struct Child {
    /// The name of the subcommand, for messages.
    subcommand: &'static str,
    exit: CommandExit,
    group: Group,
    /// CHLD, received when a child stops or ends. Handled before the command is spawned.
    child_signals: unix::Signal,
    terminal: Terminal,
    /// Whether to move the command to the foreground: its input and output are the terminal, or it
    /// was stopped because it used the terminal in the background.
    wants_terminal: bool,
}

impl Child {
    /// Spawns the command in a process group of its own.
    pub(super) fn spawn(
        subcommand: &'static str,
        reaper: &Reaper,
        command: &mut Command,
        mask: SigSet,
    ) -> Result<Self, ExitError> {
        let child_signals = unix::signal(SignalKind::child())
            .map_err(|error| ExitError::new(CANNOT_RUN_STATUS, format!("signals: {error}")))?;
        let spawned = reaper.spawn(command.process_group(0), mask);
        let (process, exit) = spawned.map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let status = if missing { NOT_FOUND_STATUS } else { CANNOT_RUN_STATUS };
            ExitError::new(status, format!("{}: {error}", command.get_program().display()))
        })?;
        let (group, terminal) = (Group(process), Terminal::new());
        let wants_terminal = terminal.is_for_command();
        let mut child = Self { subcommand, exit, group, child_signals, terminal, wants_terminal };
        if wants_terminal {
            child.give_terminal();
        }
        Ok(child)
    }

    /// Waits until the command ends by itself, and forwards all signals to its group. Also waits
    /// for processes of the group that refuse signals. Returns the exit status that a shell would
    /// report.
    pub(super) async fn wait_forwarding(&mut self, signals: &mut Signals) -> u8 {
        let mut reported = false;
        loop {
            let running = !self.exit.has_ended();
            if !running {
                let Some(process) = self.group.refusing_member() else { break };
                if !std::mem::replace(&mut reported, true) {
                    self.report_refusal(process, None);
                }
            }
            tokio::select! {
                biased;
                _ = self.exit.status(), if running => {}
                signal = signals.next() => {
                    if let Some(process) = self.group.deliver(signal) {
                        reported = true;
                        self.report_refusal(process, Some(name_of(signal)));
                    }
                }
                _ = self.child_signals.recv() => self.continue_if_stopped(),
                () = sleep(FOREGROUND_RETRY), if self.wants_terminal => self.give_terminal(),
                () = sleep(REFUSING_POLL), if !running => {}
            }
        }
        self.exit.status().await
    }

    /// Whether the exit status means that INT or QUIT from the terminal ended the command.
    pub(super) fn was_interrupted_at_terminal(&self, status: u8) -> bool {
        let interrupts = [Signal::INT, Signal::QUIT].map(status_of);
        self.terminal.is_given() && interrupts.contains(&status)
    }

    /// Sends TERM to the group, and KILL at `kill_at`. Returns when every process has ended, or
    /// [`MAX_GROUP_END_WAIT`] after the killed command has ended. Also waits for a process that
    /// refuses signals, until a second signal is received.
    pub(super) async fn terminate(mut self, kill_at: Instant, signals: &mut Signals) {
        if let Some(process) = self.group.deliver(Signal::TERM) {
            self.report_refusal(process, Some("TERM"));
        }
        if timeout_at(kill_at, self.wait_group_end()).await.is_ok() {
            return;
        }
        if let Some(process) = self.group.send(Signal::KILL) {
            self.report_refusal(process, Some("KILL"));
        }
        let mut signalled = false;
        while let Some(process) = self.group.refusing_member() {
            tokio::select! {
                biased;
                signal = signals.next_distinct() => {
                    if std::mem::replace(&mut signalled, true) {
                        return;
                    }
                    let message = format!(
                        "{}: process {process} of the command still runs as another user: a \
                        second signal ends coord and leaves the process running",
                        name_of(signal)
                    );
                    report(self.subcommand, &message);
                }
                () = sleep(REFUSING_POLL) => {}
            }
        }
        self.exit.status().await;
        // Bounded, because another process may have to reap the orphans and may never do it.
        let _ = timeout(MAX_GROUP_END_WAIT, self.wait_group_end()).await;
    }

    /// Reports a process that refused `signal`; without one, a process that outlives the command
    /// and would refuse signals.
    fn report_refusal(&self, process: Pid, signal: Option<&str>) {
        let message = match signal {
            Some(signal) => format!(
                "process {process} of the command refuses {signal}, because it runs as another \
                user: end it as that user; until then coord does not release, unless the lease ends"
            ),
            None => format!(
                "process {process} of the command still runs as another user: coord releases when \
                it has ended"
            ),
        };
        report(self.subcommand, &message);
    }

    /// Continues the command if ctrl-Z or its use of the terminal has stopped it.
    fn continue_if_stopped(&mut self) {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let stopped = waitid(WaitId::Pid(self.group.0), options).ok().flatten();
        let signal =
            stopped.and_then(|status| status.stopping_signal()).and_then(Signal::from_named_raw);
        match signal {
            Some(Signal::TSTP) => {
                self.group.send(Signal::CONT);
            }
            // In the background it would stop again.
            Some(Signal::TTIN | Signal::TTOU) => {
                self.wants_terminal = true;
                self.give_terminal();
            }
            _ => {}
        }
    }

    /// Moves the command to the foreground if coord is there.
    fn give_terminal(&mut self) {
        if self.terminal.give_to(self.group.0) {
            self.wants_terminal = false;
            // It may have been stopped before the move.
            self.group.send(Signal::CONT);
        }
    }

    /// Waits until the command and every other process of the group have ended.
    async fn wait_group_end(&mut self) {
        self.exit.status().await;
        while self.group.is_alive() {
            sleep(GROUP_POLL).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.exit.has_ended() {
            self.group.send(Signal::KILL);
        }
        self.terminal.take_back();
    }
}
