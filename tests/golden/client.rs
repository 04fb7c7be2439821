//! A client: a session, what is held on it, and what still waits.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coord_core::{FencingToken, LeaseId, Session, SessionBuilder, SessionState, stm};
use coord_mem::MemBackend;
use coord_testkit::{Action, Calls, Intercept};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::command::{Command, Said};
use crate::held::Held;
use crate::log::Log;
use crate::network::Network;
use crate::work::{Failure, Hands, Work};

/// A process with a session of its own.
pub(crate) struct Client {
    network: Network,
    hands: Hands,
    /// What the client was told to do, in order; some of it may still wait.
    jobs: Vec<Job>,
    /// Runs the jobs, which end with it.
    tasks: JoinSet<()>,
}

/// A command that was begun.
struct Job {
    what: String,
    task: AbortHandle,
}

/// What became of a command: done, failed, or neither yet.
pub(crate) struct Answer {
    /// What there is to say while there is no answer.
    waits: String,
    succeeded: Arc<OnceLock<bool>>,
    log: Log,
}

impl Client {
    /// Opens a session, on a new lease or on one that exists.
    pub(crate) async fn open(
        name: &str,
        store: &MemBackend,
        ttl: Duration,
        lease: Option<LeaseId>,
        log: Log,
    ) -> Result<Self, Failure> {
        let network = Network::new();
        let backend = Arc::new(Intercept::new(store.clone(), network.clone()));
        let builder = Session::builder(backend).ttl(ttl);
        let session = lease.into_iter().fold(builder, SessionBuilder::lease).open().await?;
        let (name, held, proclaimers) = (name.to_owned(), Held::default(), Arc::default());
        let go = Arc::new(Semaphore::new(0));
        let once = stm(Arc::clone(session.backend())).exactly_once(&session);
        let hands = Hands { name, session, held, proclaimers, go, once, log };
        let mut tasks = JoinSet::new();
        tasks.spawn(note_states(hands.session.subscribe(), hands.name.clone(), hands.log.clone()));
        Ok(Self { network, hands, jobs: Vec::new(), tasks })
    }

    /// The lease of the session.
    pub(crate) fn lease(&self) -> LeaseId {
        self.hands.session.lease_id()
    }

    /// The fencing token of what is held.
    pub(crate) fn token(&self, name: &str) -> Result<FencingToken, String> {
        Ok(self.hands.held.of(name)?.token())
    }

    /// What was sent since the last time.
    pub(crate) fn requests(&self) -> Calls {
        self.network.record.take()
    }

    /// The end of the process: its tasks stop, and what dropping them would send is never sent.
    pub(crate) fn crash(self) {
        self.network.set(Action::Hang);
    }

    /// Does a command, or begins it: then there will be an answer.
    pub(crate) fn obey(&mut self, said: &Said) -> Result<Option<Answer>, Failure> {
        match &said.command {
            Command::Go => self.hands.go.add_permits(1),
            Command::Mute => self.network.set(Action::DropResponse),
            Command::Cut => self.network.set(Action::DropRequest),
            Command::Delay(secs) => self.network.set(Action::Delay(Duration::from_secs(*secs))),
            Command::Deafen => self.network.silence(true),
            Command::Mend => {
                self.network.set(Action::Pass);
                self.network.silence(false);
            }
            Command::Cancel => self.cancel()?,
            command => {
                if let Command::Unlock(of) | Command::Resign(of) | Command::Drop(of) = command {
                    // Whoever gives it up does not wait for its loss any more.
                    self.abort(&format!("lost {of}"));
                }
                let work = self.hands.clone().work(command.clone())?;
                return Ok(Some(self.begin(said.text.clone(), work)));
            }
        }
        Ok(None)
    }

    /// Drops the future of the last command that still waits.
    fn cancel(&self) -> Result<(), Failure> {
        let waiting = self.jobs.iter().rfind(|job| !job.task.is_finished());
        let job = waiting.ok_or("no command of this client waits")?;
        job.task.abort();
        self.hands.log.note(&format!("{}: gives up ({})", self.hands.name, job.what));
        Ok(())
    }

    fn abort(&self, what: &str) {
        self.jobs.iter().filter(|job| job.what == what).for_each(|job| job.task.abort());
    }

    /// Begins a piece of work, which tells what became of it.
    fn begin(&mut self, what: String, work: Work) -> Answer {
        let Hands { name, log, .. } = self.hands.clone();
        let waits = format!("{name}: waits ({what})");
        let succeeded = Arc::new(OnceLock::new());
        let answer = Answer { waits, succeeded: Arc::clone(&succeeded), log: log.clone() };
        let command = what.clone();
        let task = self.tasks.spawn(async move {
            let result = work.await;
            succeeded.set(result.is_ok()).expect("there is one answer");
            match result {
                Ok(done) => log.note(&format!("{name}: {done}")),
                Err(error) => log.note(&format!("{name}: failed ({command}): {error}")),
            }
        });
        self.jobs.push(Job { what, task });
        answer
    }
}

impl Answer {
    /// Whether the command has failed.
    pub(crate) fn is_failure(&self) -> bool {
        self.succeeded.get() == Some(&false)
    }

    /// Says so if there is no answer yet.
    pub(crate) fn note_if_waiting(&self) {
        if self.succeeded.get().is_none() {
            self.log.note(&self.waits);
        }
    }
}

/// Notes every change of a session's state.
async fn note_states(mut states: watch::Receiver<SessionState>, name: String, log: Log) {
    while states.changed().await.is_ok() {
        let state = *states.borrow_and_update();
        log.note(&format!("{name}: session {state}"));
    }
}
