//! The child reaper: waits for the command and for orphaned processes that it leaves behind.
//!
//! coord is a subreaper: orphaned descendants become its children. A dead child stays in the
//! process table until it is reaped, and counts as a member of its process group, so that the group
//! would never be empty. Children of a running command are not affected: they become children of
//! coord only when the command has ended.
//!
//! One task reaps all children, and therefore receives the command's exit status too. A spawn holds
//! the lock of the reaper, so that the task cannot reap a command before the reaper has recorded
//! its process id.

use std::io;
use std::process;
use std::sync::{Arc, Mutex};

use coord_core::sync;
use nix::sys::signal::SigSet;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::signals::spawn_with_mask;

/// Reaps every child of this process until it is dropped.
#[derive(Debug)]
pub(super) struct Reaper {
    command: Arc<Mutex<Option<SpawnedCommand>>>,
    /// Aborted on drop.
    _task: JoinSet<()>,
}

/// The command, and where its exit status is published.
#[derive(Debug)]
struct SpawnedCommand {
    process: Pid,
    status: watch::Sender<Option<WaitStatus>>,
}

/// Receives the exit status of the command.
#[derive(Debug)]
pub(super) struct CommandExit(watch::Receiver<Option<WaitStatus>>);

impl Reaper {
    /// Becomes a subreaper and starts the task.
    pub(super) fn start() -> io::Result<Self> {
        // Where the system has no subreapers, init reaps orphans.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let child_signals = signal(SignalKind::child())?;
        let command = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(reap(child_signals, Arc::clone(&command)));
        Ok(Self { command, _task: task })
    }

    /// Spawns the command with this signal mask.
    pub(super) fn spawn(
        &self,
        command: &mut process::Command,
        mask: SigSet,
    ) -> io::Result<(Pid, CommandExit)> {
        let mut spawned = sync::lock(&self.command);
        let child = spawn_with_mask(mask, || command.spawn())?;
        let process = Pid::from_raw(child.id().cast_signed());
        let process = process.expect("no process has the number 0");
        let (status, receiver) = watch::channel(None);
        *spawned = Some(SpawnedCommand { process, status });
        Ok((process, CommandExit(receiver)))
    }
}

impl CommandExit {
    pub(super) fn has_ended(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for the end of the command. Returns the exit status that a shell would report.
    pub(super) async fn status(&mut self) -> u8 {
        let status = self.0.wait_for(Option::is_some).await;
        // An error means that the task was dropped at shutdown; the status is not used then.
        let status = status.ok().and_then(|status| *status);
        let status = status.and_then(|status| {
            status.exit_status().or_else(|| Some(128 + status.terminating_signal()?))
        });
        status.and_then(|status| u8::try_from(status).ok()).unwrap_or(u8::MAX)
    }
}

/// Reaps children whenever CHLD is received, and publishes the exit status of the command.
async fn reap(mut child_signals: Signal, command: Arc<Mutex<Option<SpawnedCommand>>>) {
    while child_signals.recv().await.is_some() {
        let command = sync::lock(&command);
        // The system merges signals: one can mean several dead children.
        while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
            if let Some(command) = command.as_ref().filter(|command| command.process == process) {
                command.status.send_replace(Some(status));
            }
        }
    }
}
