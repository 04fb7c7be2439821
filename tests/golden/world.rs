//! A store, its clients, and the steps of a script.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use coord_core::{
    Client,
    kv::{Compact, LeaseId, Range, Revision},
    queue::FencingToken,
};
use coord_mem::MemBackend;
use goldenscript::{Context, Runner};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use crate::client::{Answer, Client};
use crate::command::{Command, Said};
use crate::log::Log;
use crate::work::Failure;

type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// How long a step takes at least, in which everything happens that needs no time.
const DRAIN: Duration = Duration::from_millis(1);

/// Runs a script, on a clock of its own.
pub(crate) struct Script {
    runtime: Runtime,
    world: World,
}

struct World {
    store: MemBackend,
    clients: BTreeMap<String, Client>,
    /// Who opened the session that a lease was granted to.
    owners: BTreeMap<LeaseId, String>,
    /// The largest token that each resource has seen.
    resources: BTreeMap<String, FencingToken>,
    log: Log,
}

impl Script {
    pub(crate) fn new() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let world = runtime.block_on(async {
            World {
                store: MemBackend::builder().seed(0).build(),
                clients: BTreeMap::new(),
                owners: BTreeMap::new(),
                resources: BTreeMap::new(),
                log: Log::new(),
            }
        });
        Ok(Self { runtime, world })
    }
}

impl Runner for Script {
    type Command = Said;

    fn run(&mut self, said: &Said, context: &Context) -> Result<String, Box<dyn Error>> {
        self.runtime.block_on(self.world.step(said, context)).map_err(|error| error as _)
    }
}

impl World {
    /// Takes a step, and tells everything that happened in it.
    async fn step(&mut self, said: &Said, context: &Context) -> Result<String> {
        if let Some(tag) = context.tags.iter().find(|tag| *tag != "requests") {
            return Err(format!("no such tag: {tag}").into());
        }
        self.log.begin();
        let obeyed = self.obey(said, context.prefix.as_deref()).await;
        sleep(DRAIN).await;
        let failed = match obeyed {
            Ok(None) => false,
            Ok(Some(answer)) => {
                answer.note_if_waiting();
                answer.is_failure()
            }
            Err(error) => {
                let whose = context.prefix.as_ref().map(|name| format!("{name}: "));
                self.log.note(&format!("{}failed: {error}", whose.unwrap_or_default()));
                true
            }
        };
        // Of the whole step, so without a time.
        self.log.begin();
        self.note_requests(context.tags.contains("requests"));
        let lines = self.log.take();
        if failed { Err(lines.into()) } else { Ok(lines) }
    }

    /// Has a command done, or begun, by whoever it is for.
    async fn obey(&mut self, said: &Said, client: Option<&str>) -> Result<Option<Answer>> {
        match &said.command {
            Command::Advance(secs) => sleep(Duration::from_secs(*secs)).await,
            Command::Compact => self.compact().await?,
            Command::Line(name) => self.note_line(name).await?,
            Command::Revision => {
                let revision = self.revision().await?;
                self.log.note(&format!("revision {revision}"));
            }
            _ => {
                let name = client.ok_or("whose command is this? Put `c1: ` before it")?;
                return self.obey_client(said, name).await;
            }
        }
        Ok(None)
    }

    async fn obey_client(&mut self, said: &Said, name: &str) -> Result<Option<Answer>> {
        match &said.command {
            Command::Open { ttl, adopt } => {
                let lease = adopt.as_ref().map(|name| self.lease_of(name)).transpose()?;
                self.clients.remove(name);
                self.open(name, ttl.unwrap_or(10), lease).await?;
            }
            Command::Crash => self.clients.remove(name).ok_or("no such client")?.crash(),
            Command::Show(held, resource) => self.show(name, held, resource)?,
            Command::Revoke => {
                self.store.lease_revoke(self.lease_of(name)?).await?;
            }
            Command::DeleteKey(line) => self.delete_key(name, line).await?,
            _ => {
                if !self.clients.contains_key(name) {
                    self.open(name, 10, None).await?;
                }
                return self.clients.get_mut(name).ok_or("no such client")?.obey(said);
            }
        }
        Ok(None)
    }

    async fn open(&mut self, name: &str, ttl: u64, lease: Option<LeaseId>) -> Result {
        let ttl = Duration::from_secs(ttl);
        let client = Client::open(name, &self.store, ttl, lease, self.log.clone()).await?;
        self.owners.entry(client.lease()).or_insert_with(|| name.to_owned());
        self.clients.insert(name.to_owned(), client);
        Ok(())
    }

    /// The lease that was granted to a client last.
    fn lease_of(&self, name: &str) -> Result<LeaseId> {
        let owner = self.owners.iter().rev().find(|(_, owner)| *owner == name);
        Ok(*owner.ok_or("this client had no lease")?.0)
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

    /// The keys of a line, in order, with whose they are.
    async fn line(&self, name: &str) -> Result<Vec<(String, &str)>> {
        let prefix = format!("{name}/");
        let mut kvs = self.store.get_prefix(prefix.clone()).await?;
        kvs.sort_by_key(|kv| kv.create_revision);
        let keys = kvs.iter().map(|kv| {
            let owner = kv.lease.and_then(|lease| self.owners.get(&lease));
            (kv.key.escape_ascii().to_string(), owner.map_or("somebody", String::as_str))
        });
        // What has another slash in it stands in a line below.
        Ok(keys.filter(|(key, _)| !key[prefix.len()..].contains('/')).collect())
    }

    async fn note_line(&self, name: &str) -> Result {
        let line = self.line(name).await?;
        let names: Vec<_> = line.iter().map(|(_, name)| *name).collect();
        let names = if names.is_empty() { "nobody".to_owned() } else { names.join(" ") };
        self.log.note(&format!("line {name}: {names}"));
        Ok(())
    }

    async fn delete_key(&self, client: &str, line: &str) -> Result {
        let keys = self.line(line).await?;
        let key = keys.into_iter().find(|(_, owner)| *owner == client);
        let (key, _) = key.ok_or("this client has no key there")?;
        self.store.delete(key).await?;
        Ok(())
    }

    /// Shows a token to a resource that remembers the largest it has seen.
    fn show(&mut self, client: &str, held: &str, resource: &str) -> Result {
        let token = self.clients.get(client).ok_or("no such client")?.token(held)?;
        let seen = self.resources.entry(resource.to_owned()).or_insert(token);
        let verdict = if token < *seen {
            format!("refuses {client}'s token {token}: it has seen {seen}")
        } else {
            *seen = token;
            format!("accepts {client}'s token {token}")
        };
        self.log.note(&format!("{resource}: {verdict}"));
        Ok(())
    }

    /// Notes what each client has sent in this step, or forgets it.
    fn note_requests(&self, wanted: bool) {
        for (name, client) in &self.clients {
            let calls = client.requests();
            if wanted && !calls.0.is_empty() {
                self.log.note(&format!("{name}: sent {}", calls.names()));
            }
        }
    }
}
