//! The implementations of a client's commands.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdGuard};

use coord_core::election::{Candidate, Proclaimer};
use coord_core::{
    Election, Mutex, Session, Stm,
    election::Leader,
    kv::{Put, Txn},
    mutex::MutexGuard,
    stm::Isolation,
    sync,
};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::command::Command;
use crate::held::{Held, Hold};
use crate::log::Log;
use crate::transaction::{self, Program};

/// Why a command failed.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The future of a command. Its output is the line to print.
pub(crate) type CommandFuture = BoxFuture<'static, Output>;

type Output = Result<String, Failure>;

/// The state that the commands of a client share. Clones share it.
#[derive(Clone)]
pub(crate) struct ClientState {
    pub(crate) name: String,
    pub(crate) session: Session,
    pub(crate) held: Held,
    /// The proclaimer of the last campaign for each election.
    pub(crate) proclaimers: Arc<StdMutex<BTreeMap<String, Proclaimer>>>,
    /// Permits to continue. Each paused transaction takes one.
    pub(crate) go: Arc<Semaphore>,
    /// Runs transactions with idempotency keys.
    pub(crate) once: Stm,
    pub(crate) log: Log,
}

impl ClientState {
    /// The future of a command, which runs when it is polled.
    pub(crate) fn command_future(self, command: Command) -> Result<CommandFuture, Failure> {
        Ok(match command {
            Command::Lock(name) => Box::pin(self.lock(name)),
            Command::TryLock(name) => Box::pin(self.try_lock(name)),
            Command::Unlock(name) => Box::pin(self.release(name, "unlocked")),
            Command::Campaign(name, value) => Box::pin(self.campaign(name, value)),
            Command::Proclaim(name, value) => Box::pin(self.proclaim(name, value)),
            Command::Resign(name) => Box::pin(self.release(name, "resigned")),
            Command::Resume(name) => Box::pin(self.resume(name)),
            Command::Leader(name) => Box::pin(self.leader(name)),
            Command::Observe(name) => Box::pin(self.observe(name)),
            Command::Drop(name) => Box::pin(self.drop(name)),
            Command::Lost(name) => Box::pin(self.lost(name)),
            Command::Request(name, reason) => Box::pin(self.request(name, reason)),
            Command::Requested(name) => Box::pin(self.requested(name)),
            Command::Put(key, value) => Box::pin(self.put(key, value)),
            Command::Get(key) => Box::pin(self.get(key)),
            Command::Write { key, value, under } => Box::pin(self.write(key, value, under)),
            Command::Run { steps, level, prefetch, once } => {
                let plain = || Stm::new(self.session.client());
                let stm = if once { self.once.clone() } else { plain() };
                let level =
                    level.map_or(Ok(Isolation::default()), |name| transaction::level(&name))?;
                let prefetch = prefetch.unwrap_or_default();
                let stm = stm.isolation(level).prefetch(prefetch.split_whitespace());
                let steps = transaction::steps(&steps)?;
                let program = Program { name: self.name, steps, go: self.go, log: self.log };
                Box::pin(program.run(stm))
            }
            Command::Orphan => Box::pin(self.orphan()),
            Command::Close => Box::pin(self.close()),
            other => return Err(format!("not a client's command: {other:?}").into()),
        })
    }

    async fn lock(self, name: String) -> Output {
        let guard = Mutex::new(&self.session, name.clone()).lock().await?;
        Ok(self.hold_lock(&name, guard))
    }

    async fn try_lock(self, name: String) -> Output {
        match Mutex::new(&self.session, name.clone()).try_lock().await? {
            Some(guard) => Ok(self.hold_lock(&name, guard)),
            None => Ok(format!("is refused {name}")),
        }
    }

    fn hold_lock(&self, name: &str, guard: MutexGuard) -> String {
        let token = guard.fencing_token();
        self.held.add(name, Hold::Lock(guard));
        format!("locked {name}, token {token}")
    }

    async fn campaign(self, name: String, value: String) -> Output {
        let candidate = Election::new(&self.session, name.clone()).enter(value).await?;
        self.wait_until_elected(name, candidate).await
    }

    async fn resume(self, name: String) -> Output {
        match Election::new(&self.session, name.clone()).resume().await? {
            Some(candidate) => self.wait_until_elected(name, candidate).await,
            None => Ok(format!("finds nothing to resume of {name}")),
        }
    }

    async fn wait_until_elected(self, name: String, candidate: Candidate) -> Output {
        self.proclaimers().insert(name.clone(), candidate.proclaimer());
        let leadership = candidate.elected().await?;
        let token = leadership.fencing_token();
        self.held.add(&name, Hold::Lead(leadership));
        Ok(format!("leads {name}, token {token}"))
    }

    async fn proclaim(self, name: String, value: String) -> Output {
        let proclaimer = self.proclaimers().get(&name).cloned();
        proclaimer.ok_or("has not campaigned")?.proclaim(value.clone()).await?;
        Ok(format!("proclaimed {value}"))
    }

    fn proclaimers(&self) -> StdGuard<'_, BTreeMap<String, Proclaimer>> {
        sync::lock(&self.proclaimers)
    }

    async fn leader(self, name: String) -> Output {
        let leader = Election::new(&self.session, name.clone()).leader().await?;
        Ok(leader_line(&name, leader.as_ref()))
    }

    async fn observe(self, name: String) -> Output {
        let mut leaders = Election::new(&self.session, name.clone()).observe();
        while let Some(leader) = leaders.next().await {
            let line = leader_line(&name, leader?.as_ref());
            self.log.note(&format!("{}: {line}", self.name));
        }
        Ok("sees no more".to_owned())
    }

    async fn release(self, name: String, done: &str) -> Output {
        self.held.take(&name).await?.release().await?;
        Ok(format!("{done} {name}"))
    }

    async fn drop(self, name: String) -> Output {
        drop(self.held.take(&name).await?);
        Ok(format!("dropped {name}"))
    }

    async fn lost(self, name: String) -> Output {
        let reason = self.held.get(&name)?.lost().await;
        Ok(format!("has lost {name}: {reason}"))
    }

    async fn request(self, name: String, reason: String) -> Output {
        Ok(match Mutex::new(&self.session, name.clone()).request_release(&reason).await? {
            Some(token) => format!("requested the release of {name} with token {token}"),
            None => format!("found no holder of {name}"),
        })
    }

    async fn requested(self, name: String) -> Output {
        let request = self.held.get(&name)?.release_requested().await?;
        Ok(format!("release of {name} requested: {}", request.reason))
    }

    async fn put(self, key: String, value: String) -> Output {
        self.session.client().put(key.clone(), value.clone()).await?;
        Ok(format!("put {key} = {value}"))
    }

    async fn get(self, key: String) -> Output {
        Ok(match self.session.client().get(key.clone()).await? {
            Some(kv) => format!("got {key} = {}", kv.value.escape_ascii()),
            None => format!("got no {key}"),
        })
    }

    async fn write(self, key: String, value: String, under: String) -> Output {
        let put = Put::new(key.clone(), value.clone());
        self.held.get(&under)?.txn(Txn::new().and_then([put])).await?;
        Ok(format!("wrote {key} = {value} under {under}"))
    }

    async fn orphan(self) -> Output {
        self.session.orphan().await?;
        Ok("left its lease to an adopter".to_owned())
    }

    async fn close(self) -> Output {
        self.session.close().await?;
        Ok("closed its session".to_owned())
    }
}

/// The line for the leader that a client sees.
fn leader_line(name: &str, leader: Option<&Leader>) -> String {
    match leader {
        Some(leader) => {
            let (value, token) = (leader.value().escape_ascii(), leader.fencing_token());
            format!("sees {value} lead {name}, token {token}")
        }
        None => format!("sees no leader of {name}"),
    }
}
