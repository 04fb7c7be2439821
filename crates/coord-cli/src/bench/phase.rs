//! A phase of a run: all workers repeat their operation until a time limit or an operation count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::flags::RunFlags;
use super::progress;
use super::samples::Samples;
use super::stats::Summary;
use super::workload::Worker;

/// When a phase ends: at the time limit, or at the operation count if there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PhaseLimit {
    time: Duration,
    /// For all workers together.
    operations: Option<u64>,
}

impl PhaseLimit {
    /// The limit of the warm-up; `None` if the flags disable the warm-up.
    pub(crate) fn of_warm_up(flags: &RunFlags) -> Option<Self> {
        let operations = (flags.warmup_count > 0).then_some(flags.warmup_count);
        let time = match flags.warmup {
            Duration::ZERO => Duration::from_secs(60),
            time => time,
        };
        let enabled = operations.is_some() || !flags.warmup.is_zero();
        enabled.then_some(Self { time, operations })
    }

    /// The limit of the measured phase. With a count, the time limit is at least 60 s.
    pub(crate) fn of_measurement(flags: &RunFlags) -> Self {
        match flags.count {
            0 => Self { time: flags.duration, operations: None },
            count => {
                let time = flags.duration.max(Duration::from_secs(60));
                Self { time, operations: Some(count) }
            }
        }
    }
}

/// A running phase.
#[derive(Debug)]
pub(crate) struct Phase {
    limit: PhaseLimit,
    start: Instant,
    /// The number of started operations, plus one for each worker that the limit has stopped. 0 if
    /// the limit has no operation count.
    claimed: AtomicU64,
}

/// The workers of a completed phase, and their samples.
#[derive(Debug)]
pub(crate) struct PhaseResult<W> {
    pub(crate) workers: Vec<W>,
    pub(crate) elapsed: Duration,
    samples: Vec<Samples>,
}

impl Phase {
    /// Starts a phase now.
    pub(crate) fn new(limit: PhaseLimit) -> Self {
        Self { limit, start: Instant::now(), claimed: AtomicU64::new(0) }
    }

    /// Claims one more operation, which the caller must run then; `false` if the phase is over.
    fn claim_operation(&self) -> bool {
        let claimed = |count| self.claimed.fetch_add(1, Ordering::Relaxed) < count;
        self.limit.operations.is_none_or(claimed) && self.start.elapsed() < self.limit.time
    }

    /// The progress from 0 to 1: the elapsed share of the time, or of the count if that is larger.
    pub(crate) fn progress(&self) -> f64 {
        let share = |part: f64, whole: f64| if whole > 0.0 { (part / whole).min(1.0) } else { 1.0 };
        let of_time = share(self.start.elapsed().as_secs_f64(), self.limit.time.as_secs_f64());
        let claimed = self.claimed.load(Ordering::Relaxed) as f64;
        let of_count = self.limit.operations.map(|count| share(claimed, count as f64));
        of_time.max(of_count.unwrap_or_default())
    }

    /// Runs all workers, and waits until each has completed its last operation. The first error
    /// ends the phase. The progress bar shows `label`.
    pub(crate) async fn run<W: Worker>(
        self,
        label: &str,
        workers: Vec<W>,
    ) -> Result<PhaseResult<W>> {
        let phase = Arc::new(self);
        let mut tasks = JoinSet::new();
        for (number, mut worker) in workers.into_iter().enumerate() {
            let phase = Arc::clone(&phase);
            tasks.spawn(async move {
                let mut samples = Samples::default();
                while phase.claim_operation() {
                    worker.step(&mut samples).await?;
                    samples.operations += 1;
                }
                Ok::<_, anyhow::Error>((number, worker, samples))
            });
        }
        let all = async {
            let mut completed = Vec::new();
            while let Some(worker) = tasks.join_next().await {
                completed.push(worker.context("a worker")??);
            }
            Ok::<_, anyhow::Error>(completed)
        };
        let mut completed = progress::with_bar(label, || phase.progress(), all).await?;
        let elapsed = phase.start.elapsed();
        completed.sort_unstable_by_key(|(number, ..)| *number);
        let completed = completed.into_iter().map(|(_, worker, samples)| (worker, samples));
        let (workers, samples) = completed.unzip();
        Ok(PhaseResult { workers, elapsed, samples })
    }
}

impl<W> PhaseResult<W> {
    /// The number of completed operations of each worker.
    pub(crate) fn by_worker(&self) -> Vec<u64> {
        self.samples.iter().map(|samples| samples.operations).collect()
    }

    /// The number of completed operations.
    pub(crate) fn operations(&self) -> u64 {
        self.by_worker().iter().sum()
    }

    /// Summarizes the latencies of all workers, by series.
    pub(crate) fn summaries(&mut self) -> BTreeMap<&'static str, Summary> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for (name, latencies) in self.samples.iter_mut().flat_map(|samples| &mut samples.series) {
            all.entry(*name).or_default().append(latencies);
        }
        let summaries = all.into_iter().map(|(name, latencies)| (name, Summary::of(latencies)));
        summaries.filter_map(|(name, summary)| Some((name, summary?))).collect()
    }
}
