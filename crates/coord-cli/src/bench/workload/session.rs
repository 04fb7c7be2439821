//! The `session-cycle` workload: open a session and close it.

use std::time::Duration;

use anyhow::Result;
use coord_core::{Client, Session};
use tokio::time::Instant;

use super::{ReportFields, Worker, Workload};
use crate::bench::samples::Samples;
use crate::bench::store::Store;

/// Opens and closes sessions.
#[derive(Debug)]
pub(crate) struct SessionCycle {
    pub(crate) ttl: Duration,
}

pub(crate) struct SessionWorker {
    client: Client,
    ttl: Duration,
}

impl Workload for SessionCycle {
    type Worker = SessionWorker;

    async fn worker(&self, store: &Store, number: usize) -> Result<SessionWorker> {
        Ok(SessionWorker { client: store.connection(number).clone(), ttl: self.ttl })
    }

    async fn check(&self, _: &Store, _: u64) -> Result<ReportFields> {
        Ok(ReportFields::new())
    }
}

impl Worker for SessionWorker {
    async fn step(&mut self, samples: &mut Samples) -> Result<()> {
        let start = Instant::now();
        let session = Session::builder(&self.client).ttl(self.ttl).open().await?;
        let opened = Instant::now();
        session.close().await?;
        let closed = Instant::now();
        samples.add("cycle", closed - start);
        samples.add("open", opened - start);
        samples.add("close", closed - opened);
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        Ok(())
    }
}
