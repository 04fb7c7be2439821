//! Workers at work: each repeats its operation until time or count is up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::figures::Summary;
use super::flags::RunFlags;
use super::notes::Notes;
use super::progress;
use super::workload::Worker;

/// When a phase ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    time: Duration,
    /// In all, not for each worker.
    operations: Option<u64>,
}

impl Limit {
    /// `None` if there is to be no warm-up.
    pub(crate) fn of_warm_up(flags: &RunFlags) -> Option<Self> {
        let operations = (flags.warmup_count > 0).then_some(flags.warmup_count);
        let time = match flags.warmup {
            Duration::ZERO => Duration::from_secs(60),
            time => time,
        };
        let wanted = operations.is_some() || !flags.warmup.is_zero();
        wanted.then_some(Self { time, operations })
    }

    /// With a count, time is but a cap.
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

/// A time in which all workers repeat their operation.
#[derive(Debug)]
pub(crate) struct Phase {
    limit: Limit,
    begun: Instant,
    /// Operations that were begun, and one more for each worker that was stopped by the count.
    claimed: AtomicU64,
}

/// What a phase gave.
#[derive(Debug)]
pub(crate) struct Done<W> {
    pub(crate) workers: Vec<W>,
    pub(crate) elapsed: Duration,
    notes: Vec<Notes>,
}

impl Phase {
    /// It begins now.
    pub(crate) fn new(limit: Limit) -> Self {
        Self { limit, begun: Instant::now(), claimed: AtomicU64::new(0) }
    }

    /// Whether there is time for one more operation, which is then to be made.
    fn goes_on(&self) -> bool {
        let claimed = |count| self.claimed.fetch_add(1, Ordering::Relaxed) < count;
        self.limit.operations.is_none_or(claimed) && self.begun.elapsed() < self.limit.time
    }

    /// How much of it is over, from 0 to 1: of its time, or of its operations if that is more.
    pub(crate) fn progress(&self) -> f64 {
        let share = |part: f64, whole: f64| if whole > 0.0 { (part / whole).min(1.0) } else { 1.0 };
        let of_time = share(self.begun.elapsed().as_secs_f64(), self.limit.time.as_secs_f64());
        let claimed = self.claimed.load(Ordering::Relaxed) as f64;
        let of_count = self.limit.operations.map(|count| share(claimed, count as f64));
        of_time.max(of_count.unwrap_or_default())
    }

    /// Has all workers work, and waits until the last has completed its last operation. The first
    /// error ends the phase. `what` it is called where its progress is shown.
    pub(crate) async fn run<W: Worker>(self, what: &str, workers: Vec<W>) -> Result<Done<W>> {
        let phase = Arc::new(self);
        let mut tasks = JoinSet::new();
        for (number, mut worker) in workers.into_iter().enumerate() {
            let phase = Arc::clone(&phase);
            tasks.spawn(async move {
                let mut notes = Notes::default();
                while phase.goes_on() {
                    worker.step(&mut notes).await?;
                    notes.operations += 1;
                }
                Ok::<_, anyhow::Error>((number, worker, notes))
            });
        }
        let all = async {
            let mut ended = Vec::new();
            while let Some(worker) = tasks.join_next().await {
                ended.push(worker.context("a worker")??);
            }
            Ok::<_, anyhow::Error>(ended)
        };
        let mut ended = progress::shown(what, || phase.progress(), all).await?;
        let elapsed = phase.begun.elapsed();
        ended.sort_unstable_by_key(|(number, ..)| *number);
        let (workers, notes) = ended.into_iter().map(|(_, worker, notes)| (worker, notes)).unzip();
        Ok(Done { workers, elapsed, notes })
    }
}

impl<W> Done<W> {
    /// The operations that each worker completed.
    pub(crate) fn by_worker(&self) -> Vec<u64> {
        self.notes.iter().map(|notes| notes.operations).collect()
    }

    /// The operations that were completed.
    pub(crate) fn operations(&self) -> u64 {
        self.by_worker().iter().sum()
    }

    /// The latencies of all workers, by the name of their series.
    pub(crate) fn summaries(&mut self) -> BTreeMap<&'static str, Summary> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for (name, latencies) in self.notes.iter_mut().flat_map(|notes| &mut notes.series) {
            all.entry(*name).or_default().append(latencies);
        }
        let summaries = all.into_iter().map(|(name, latencies)| (name, Summary::of(latencies)));
        summaries.filter_map(|(name, summary)| Some((name, summary?))).collect()
    }
}
