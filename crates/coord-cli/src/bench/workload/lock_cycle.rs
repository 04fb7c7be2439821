//! The cycle of lock-like primitives: acquire, hold, release.
//!
//! Either all workers share one lock, or each worker has its own. If they contend for one lock, the
//! [`ExclusionMonitor`] checks that no more workers hold it at the same time than may. If only one
//! may, it measures the hand-off time: the time from the release by one holder until the next
//! worker holds the lock.
//!
//! ```text
//! worker 0   --acquire---|hold|---release---
//! worker 1   ----------acquire------------------|hold|---release---
//!                             |- hand-off time -|
//! ```

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, ensure};
use coord_core::Session;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{ReportFields, Worker, Workload};
use crate::bench::flags::HoldTimeFlags;
use crate::bench::samples::Samples;
use crate::bench::store::Store;

/// A primitive that a worker acquires, holds and releases.
pub(crate) trait LockLike: Sized + Send + Sync + 'static {
    /// The latency series of `acquire`.
    const ACQUIRE_SERIES: &'static str;
    /// The latency series of `release`.
    const RELEASE_SERIES: &'static str;

    /// The guard of the holder.
    type Held: Send;

    fn acquire(&self) -> impl Future<Output = Result<Self::Held>> + Send;

    fn release(held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

/// Which workers use the same primitive.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sharing {
    /// Each worker has its own.
    PerWorker,
    /// All workers have the same one, and never wait for each other.
    Shared,
    /// All workers contend for the same one, which at most `holders` of them may hold at a time.
    Contended { holders: u32 },
}

/// Creates the primitive with this name, for the worker with this number.
type Create<L> = Box<dyn Fn(&Session, String, usize) -> L + Send + Sync>;

/// The workload: workers acquire, hold and release.
pub(crate) struct LockCycle<L> {
    sharing: Sharing,
    /// `None` if workers do not contend.
    monitor: Option<Arc<ExclusionMonitor>>,
    ttl: Duration,
    hold: Duration,
    create: Create<L>,
}

/// One worker, with its session and its handle to the primitive.
pub(crate) struct LockCycleWorker<L> {
    number: usize,
    session: Session,
    primitive: L,
    monitor: Option<Arc<ExclusionMonitor>>,
    hold: Duration,
}

impl<L: LockLike> LockCycle<L> {
    pub(crate) fn new(
        sharing: Sharing,
        flags: &HoldTimeFlags,
        create: impl Fn(&Session, String, usize) -> L + Send + Sync + 'static,
    ) -> Self {
        let monitor = match sharing {
            Sharing::PerWorker | Sharing::Shared => None,
            Sharing::Contended { holders } => Some(Arc::new(ExclusionMonitor::new(holders))),
        };
        let (ttl, hold) = (flags.session.ttl(), flags.hold);
        Self { sharing, monitor, ttl, hold, create: Box::new(create) }
    }
}

impl<L: LockLike> Workload for LockCycle<L> {
    type Worker = LockCycleWorker<L>;

    async fn worker(&self, store: &Store, number: usize) -> Result<LockCycleWorker<L>> {
        let session = Session::builder(store.connection(number)).ttl(self.ttl).open().await?;
        let name = match self.sharing {
            Sharing::Shared | Sharing::Contended { .. } => store.key("shared"),
            Sharing::PerWorker => store.key(&format!("of-worker-{number}")),
        };
        let primitive = (self.create)(&session, name, number);
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

impl<L: LockLike> LockCycle<L> {
    /// The fields for the report; an error if more workers ever held the primitive than may.
    fn check_exclusion(&self) -> Result<ReportFields> {
        let mut fields = ReportFields::new();
        fields.insert("hold_us".to_owned(), json!(self.hold.as_micros()));
        if let Some(monitor) = &self.monitor {
            let MonitorState { violations, max_consecutive, .. } = monitor.state();
            ensure!(violations == 0, "{violations} exclusion violations");
            fields.insert("exclusion_violations".to_owned(), json!(violations));
            if monitor.is_exclusive() {
                fields.insert("max_consecutive_by_one_worker".to_owned(), json!(max_consecutive));
            }
        }
        Ok(fields)
    }
}

impl<L: LockLike> Worker for LockCycleWorker<L> {
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
        L::release(held).await?;
        let released = Instant::now();

        samples.add("cycle", released - start);
        samples.add(L::ACQUIRE_SERIES, acquired - start);
        samples.add(L::RELEASE_SERIES, released - release_start);
        if let Some(handoff) = handoff {
            samples.add("handoff", handoff);
        }
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        Ok(self.session.close().await?)
    }
}

/// Checks exclusion within this process, and measures hand-off times.
///
/// Only current holders call the monitor while a phase runs. So if there is at most one, the
/// monitor's own mutex, `state`, is contended only if exclusion is violated.
#[derive(Debug)]
struct ExclusionMonitor {
    /// How many workers may hold the primitive at a time.
    max_holders: u32,
    state: Mutex<MonitorState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct MonitorState {
    /// The number of current holders.
    holders: u32,
    /// How often a worker acquired while `max_holders` or more workers were holders, warm-up
    /// included.
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
    fn new(max_holders: u32) -> Self {
        Self { max_holders, state: Mutex::default() }
    }

    const fn is_exclusive(&self) -> bool {
        self.max_holders == 1
    }

    /// Resets everything but holders and violations.
    fn begin_phase(&self) {
        let mut state = self.lock();
        let MonitorState { holders, violations, .. } = *state;
        *state = MonitorState { holders, violations, ..MonitorState::default() };
    }

    /// Records that `worker` has acquired. Returns the hand-off time if at most one worker may hold
    /// the primitive, and another one held it before.
    fn on_acquired(&self, worker: usize, now: Instant) -> Option<Duration> {
        let mut state = self.lock();
        state.holders += 1;
        if state.holders > self.max_holders {
            state.violations += 1;
        }
        let again = state.last.replace(worker) == Some(worker);
        state.consecutive = if again { state.consecutive + 1 } else { 1 };
        state.max_consecutive = state.max_consecutive.max(state.consecutive);
        let release_start = state.release_start.filter(|_| self.is_exclusive() && !again);
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
    use crate::bench::flags::SessionFlags;

    /// The instant `ms` milliseconds after `start`.
    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn handoff_lasts_from_release_to_the_next_holder() {
        let (monitor, start) = (ExclusionMonitor::new(1), Instant::now());
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
        let (monitor, now) = (ExclusionMonitor::new(1), Instant::now());
        monitor.on_acquired(0, now);
        monitor.on_acquired(1, now);
        monitor.on_release(now);
        monitor.on_release(now);
        monitor.begin_phase();
        assert_eq!(monitor.state().violations, 1);
        assert_eq!(monitor.on_acquired(0, now), None, "the warm-up does not count");
    }

    #[test]
    fn holders_up_to_the_limit_are_no_violation() {
        let (monitor, now) = (ExclusionMonitor::new(2), Instant::now());
        monitor.on_acquired(0, now);
        assert_eq!(monitor.on_acquired(1, now), None);
        assert_eq!(monitor.state().violations, 0);
        monitor.on_acquired(2, now);
        assert_eq!(monitor.state().violations, 1);
        monitor.on_release(now);
        assert_eq!(monitor.on_acquired(3, at(now, 3)), None, "there is no single last holder");
    }

    #[test]
    fn exclusion_violation_fails_the_run() {
        let flags = HoldTimeFlags { session: SessionFlags { ttl: 60 }, hold: Duration::ZERO };
        let create = |session: &Session, name, _| coord_core::Mutex::new(session, name);
        let cycle = LockCycle::new(Sharing::Contended { holders: 1 }, &flags, create);
        let monitor = cycle.monitor.as_ref().expect("workers contend");
        let fields = cycle.check_exclusion().expect("there is no violation");
        assert_eq!(fields["exclusion_violations"], 0);
        monitor.on_acquired(0, Instant::now());
        monitor.on_acquired(1, Instant::now());
        let violation = cycle.check_exclusion().expect_err("two workers hold it");
        assert_eq!(violation.to_string(), "1 exclusion violations");
    }
}
