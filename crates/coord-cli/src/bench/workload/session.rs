//! `session-cycle`: open a session and close it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use coord_core::{KvBackend, Session};
use tokio::time::Instant;

use super::{Facts, Worker, Workload};
use crate::bench::notes::Notes;
use crate::bench::store::Store;

#[derive(Debug)]
pub(crate) struct SessionCycle {
    pub(crate) ttl: Duration,
}

pub(crate) struct Opener {
    kv: Arc<dyn KvBackend>,
    ttl: Duration,
}

impl Workload for SessionCycle {
    type Worker = Opener;

    async fn worker(&self, store: &Store, number: usize) -> Result<Opener> {
        Ok(Opener { kv: Arc::clone(store.of_worker(number)), ttl: self.ttl })
    }

    async fn judged(&self, _: &Store, _: u64) -> Result<Facts> {
        Ok(Facts::new())
    }
}

impl Worker for Opener {
    async fn step(&mut self, notes: &mut Notes) -> Result<()> {
        let begun = Instant::now();
        let session = Session::builder(&self.kv).ttl(self.ttl).open().await?;
        let opened = Instant::now();
        session.close().await?;
        let closed = Instant::now();
        notes.add("cycle", closed - begun);
        notes.add("open", opened - begun);
        notes.add("close", closed - opened);
        Ok(())
    }

    async fn leave(self) -> Result<()> {
        Ok(())
    }
}
