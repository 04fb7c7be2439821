//! The cycle of lock-like primitives: acquire, hold, release.
//!
//! Either all workers contend for one lock, or each worker has its own. If they share a lock, the
//! [`ExclusionMonitor`] checks that no two workers hold it at the same time, and measures the
//! hand-off time: the time from the release by one holder until the next worker holds the lock.
//!
//! ```text
//! worker 0   --acquire---|hold|---release---
//! worker 1   ----------acquire------------------|hold|---release---
//!                             |- hand-off time -|
//! ```

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, ensure};
use coord_core::Session;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{ReportFields, Worker, Workload};
use crate::bench::samples::Samples;
use crate::bench::store::Store;

/// A primitive that one worker can hold at a time.
pub(crate) trait Exclusive: Sized + Send + Sync + 'static {
    /// The latency series of `acquire`.
    const ACQUIRE_SERIES: &'static str;
    /// The latency series of `release`.
    const RELEASE_SERIES: &'static str;

    /// The guard of the holder.
    type Held: Send;

    /// Creates the primitive with this name for a worker.
    fn create(session: &Session, name: String, worker: usize) -> Self;

    fn acquire(&self) -> impl Future<Output = Result<Self::Held>> + Send;

    fn release(held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

/// The workload: workers acquire, hold and release.
pub(crate) struct LockCycle<E> {
    /// `None` if every worker has its own primitive.
    monitor: Option<Arc<ExclusionMonitor>>,
    ttl: Duration,
    hold: Duration,
    primitive: PhantomData<fn() -> E>,
}

/// One worker, with its session and its handle to the primitive.
pub(crate) struct LockCycleWorker<E> {
    number: usize,
    session: Session,
    primitive: E,
    monitor: Option<Arc<ExclusionMonitor>>,
    hold: Duration,
}

impl<E: Exclusive> LockCycle<E> {
    /// All workers contend for one primitive.
    pub(crate) fn shared(ttl: Duration, hold: Duration) -> Self {
        Self { monitor: Some(Arc::default()), ttl, hold, primitive: PhantomData }
    }

    /// Every worker has its own primitive.
    pub(crate) fn per_worker(ttl: Duration, hold: Duration) -> Self {
        Self { monitor: None, ttl, hold, primitive: PhantomData }
    }
}

impl<E: Exclusive> Workload for LockCycle<E> {
    type Worker = LockCycleWorker<E>;

    async fn worker(&self, store: &Store, number: usize) -> Result<LockCycleWorker<E>> {
        let session = Session::builder(store.connection(number)).ttl(self.ttl).open().await?;
        let name = match self.monitor {
            Some(_) => store.key("shared"),
            None => store.key(&format!("of-worker-{number}")),
        };
        let primitive = E::create(&session, name, number);
        let monitor = self.monitor.clone();
        Ok(LockCycleWorker { number, session, primitive, monitor, hold: self.hold })
    }

    fn begin_phase(&self) {
        if let Some(monitor) = &self.monitor {
            monitor.begin_phase();
        }
    }

    async fn check(&self, _: &Store, _: u64) -> Result<ReportFields> {
        self.check_exclusion()
    }
}

impl<E: Exclusive> LockCycle<E> {
    /// The fields for the report; an error if two workers ever held the primitive at the same time.
    fn check_exclusion(&self) -> Result<ReportFields> {
        let mut fields = ReportFields::new();
        fields.insert("hold_us".to_owned(), json!(self.hold.as_micros()));
        if let Some(monitor) = &self.monitor {
            let MonitorState { violations, max_consecutive, .. } = monitor.state();
            ensure!(violations == 0, "{violations} exclusion violations");
            fields.insert("exclusion_violations".to_owned(), json!(violations));
            fields.insert("max_consecutive_by_one_worker".to_owned(), json!(max_consecutive));
        }
        Ok(fields)
    }
}

impl<E: Exclusive> Worker for LockCycleWorker<E> {
    async fn step(&mut self, samples: &mut Samples) -> Result<()> {
        let start = Instant::now();
        let held = self.primitive.acquire().await?;
        let acquired = Instant::now();
        let monitor = self.monitor.as_ref();
        let handoff = monitor.and_then(|monitor| monitor.on_acquired(self.number, acquired));
        if !self.hold.is_zero() {
            sleep(self.hold).await;
        }
        let release_start = Instant::now();
        if let Some(monitor) = &self.monitor {
            monitor.on_release(release_start);
        }
        E::release(held).await?;
        let released = Instant::now();

        samples.add("cycle", released - start);
        samples.add(E::ACQUIRE_SERIES, acquired - start);
        samples.add(E::RELEASE_SERIES, released - release_start);
        if let Some(handoff) = handoff {
            samples.add("handoff", handoff);
        }
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        Ok(self.session.close().await?)
    }
}

/// Checks mutual exclusion within this process, and measures hand-off times.
///
/// While a phase runs, only the current holder calls the monitor. So the monitor's own mutex,
/// `state`, is contended only if exclusion is violated.
#[derive(Debug, Default)]
struct ExclusionMonitor {
    state: Mutex<MonitorState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct MonitorState {
    /// The number of current holders: at most 1 if exclusion holds.
    holders: usize,
    /// How often a worker acquired while another held, warm-up included.
    violations: u64,
    /// The last holder.
    last: Option<usize>,
    /// When the last holder started to release.
    release_start: Option<Instant>,
    /// How many times in succession the last holder has acquired.
    consecutive: u64,
    /// The maximum of `consecutive` in this phase.
    max_consecutive: u64,
}

impl ExclusionMonitor {
    /// Resets everything but holders and violations.
    fn begin_phase(&self) {
        let mut state = self.lock();
        let MonitorState { holders, violations, .. } = *state;
        *state = MonitorState { holders, violations, ..MonitorState::default() };
    }

    /// Records that `worker` has acquired. Returns the hand-off time if another worker held the
    /// primitive before.
    fn on_acquired(&self, worker: usize, now: Instant) -> Option<Duration> {
        let mut state = self.lock();
        state.holders += 1;
        if state.holders > 1 {
            state.violations += 1;
        }
        let again = state.last.replace(worker) == Some(worker);
        state.consecutive = if again { state.consecutive + 1 } else { 1 };
        state.max_consecutive = state.max_consecutive.max(state.consecutive);
        let release_start = state.release_start.filter(|_| !again);
        release_start.map(|start| now.saturating_duration_since(start))
    }

    /// Records that the holder starts to release.
    fn on_release(&self, now: Instant) {
        let mut state = self.lock();
        state.holders -= 1;
        state.release_start = Some(now);
    }

    fn state(&self) -> MonitorState {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, MonitorState> {
        self.state.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The instant `ms` milliseconds after `start`.
    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn handoff_lasts_from_release_to_the_next_holder() {
        let (monitor, start) = (ExclusionMonitor::default(), Instant::now());
        assert_eq!(monitor.on_acquired(0, start), None, "there was no holder before");
        monitor.on_release(at(start, 5));
        assert_eq!(monitor.on_acquired(1, at(start, 8)), Some(Duration::from_millis(3)));
        monitor.on_release(at(start, 9));
        assert_eq!(monitor.on_acquired(1, at(start, 10)), None, "the same worker acquires again");
        assert_eq!(monitor.state().max_consecutive, 2);
        assert_eq!(monitor.state().violations, 0);
    }

    #[test]
    fn violation_is_counted_across_phases() {
        let (monitor, now) = (ExclusionMonitor::default(), Instant::now());
        monitor.on_acquired(0, now);
        monitor.on_acquired(1, now);
        monitor.on_release(now);
        monitor.on_release(now);
        monitor.begin_phase();
        assert_eq!(monitor.state().violations, 1);
        assert_eq!(monitor.on_acquired(0, now), None, "the warm-up does not count");
    }

    #[test]
    fn exclusion_violation_fails_the_run() {
        let cycle = LockCycle::<coord_core::Mutex>::shared(Duration::from_secs(60), Duration::ZERO);
        let monitor = cycle.monitor.as_ref().expect("it is shared");
        let fields = cycle.check_exclusion().expect("there is no violation");
        assert_eq!(fields["exclusion_violations"], 0);
        monitor.on_acquired(0, Instant::now());
        monitor.on_acquired(1, Instant::now());
        let violation = cycle.check_exclusion().expect_err("two workers hold it");
        assert_eq!(violation.to_string(), "1 exclusion violations");
    }
}
