//! `election-*`: campaign and resign; proclaim, and have it observed.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use coord_core::election::{Leaders, Observer};
use coord_core::{Election, Session, election::Leadership, error::PrimitiveError};
use tokio::time::Instant;

use super::turns::Claim;
use super::{Facts, Worker, Workload};
use crate::bench::notes::Notes;
use crate::bench::store::Store;

/// A worker's candidacy, again and again, with a value of its own.
pub(crate) struct Campaigner {
    election: Election,
    value: String,
}

impl Claim for Campaigner {
    const TAKE: &'static str = "campaign";
    const GIVE_BACK: &'static str = "resign";

    type Held = Leadership;

    fn staked(session: &Session, name: String, worker: usize) -> Self {
        Self { election: Election::new(session, name), value: format!("candidate{worker}") }
    }

    async fn take(&self) -> Result<Leadership> {
        Ok(self.election.campaign(&self.value).await?)
    }

    async fn give_back(leadership: Leadership) -> Result<()> {
        Ok(leadership.resign().await.map_err(PrimitiveError::from)?)
    }
}

/// A leader proclaims, and an observer on a connection of its own waits for each value.
#[derive(Debug, Default)]
pub(crate) struct Observing;

/// The leader and the observer: one of each.
pub(crate) struct Proclaiming {
    leading: Session,
    leadership: Leadership,
    leaders: Leaders,
    sequence: u64,
}

impl Workload for Observing {
    type Worker = Proclaiming;

    async fn worker(&self, store: &Store, number: usize) -> Result<Proclaiming> {
        ensure!(number == 0, "election-observe takes one worker");
        let leading = Session::builder(Arc::clone(store.of_worker(number))).open().await?;
        let name = store.key("elect");
        let leadership = Election::new(&leading, name.clone()).campaign("0").await?;
        let leaders = Observer::new(store.another().await?, name).observe();
        let mut worker = Proclaiming { leading, leadership, leaders, sequence: 0 };
        worker.observed("0").await?;
        Ok(worker)
    }

    async fn judged(&self, _: &Store, _: u64) -> Result<Facts> {
        Ok(Facts::new())
    }
}

impl Proclaiming {
    /// Waits until the observer is shown this value.
    async fn observed(&mut self, value: &str) -> Result<()> {
        while let Some(leader) = self.leaders.next().await {
            if leader?.is_some_and(|leader| leader.value() == value) {
                return Ok(());
            }
        }
        bail!("the observer ended")
    }
}

impl Worker for Proclaiming {
    async fn step(&mut self, notes: &mut Notes) -> Result<()> {
        self.sequence += 1;
        let value = self.sequence.to_string();
        let begun = Instant::now();
        self.leadership.proclaim(value.clone()).await?;
        let proclaimed = Instant::now();
        self.observed(&value).await?;
        notes.add("observed", begun.elapsed());
        notes.add("proclaim", proclaimed - begun);
        Ok(())
    }

    async fn leave(self) -> Result<()> {
        Ok(self.leading.close().await?)
    }
}
