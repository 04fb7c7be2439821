//! The `election-*` workloads: campaign and resign, or proclaim and observe.

use anyhow::{Result, bail, ensure};
use coord_core::election::{Leaders, Leadership};
use coord_core::error::PrimitiveError;
use coord_core::{Election, Session};
use tokio::time::Instant;

use super::lock_cycle::LockLike;
use super::{ReportFields, Worker, Workload};
use crate::bench::samples::Samples;
use crate::bench::store::Store;

/// One worker that campaigns with its own value.
pub(crate) struct Candidate {
    election: Election,
    value: String,
}

impl Candidate {
    /// The candidate of the worker with this number.
    pub(crate) fn new(session: &Session, name: String, worker: usize) -> Self {
        Self { election: Election::new(session, name), value: format!("candidate{worker}") }
    }
}

impl LockLike for Candidate {
    const ACQUIRE_SERIES: &'static str = "campaign";
    const RELEASE_SERIES: &'static str = "resign";

    type Held = Leadership;

    async fn acquire(&self) -> Result<Leadership> {
        Ok(self.election.campaign(&self.value).await?)
    }

    async fn release(leadership: Leadership) -> Result<()> {
        Ok(leadership.resign().await.map_err(PrimitiveError::from)?)
    }
}

/// A leader proclaims values, and an observer on another connection waits for each.
#[derive(Debug, Default)]
pub(crate) struct ObserveWorkload;

/// The leader and its observer.
pub(crate) struct ObserveWorker {
    session: Session,
    leadership: Leadership,
    leaders: Leaders,
    sequence: u64,
}

impl Workload for ObserveWorkload {
    type Worker = ObserveWorker;

    async fn worker(&self, store: &Store, number: usize) -> Result<ObserveWorker> {
        ensure!(number == 0, "election-observe runs with one worker");
        let session = Session::builder(store.connection(number)).open().await?;
        let name = store.key("elect");
        let leadership = Election::new(&session, name.clone()).campaign("0").await?;
        let leaders = Election::observer(&store.new_connection().await?, name).observe();
        let mut worker = ObserveWorker { session, leadership, leaders, sequence: 0 };
        worker.wait_observed("0").await?;
        Ok(worker)
    }

    async fn check(&self, _: &Store, _: u64) -> Result<ReportFields> {
        Ok(ReportFields::new())
    }
}

impl ObserveWorker {
    /// Waits until the observer receives this value.
    async fn wait_observed(&mut self, value: &str) -> Result<()> {
        while let Some(leader) = self.leaders.next().await {
            if leader?.is_some_and(|leader| leader.value() == value) {
                return Ok(());
            }
        }
        bail!("the observer ended")
    }
}

impl Worker for ObserveWorker {
    async fn step(&mut self, samples: &mut Samples) -> Result<()> {
        self.sequence += 1;
        let value = self.sequence.to_string();
        let start = Instant::now();
        self.leadership.proclaim(value.clone()).await?;
        let proclaimed = Instant::now();
        self.wait_observed(&value).await?;
        samples.add("observed", start.elapsed());
        samples.add("proclaim", proclaimed - start);
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        Ok(self.session.close().await?)
    }
}
