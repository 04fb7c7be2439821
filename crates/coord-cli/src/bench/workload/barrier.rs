//! The `barrier` workload: hold a barrier, let waiters wait, and release it.
//!
//! ```text
//! holder   --hold--|hold time|--release--
//! waiters          |-----------wait---------------|
//!                            |----- passed -------|
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coord_core::Session;
use coord_core::error::PrimitiveError;
use coord_core::recipes::Barrier;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{ReportFields, Worker, Workload};
use crate::bench::flags::BarrierFlags;
use crate::bench::samples::Samples;
use crate::bench::store::Store;

/// Each worker has a barrier with its own waiters.
pub(crate) struct BarrierWorkload {
    pub(crate) flags: BarrierFlags,
}

pub(crate) struct BarrierWorker {
    session: Session,
    held: Barrier,
    waiters: Vec<Barrier>,
    hold: Duration,
}

impl Workload for BarrierWorkload {
    type Worker = BarrierWorker;

    async fn worker(&self, store: &Store, number: usize) -> Result<BarrierWorker> {
        let BarrierFlags { hold, waiters } = &self.flags;
        let client = store.connection(number);
        let session = Session::builder(client).ttl(hold.session.ttl()).open().await?;
        let name = store.key(&format!("of-worker-{number}"));
        let waiters = number..number + waiters.get();
        let waiters = waiters.map(|waiter| Barrier::new(store.connection(waiter), name.clone()));
        Ok(BarrierWorker {
            session,
            waiters: waiters.collect(),
            held: Barrier::new(client, name),
            hold: hold.hold,
        })
    }

    async fn check(&self, _: &Store, _: u64) -> Result<ReportFields> {
        let fields = [
            ("hold_us".to_owned(), json!(self.flags.hold.hold.as_micros())),
            ("waiters".to_owned(), json!(self.flags.waiters)),
        ];
        Ok(fields.into_iter().collect())
    }
}

impl Worker for BarrierWorker {
    async fn step(&mut self, samples: &mut Samples) -> Result<()> {
        let start = Instant::now();
        let guard = self.held.hold(&self.session).await?.context("the barrier is held already")?;
        let held = Instant::now();
        let is_released = Arc::new(AtomicBool::new(false));
        let mut waiting = JoinSet::new();
        for waiter in &self.waiters {
            let (waiter, is_released) = (waiter.clone(), Arc::clone(&is_released));
            waiting.spawn(async move {
                waiter.wait().await?;
                ensure!(is_released.load(Ordering::SeqCst), "a waiter passed a held barrier");
                Ok(())
            });
        }
        if !self.hold.is_zero() {
            sleep(self.hold).await;
        }
        let release_start = Instant::now();
        is_released.store(true, Ordering::SeqCst);
        guard.release().await.map_err(PrimitiveError::from)?;
        while let Some(passed) = waiting.join_next().await {
            passed.context("a waiter")??;
        }
        let passed = Instant::now();

        samples.add("cycle", passed - start);
        samples.add("hold", held - start);
        samples.add("passed", passed - release_start);
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        Ok(self.session.close().await?)
    }
}
