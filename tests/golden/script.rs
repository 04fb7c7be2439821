//! The store and the clients of a golden script, and the commands of an operator.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use coord_core::kv::{Compact, FencingToken, LeaseId, Range, Revision};
use coord_mem::MemBackend;
use goldenscript::{Context, Runner};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use crate::client::{Client, CommandStatus};
use crate::client_commands::Failure;
use crate::command::{Command, CommandLine};
use crate::log::Log;

type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// The time after the command of each step, in which all tasks run until they are idle.
const STEP_DURATION: Duration = Duration::from_millis(1);

/// Runs a script on its own paused clock.
pub(crate) struct Script {
    runtime: Runtime,
    state: ScriptState,
}

/// The state that the steps of a script share.
struct ScriptState {
    store: coord_core::Client,
    clients: BTreeMap<String, Client>,
    /// The client to whose session each lease was granted.
    owners: BTreeMap<LeaseId, String>,
    /// The largest fencing token that each external resource has seen.
    resources: BTreeMap<String, FencingToken>,
    log: Log,
}

impl Script {
    pub(crate) fn new() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let state = runtime.block_on(async {
            ScriptState {
                store: coord_core::Client::new(MemBackend::builder().seed(0).build()),
                clients: BTreeMap::new(),
                owners: BTreeMap::new(),
                resources: BTreeMap::new(),
                log: Log::new(),
            }
        });
        Ok(Self { runtime, state })
    }
}

impl Runner for Script {
    type Command = CommandLine;

    fn run(&mut self, line: &CommandLine, context: &Context) -> Result<String, Box<dyn Error>> {
        self.runtime.block_on(self.state.step(line, context)).map_err(|error| error as _)
    }
}

impl ScriptState {
    /// Runs a step and returns its lines.
    async fn step(&mut self, line: &CommandLine, context: &Context) -> Result<String> {
        if let Some(tag) = context.tags.iter().find(|tag| *tag != "requests") {
            return Err(format!("unknown tag [{tag}]: only [requests] exists").into());
        }
        self.log.start_step();
        let started = self.run(line, context.prefix.as_deref()).await;
        sleep(STEP_DURATION).await;
        let failed = match started {
            Ok(None) => false,
            Ok(Some(status)) => {
                status.note_if_waiting();
                status.is_failure()
            }
            Err(error) => {
                let prefix = context.prefix.as_ref().map(|name| format!("{name}: "));
                self.log.note(&format!("{}failed: {error}", prefix.unwrap_or_default()));
                true
            }
        };
        // The requests belong to the whole step, so their lines have no timestamp.
        self.log.start_step();
        self.note_requests(context.tags.contains("requests"));
        let lines = self.log.take();
        if failed { Err(lines.into()) } else { Ok(lines) }
    }

    /// Runs or starts a command, on the store or for a client.
    async fn run(
        &mut self,
        line: &CommandLine,
        client: Option<&str>,
    ) -> Result<Option<CommandStatus>> {
        match &line.command {
            Command::Advance(secs) => sleep(Duration::from_secs(*secs)).await,
            Command::Compact => self.compact().await?,
            Command::Queue(name) => self.note_queue(name).await?,
            Command::Revision => {
                let revision = self.revision().await?;
                self.log.note(&format!("revision {revision}"));
            }
            _ => {
                let name = client.ok_or("the command needs a client: put `c1: ` before it")?;
                return self.run_for_client(line, name).await;
            }
        }
        Ok(None)
    }

    async fn run_for_client(
        &mut self,
        line: &CommandLine,
        name: &str,
    ) -> Result<Option<CommandStatus>> {
        match &line.command {
            Command::Open { ttl, lock_delay, adopt } => {
                let lease = adopt.as_ref().map(|name| self.lease_of(name)).transpose()?;
                self.clients.remove(name);
                let times = [ttl.unwrap_or(10), lock_delay.unwrap_or_default()];
                self.open(name, times, lease).await?;
            }
            Command::Crash => self.clients.remove(name).ok_or_else(|| no_client(name))?.crash(),
            Command::Show(held, resource) => self.show(name, held, resource)?,
            Command::Revoke => {
                self.store.lease_revoke(self.lease_of(name)?).await?;
            }
            Command::DeleteKey(queue) => self.delete_key(name, queue).await?,
            _ => {
                if !self.clients.contains_key(name) {
                    self.open(name, [10, 0], None).await?;
                }
                return self.clients.get_mut(name).ok_or_else(|| no_client(name))?.run(line);
            }
        }
        Ok(None)
    }

    /// Opens a session with a TTL and a lock-delay in seconds.
    async fn open(&mut self, name: &str, times: [u64; 2], lease: Option<LeaseId>) -> Result {
        let times = times.map(Duration::from_secs);
        let client = Client::open(name, &self.store, times, lease, self.log.clone()).await?;
        self.owners.entry(client.lease()).or_insert_with(|| name.to_owned());
        self.clients.insert(name.to_owned(), client);
        Ok(())
    }

    /// The lease that was last granted to a client.
    fn lease_of(&self, name: &str) -> Result<LeaseId> {
        let owner = self.owners.iter().rev().find(|(_, owner)| *owner == name);
        Ok(*owner.ok_or_else(|| format!("{name} had no lease: open it first"))?.0)
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.store.range(Range::new("any")).await?.header.revision)
    }

    async fn compact(&self) -> Result {
        let revision = self.revision().await?;
        self.store.compact(Compact::new(revision)).await?;
        self.log.note(&format!("compacted at revision {revision}"));
        Ok(())
    }

    /// The keys of a wait queue in order, each with its client.
    async fn queue(&self, name: &str) -> Result<Vec<(String, &str)>> {
        let prefix = format!("{name}/");
        let mut kvs = self.store.get_prefix(prefix.clone()).await?;
        kvs.sort_by_key(|kv| kv.create_revision);
        let keys = kvs.iter().map(|kv| {
            let owner = kv.lease.and_then(|lease| self.owners.get(&lease));
            (kv.key.escape_ascii().to_string(), owner.map_or("unknown", String::as_str))
        });
        // A key with another slash belongs to the queue of a child name.
        Ok(keys.filter(|(key, _)| !key[prefix.len()..].contains('/')).collect())
    }

    async fn note_queue(&self, name: &str) -> Result {
        let queue = self.queue(name).await?;
        let names: Vec<_> = queue.iter().map(|(_, name)| *name).collect();
        let names = if names.is_empty() { "empty".to_owned() } else { names.join(" ") };
        self.log.note(&format!("queue {name}: {names}"));
        Ok(())
    }

    async fn delete_key(&self, client: &str, queue: &str) -> Result {
        let keys = self.queue(queue).await?;
        let key = keys.into_iter().find(|(_, owner)| *owner == client);
        let (key, _) = key.ok_or_else(|| format!("{client} has no key in the queue {queue}"))?;
        self.store.delete(key).await?;
        Ok(())
    }

    /// Presents a fencing token to a resource, which refuses a token below the largest it has seen.
    fn show(&mut self, client: &str, held: &str, resource: &str) -> Result {
        let token = self.clients.get(client).ok_or_else(|| no_client(client))?.token(held)?;
        let seen = self.resources.entry(resource.to_owned()).or_insert(token);
        let result = if token < *seen {
            format!("refuses {client}'s token {token}: it has seen {seen}")
        } else {
            *seen = token;
            format!("accepts {client}'s token {token}")
        };
        self.log.note(&format!("{resource}: {result}"));
        Ok(())
    }

    /// Prints the requests that each client sent in this step, if `wanted`, and discards them.
    fn note_requests(&self, wanted: bool) {
        for (name, client) in &self.clients {
            let calls = client.requests();
            if wanted && !calls.0.is_empty() {
                self.log.note(&format!("{name}: sent {}", calls.names()));
            }
        }
    }
}

/// The error of a command for a client without a session.
fn no_client(name: &str) -> String {
    format!("no client {name}: open it first")
}
