//! The command that runs while something is held, and all that it starts: a process group.
//!
//! A group of its own, so that all of it can be told to stop, and killed, without the shell or the
//! script that started this program.
//!
//! A command that is stopped with ctrl-Z goes on at once: who holds something that others wait for
//! is not to be suspended. One that is stopped because it wants the terminal goes on when that can
//! be given to it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, test_kill_process_group,
    waitid, waitpgid,
};
use tokio::process::{self, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::terminal::Terminal;
use crate::end::End;
use crate::signals::Signals;

/// The command cannot be run.
const NOT_RUN: u8 = 126;
/// The command is not there.
const NOT_FOUND: u8 = 127;

/// How often to look whether a group is gone whose leader is.
const POLL: Duration = Duration::from_millis(10);
/// How long a group that was killed may take to be gone.
const BURIAL: Duration = Duration::from_secs(1);
/// How often to look whether the terminal that the command wants is ours to give by now.
const ASKING: Duration = Duration::from_millis(200);

/// A command that runs. Dropped before it has ended, it is killed.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    group: Pid,
    /// That a child was stopped, or has ended. Listened to from before there was one.
    stops: unix::Signal,
    terminal: Terminal,
    /// That it was stopped for want of the terminal.
    wants_terminal: bool,
}

impl Child {
    pub(super) fn spawned(
        program: &OsString,
        arguments: &[OsString],
        variables: Vec<(&'static str, OsString)>,
    ) -> Result<Self, End> {
        let mut command = Command::new(program);
        adopt_orphans();
        let stops = unix::signal(SignalKind::child());
        let stops = stops.map_err(|error| End::new(NOT_RUN, format!("signals: {error}")))?;
        command.args(arguments).envs(variables).process_group(0);
        let process = command.spawn().map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let status = if missing { NOT_FOUND } else { NOT_RUN };
            End::new(status, format!("{}: {error}", program.display()))
        })?;
        let id = process.id().map(u32::cast_signed).and_then(Pid::from_raw);
        let group = id.expect("a process that was not waited for has a number");
        let mut child =
            Self { process, group, stops, terminal: Terminal::new(), wants_terminal: false };
        if child.terminal.is_for_the_command() {
            child.wants_terminal = true;
            child.give_terminal();
        }
        Ok(child)
    }

    /// Waits until it ends by itself, and passes on all signals meanwhile. Gives the status that a
    /// shell would.
    pub(super) async fn ends_passing_on(&mut self, signals: &mut Signals) -> Result<u8> {
        loop {
            let group = self.group;
            tokio::select! {
                biased;
                ended = self.process.wait() => return Ok(status_of(ended?)),
                signal = signals.next() => tell(group, signal),
                _ = self.stops.recv() => self.go_on(),
                () = sleep(ASKING), if self.wants_terminal => self.give_terminal(),
            }
        }
    }

    /// Tells it to stop, and kills what is left of it at `kill_at`. When this returns, nothing is.
    pub(super) async fn end(mut self, kill_at: Instant) -> Result<()> {
        tell(self.group, Signal::TERM);
        if let Ok(gone) = timeout_at(kill_at, self.gone()).await {
            return gone;
        }
        send(self.group, Signal::KILL);
        self.process.wait().await?;
        // Not for ever: where orphans are not ours, nobody may bury them.
        let _ = timeout(BURIAL, self.gone()).await;
        Ok(())
    }

    /// Has it go on if it was stopped from the terminal, or for want of it.
    fn go_on(&mut self) {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let stopped = waitid(WaitId::Pid(self.group), options).ok().flatten();
        let by =
            stopped.and_then(|status| status.stopping_signal()).and_then(Signal::from_named_raw);
        match by {
            Some(Signal::TSTP) => send(self.group, Signal::CONT),
            // Without the terminal it would stop again.
            Some(Signal::TTIN | Signal::TTOU) => {
                self.wants_terminal = true;
                self.give_terminal();
            }
            _ => {}
        }
    }

    fn give_terminal(&mut self) {
        if self.terminal.give_to(self.group) {
            self.wants_terminal = false;
            // It may have been stopped for reading before it was allowed to.
            send(self.group, Signal::CONT);
        }
    }

    /// Waits until nothing of it is left.
    async fn gone(&mut self) -> Result<()> {
        self.process.wait().await?;
        loop {
            // Those whose parent has ended are ours to bury: see `adopt_orphans`.
            while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
            if test_kill_process_group(self.group).is_err() {
                break;
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.process.id().is_some() {
            send(self.group, Signal::KILL);
        }
        self.terminal.take_back();
    }
}

fn status_of(ended: ExitStatus) -> u8 {
    let status = ended.code().or_else(|| Some(128 + ended.signal()?));
    status.and_then(|status| u8::try_from(status).ok()).unwrap_or(u8::MAX)
}

/// Has those whose parent ends become children of this program: a group is not gone while it has
/// members that nobody buries, and in a container there may be nobody who does.
fn adopt_orphans() {
    // Where it is not to be had, init buries them.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// To all of a group that are still there.
fn send(group: Pid, signal: Signal) {
    // It fails if nobody is.
    let _ = kill_process_group(group, signal);
}

/// As [`send`], so that it is heard at once: who is stopped hears nothing until it goes on.
fn tell(group: Pid, signal: Signal) {
    send(group, signal);
    send(group, Signal::CONT);
}
