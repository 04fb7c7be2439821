//! What the workloads work on: connections to a store, and a place in it that is theirs.

use std::process;
use std::sync::Arc;

use anyhow::{Context, Result};
use coord_core::{Delete, KvBackend, Range, Revision};
use coord_etcd::EtcdBackend;
use coord_mem::MemBackend;

use super::flags::Endpoint;
use super::metrics::Metrics;

/// How much history a store in memory keeps, so that a long run does not fill the machine.
const RETAINED_REVISIONS: u64 = 100_000;

/// A store, over one or several connections.
pub(crate) struct Store {
    backends: Vec<Arc<dyn KvBackend>>,
    /// The member whose counters are read.
    member: Option<String>,
    /// Starts every key of this run, and no other key.
    prefix: String,
}

impl Store {
    /// Opens all connections, and makes a call on each, so that no later one pays for it.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        conns: usize,
        prefix: &str,
        workload: &str,
    ) -> Result<Self> {
        let (backends, member) = match endpoint {
            Endpoint::Mem => {
                let kv = MemBackend::builder().retain_revisions(RETAINED_REVISIONS).build();
                let shared: Arc<dyn KvBackend> = Arc::new(kv);
                (vec![shared; conns], None)
            }
            Endpoint::Etcd(members) => {
                let mut backends: Vec<Arc<dyn KvBackend>> = Vec::new();
                for _ in 0..conns {
                    let kv = EtcdBackend::connect(members).await;
                    let kv = kv.with_context(|| format!("connect to {}", members.join(",")))?;
                    backends.push(Arc::new(kv));
                }
                (backends, members.first().cloned())
            }
        };
        // The process and the revision name the run: a later run of the same process number finds
        // a later revision, for every run writes.
        let mut revision = Revision::ZERO;
        for kv in &backends {
            let looked = kv.range(Range::new(prefix.to_owned())).await.context("connect")?;
            revision = looked.header.revision;
        }
        let prefix = format!("{prefix}/{workload}/{}-{revision}/", process::id());
        Ok(Self { backends, member, prefix })
    }

    /// The connection of a worker.
    pub(crate) fn of_worker(&self, number: usize) -> &Arc<dyn KvBackend> {
        &self.backends[number % self.backends.len()]
    }

    /// A key of this run.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The server's counters, once what is under way has reached it; `None` in memory.
    pub(crate) async fn settled(&self) -> Result<Option<Metrics>> {
        super::settle().await;
        match &self.member {
            Some(member) => Metrics::scraped(member).await.context("metrics").map(Some),
            None => Ok(None),
        }
    }

    /// Deletes every key of this run.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        self.backends[0].delete_with(Delete::prefix(self.prefix.clone())).await?;
        Ok(())
    }
}
