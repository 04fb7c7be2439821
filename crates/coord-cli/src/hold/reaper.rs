//! Children of this process that have died: the command, and orphans of what it started.
//!
//! This process is a subreaper: a process whose parent has died becomes its child. A dead child
//! stays in the process table until it is reaped, and a process group is not gone while it has
//! members there, so orphans are reaped as they die. The command's own children are not affected:
//! they become children of this process only once the command cannot wait for them any more.
//!
//! One task reaps everything, and so finds the command's end too. The lock around a spawn keeps the
//! task from reaping a command whose number is not known yet.

use std::io;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Reaps every child of this process while it lives.
#[derive(Debug)]
pub(super) struct Reaper {
    command: Arc<Mutex<Option<Command>>>,
    /// Aborted when it is dropped.
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Command {
    process: Pid,
    ended: watch::Sender<Option<WaitStatus>>,
}

/// The end of the command, once it has come.
#[derive(Debug)]
pub(super) struct Ended(watch::Receiver<Option<WaitStatus>>);

impl Reaper {
    pub(super) fn start() -> io::Result<Self> {
        // Where the system has no subreapers, init reaps orphans.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let deaths = signal(SignalKind::child())?;
        let command = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(reap(deaths, Arc::clone(&command)));
        Ok(Self { command, _task: task })
    }

    /// Spawns the command, with this signal mask.
    pub(super) fn spawn(
        &self,
        spawned: &mut process::Command,
        mask: SigSet,
    ) -> io::Result<(Pid, Ended)> {
        let mut command = locked(&self.command);
        // A child inherits the mask of the thread that spawns it.
        let own = mask.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let child = spawned.spawn();
        own.thread_set_mask()?;
        let process = Pid::from_raw(child?.id().cast_signed());
        let process = process.expect("no process has the number 0");
        let (ended, receiver) = watch::channel(None);
        *command = Some(Command { process, ended });
        Ok((process, Ended(receiver)))
    }
}

impl Ended {
    pub(super) fn has_come(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for the end, and gives the exit status that a shell would.
    pub(super) async fn status(&mut self) -> u8 {
        let ended = self.0.wait_for(Option::is_some).await;
        // Without a sender the runtime is being shut down, and no status is asked for.
        let ended = ended.ok().and_then(|ended| *ended);
        let status = ended.and_then(|ended| {
            ended.exit_status().or_else(|| Some(128 + ended.terminating_signal()?))
        });
        status.and_then(|status| u8::try_from(status).ok()).unwrap_or(u8::MAX)
    }
}

async fn reap(mut deaths: Signal, command: Arc<Mutex<Option<Command>>>) {
    while deaths.recv().await.is_some() {
        let command = locked(&command);
        // One signal may stand for many deaths.
        while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
            if let Some(command) = command.as_ref().filter(|command| command.process == process) {
                command.ended.send_replace(Some(status));
            }
        }
    }
}

fn locked(command: &Mutex<Option<Command>>) -> MutexGuard<'_, Option<Command>> {
    command.lock().unwrap_or_else(PoisonError::into_inner)
}
