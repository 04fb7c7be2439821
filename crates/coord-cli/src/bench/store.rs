//! What the workloads work on: connections to a store, and a place in it that is theirs.

use std::process;
use std::sync::Arc;

use anyhow::{Context, Result};
use coord_core::{
    KvBackend,
    kv::{Delete, Range, Revision},
};
use coord_mem::MemBackend;

use super::metrics::Metrics;
use super::scrape::Member;
use crate::store::StoreFlags;

/// How much history a store in memory keeps, so that a long run does not fill the machine.
const RETAINED_REVISIONS: u64 = 100_000;

/// A store, over one or several connections.
pub(crate) struct Store {
    flags: StoreFlags,
    backends: Vec<Arc<dyn KvBackend>>,
    /// The member whose counters are read.
    member: Option<Member>,
    /// Starts every key of this run, and no other key.
    prefix: String,
}

impl Store {
    /// Opens all connections, and makes a call on each, so that no later one pays for it.
    pub(crate) async fn connect(
        flags: &StoreFlags,
        conns: usize,
        prefix: &str,
        workload: &str,
    ) -> Result<Self> {
        let mut backends: Vec<Arc<dyn KvBackend>> = Vec::new();
        let member = match flags.members()? {
            None => {
                let kv = MemBackend::builder().retain_revisions(RETAINED_REVISIONS).build();
                let shared = Client::new(kv);
                backends = vec![shared; conns];
                None
            }
            Some(members) => {
                for _ in 0..conns {
                    backends.push(flags.connect().await?);
                }
                let address = members.first().map(String::as_str).unwrap_or_default();
                Some(Member::new(address, flags.certificates()?)?)
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
        Ok(Self { flags: flags.clone(), backends, member, prefix })
    }

    /// The connection of a worker.
    pub(crate) fn of_worker(&self, number: usize) -> &Arc<dyn KvBackend> {
        &self.backends[number % self.backends.len()]
    }

    /// A connection that no worker has.
    pub(crate) async fn another(&self) -> Result<Arc<dyn KvBackend>> {
        match self.flags.members()? {
            None => Ok(Arc::clone(self.of_worker(0))),
            Some(_) => self.flags.connect().await,
        }
    }

    /// A key of this run.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The server's counters, once what is under way has reached it; `None` in memory.
    pub(crate) async fn settled(&self) -> Result<Option<Metrics>> {
        super::settle().await;
        match &self.member {
            Some(member) => member.scraped().await.context("metrics").map(Some),
            None => Ok(None),
        }
    }

    /// Deletes every key of this run.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        self.backends[0].delete(Delete::prefix(self.prefix.clone())).await?;
        Ok(())
    }
}
