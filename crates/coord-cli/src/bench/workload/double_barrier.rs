//! The `double-barrier` workload: the parties of a double barrier enter a round, and leave it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coord_core::Session;
use coord_core::recipes::DoubleBarrier;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{ReportFields, Worker, Workload};
use crate::bench::flags::DoubleBarrierFlags;
use crate::bench::samples::Samples;
use crate::bench::store::Store;

/// Each worker has a double barrier and all its parties.
pub(crate) struct DoubleBarrierWorkload {
    pub(crate) flags: DoubleBarrierFlags,
}

pub(crate) struct DoubleBarrierWorker {
    sessions: Vec<Session>,
    parties: Vec<DoubleBarrier>,
    round: u64,
}

impl Workload for DoubleBarrierWorkload {
    type Worker = DoubleBarrierWorker;

    async fn worker(&self, store: &Store, number: usize) -> Result<DoubleBarrierWorker> {
        let DoubleBarrierFlags { session, parties: count } = &self.flags;
        let name = store.key(&format!("of-worker-{number}"));
        let (mut sessions, mut parties) = (Vec::new(), Vec::new());
        for party in number..number + count.get() {
            let builder = Session::builder(store.connection(party)).ttl(session.ttl());
            let session = builder.open().await?;
            parties.push(DoubleBarrier::new(&session, name.clone(), count.get())?);
            sessions.push(session);
        }
        Ok(DoubleBarrierWorker { sessions, parties, round: 0 })
    }

    async fn check(&self, _: &Store, _: u64) -> Result<ReportFields> {
        Ok([("parties".to_owned(), json!(self.flags.parties))].into_iter().collect())
    }
}

/// How many parties have come to the start of a round, and to its end.
#[derive(Debug, Default)]
struct Arrivals {
    entering: AtomicUsize,
    leaving: AtomicUsize,
}

/// Enters a round and leaves it as one of `count` parties. Returns how long each took.
async fn pass(
    party: DoubleBarrier,
    round: u64,
    arrivals: Arc<Arrivals>,
    count: usize,
) -> Result<(Duration, Duration)> {
    let start = Instant::now();
    arrivals.entering.fetch_add(1, Ordering::SeqCst);
    let inside = party.enter(round).await?;
    let entered = Instant::now();
    let entering = arrivals.entering.load(Ordering::SeqCst);
    ensure!(entering == count, "a party has entered before all have arrived");

    arrivals.leaving.fetch_add(1, Ordering::SeqCst);
    inside.leave().await?;
    let left = Instant::now();
    let leaving = arrivals.leaving.load(Ordering::SeqCst);
    ensure!(leaving == count, "a party has left before all were at the end");
    Ok((entered - start, left - entered))
}

impl Worker for DoubleBarrierWorker {
    async fn step(&mut self, samples: &mut Samples) -> Result<()> {
        self.round += 1;
        let (arrivals, count) = (Arc::new(Arrivals::default()), self.parties.len());
        let start = Instant::now();
        let mut passing = JoinSet::new();
        for party in self.parties.iter().cloned() {
            passing.spawn(pass(party, self.round, Arc::clone(&arrivals), count));
        }
        while let Some(passed) = passing.join_next().await {
            let (enter, leave) = passed.context("a party")??;
            samples.add("enter", enter);
            samples.add("leave", leave);
        }
        samples.add("cycle", start.elapsed());
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        for session in self.sessions {
            session.close().await?;
        }
        Ok(())
    }
}
