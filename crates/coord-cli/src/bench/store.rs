//! The store of a run: its connections, and a key prefix of its own.

use std::process;

use anyhow::{Context, Result};
use coord_core::{
    Client,
    kv::{Delete, Range, Revision, Txn},
    recipes::semaphore::limit_key,
};
use coord_mem::MemBackend;

use super::metrics::Metrics;
use super::scrape::MetricsEndpoint;
use crate::store::StoreFlags;

/// How many revisions a store in memory retains. The limit bounds the memory of a long run.
const RETAINED_REVISIONS: u64 = 100_000;

/// A store, reached over one or several connections.
pub(crate) struct Store {
    flags: StoreFlags,
    clients: Vec<Client>,
    /// The metrics of the first member; `None` for a store in memory.
    metrics: Option<MetricsEndpoint>,
    /// The prefix of every key of this run, except the limit of a semaphore: its key is the
    /// [`limit_key`] of a name with the prefix. No other run on this host has the prefix.
    prefix: String,
}

impl Store {
    /// Opens all connections and sends one request on each, so that no later request includes the
    /// connection setup.
    pub(crate) async fn connect(
        flags: &StoreFlags,
        conns: usize,
        prefix: &str,
        workload: &str,
    ) -> Result<Self> {
        let mut clients: Vec<Client> = Vec::new();
        let metrics = match flags.members()? {
            None => {
                let backend = MemBackend::builder().retain_revisions(RETAINED_REVISIONS).build();
                let shared = Client::new(backend);
                clients = vec![shared; conns];
                None
            }
            Some(members) => {
                for _ in 0..conns {
                    clients.push(flags.connect().await?);
                }
                let address = members.first().map(String::as_str).unwrap_or_default();
                Some(MetricsEndpoint::new(address, flags.certificates()?)?)
            }
        };
        // The process id and the store's revision identify the run on this host. A later run with
        // the same process id reads a later revision, because every run that has keys writes.
        let mut revision = Revision::ZERO;
        for client in &clients {
            let read = client.range(Range::new(prefix.to_owned())).await.context("connect")?;
            revision = read.header.revision;
        }
        let prefix = format!("{prefix}/{workload}/{}-{revision}/", process::id());
        Ok(Self { flags: flags.clone(), clients, metrics, prefix })
    }

    /// The connection of a worker.
    pub(crate) fn connection(&self, number: usize) -> &Client {
        &self.clients[number % self.clients.len()]
    }

    /// Opens a connection that no worker uses. A store in memory has one connection only.
    pub(crate) async fn new_connection(&self) -> Result<Client> {
        match self.flags.members()? {
            None => Ok(self.connection(0).clone()),
            Some(_) => self.flags.connect().await,
        }
    }

    /// A key of this run.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Reads the server's metrics after the requests in flight have reached it; `None` in memory.
    pub(crate) async fn settle_and_scrape(&self) -> Result<Option<Metrics>> {
        super::settle().await;
        match &self.metrics {
            Some(endpoint) => endpoint.scrape().await.context("metrics").map(Some),
            None => Ok(None),
        }
    }

    /// Deletes every key of this run.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        let keys = Delete::prefix(self.prefix.clone());
        let limits = Delete::prefix(limit_key(self.prefix.clone()));
        self.clients[0].txn(Txn::new().and_then([keys, limits])).await?;
        Ok(())
    }
}
