//! A client of a golden script: its session, its locks and leaderships, and its running commands.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coord_core::{
    Session, Stm,
    kv::{FencingToken, LeaseId},
    session::{SessionBuilder, SessionState},
};
use coord_testkit::{Action, Calls, Intercept};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::client_commands::{ClientState, CommandFuture, Failure};
use crate::command::{Command, CommandLine};
use crate::held::Held;
use crate::log::Log;
use crate::network::Network;

/// A client: a process with its own session.
pub(crate) struct Client {
    network: Network,
    state: ClientState,
    /// The commands that the client has started, in order. Some may be waiting.
    jobs: Vec<Job>,
    /// The tasks of the jobs. Dropping the set aborts them.
    tasks: JoinSet<()>,
}

/// A started command.
struct Job {
    text: String,
    task: AbortHandle,
}

/// The status of a started command: succeeded, failed or waiting.
pub(crate) struct CommandStatus {
    /// The line to print while the command waits.
    waiting_line: String,
    succeeded: Arc<OnceLock<bool>>,
    log: Log,
}

impl Client {
    /// Opens a session, on a new lease or on an existing one.
    pub(crate) async fn open(
        name: &str,
        store: &coord_core::Client,
        [ttl, lock_delay]: [Duration; 2],
        lease: Option<LeaseId>,
        log: Log,
    ) -> Result<Self, Failure> {
        let network = Network::new();
        let intercept = Intercept::new(Arc::clone(store.backend()), network.clone());
        let builder = Session::builder(&coord_core::Client::new(intercept));
        let builder = builder.ttl(ttl).lock_delay(lock_delay);
        let session = lease.into_iter().fold(builder, SessionBuilder::lease).open().await?;
        let (name, held, proclaimers) = (name.to_owned(), Held::default(), Arc::default());
        let go = Arc::new(Semaphore::new(0));
        let once = Stm::new(session.client()).exactly_once(&session);
        let state = ClientState { name, session, held, proclaimers, go, once, log };
        let mut tasks = JoinSet::new();
        tasks.spawn(note_session_states(
            state.session.subscribe(),
            state.name.clone(),
            state.log.clone(),
        ));
        Ok(Self { network, state, jobs: Vec::new(), tasks })
    }

    /// The lease of the session.
    pub(crate) fn lease(&self) -> LeaseId {
        self.state.session.lease_id()
    }

    /// The fencing token of the lock or leadership `name`.
    pub(crate) fn token(&self, name: &str) -> Result<FencingToken, String> {
        Ok(self.state.held.get(name)?.token())
    }

    /// Removes and returns the requests sent since the last call.
    pub(crate) fn requests(&self) -> Calls {
        self.network.recorder.take()
    }

    /// Crashes the process: its tasks are aborted, and requests that dropping them makes are not
    /// sent.
    pub(crate) fn crash(self) {
        self.network.set(Action::Hang);
    }

    /// Runs a command. If it may wait, starts it in the background and returns its status.
    pub(crate) fn run(&mut self, line: &CommandLine) -> Result<Option<CommandStatus>, Failure> {
        match &line.command {
            Command::Go => self.state.go.add_permits(1),
            Command::DropResponses => self.network.set(Action::DropResponse),
            Command::DropRequests => self.network.set(Action::DropRequest),
            Command::Delay(secs) => self.network.set(Action::Delay(Duration::from_secs(*secs))),
            Command::SilenceWatches => self.network.set_silent_watches(true),
            Command::Heal => {
                self.network.set(Action::Pass);
                self.network.set_silent_watches(false);
            }
            Command::Cancel => self.cancel()?,
            command => {
                if let Command::Unlock(name) | Command::Resign(name) | Command::Drop(name) = command
                {
                    // These commands share the hold, and would prevent its release.
                    self.abort(&format!("lost {name}"));
                    self.abort(&format!("requested {name}"));
                }
                let future = self.state.clone().command_future(command.clone())?;
                return Ok(Some(self.start(line.text.clone(), future)));
            }
        }
        Ok(None)
    }

    /// Drops the future of the last command that is waiting.
    fn cancel(&self) -> Result<(), Failure> {
        let waiting = self.jobs.iter().rfind(|job| !job.task.is_finished());
        let job = waiting.ok_or("no command of this client waits")?;
        job.task.abort();
        self.state.log.note(&format!("{}: cancelled ({})", self.state.name, job.text));
        Ok(())
    }

    /// Aborts the commands with this text.
    fn abort(&self, text: &str) {
        self.jobs.iter().filter(|job| job.text == text).for_each(|job| job.task.abort());
    }

    /// Starts a command in the background. Its result is printed when its future completes.
    fn start(&mut self, text: String, future: CommandFuture) -> CommandStatus {
        let ClientState { name, log, .. } = self.state.clone();
        let waiting_line = format!("{name}: waits ({text})");
        let succeeded = Arc::new(OnceLock::new());
        let status =
            CommandStatus { waiting_line, succeeded: Arc::clone(&succeeded), log: log.clone() };
        let command = text.clone();
        let task = self.tasks.spawn(async move {
            let result = future.await;
            succeeded.set(result.is_ok()).expect("a command has one result");
            match result {
                Ok(done) => log.note(&format!("{name}: {done}")),
                Err(error) => log.note(&format!("{name}: failed ({command}): {error}")),
            }
        });
        self.jobs.push(Job { text, task });
        status
    }
}

impl CommandStatus {
    /// Whether the command has failed.
    pub(crate) fn is_failure(&self) -> bool {
        self.succeeded.get() == Some(&false)
    }

    /// Prints that the command waits, if it has no result yet.
    pub(crate) fn note_if_waiting(&self) {
        if self.succeeded.get().is_none() {
            self.log.note(&self.waiting_line);
        }
    }
}

/// Prints every change of a session's state.
async fn note_session_states(mut states: watch::Receiver<SessionState>, name: String, log: Log) {
    while states.changed().await.is_ok() {
        let state = *states.borrow_and_update();
        log.note(&format!("{name}: session {state}"));
    }
}
