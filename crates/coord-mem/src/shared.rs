//! State shared by all clones of a backend: the store behind its lock, the lease clock, the lease
//! timer and the watchers.
//!
//! The store has one writer or many readers at a time. Every call first revokes the overdue leases,
//! so no response depends on whether the lease timer has already run. The timer exists so that
//! watchers receive the deletions of an expired lease even when no call is made.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};
use std::time::Duration;

use coord_core::{Error, kv::Revision, sync};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::options::Options;
use crate::store::Store;
use crate::watch::WatcherRegistry;

/// The state shared by all clones of a backend and by all its watches.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) watchers: WatcherRegistry,
    store: RwLock<Store>,
    clock: LeaseClock,
    /// Wakes the timer when the next lease deadline has changed.
    deadline_changed: Arc<Notify>,
    timer: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
        Self {
            watchers: WatcherRegistry::default(),
            store: RwLock::new(Store::new(options.lease_ttl_min, seed)),
            clock: LeaseClock { rate: options.lease_clock_rate, start: OnceLock::new() },
            deadline_changed: Arc::default(),
            timer: Mutex::default(),
            options,
        }
    }

    /// Locks the store for reading, after revoking overdue leases.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Store> {
        loop {
            let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
            if !store.has_overdue_lease(|| self.now()) {
                return store;
            }
            drop(store);
            self.write(|_| {});
        }
    }

    /// Revokes overdue leases, applies a change to the store, and delivers the events of both to
    /// the watchers.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if store.next_lease_deadline().is_some() {
            // The events of expired leases are delivered before the change is applied, because the
            // change may be a compaction that removes their revisions from the log.
            let before = store.revision();
            store.revoke_overdue_leases(self.now());
            self.notify_watchers(before, &store);
        }
        let before = store.revision();
        let result = change(&mut store);
        self.notify_watchers(before, &store);
        self.apply_retention(&mut store);
        result
    }

    /// Like [`write`](Self::write), for a change to leases: `change` receives the time on the lease
    /// clock, and the lease timer waits for the new next deadline.
    pub(crate) fn write_leases<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Store, Duration) -> T,
    ) -> T {
        self.ensure_timer();
        let result = self.write(|store| change(store, self.now()));
        self.deadline_changed.notify_one();
        result
    }

    /// Replaces the contents of the store by those of a backup, and ends all watches. Returns the
    /// revision of the store before.
    pub(crate) fn restore(self: &Arc<Self>, backup: &Store) -> Revision {
        self.write_leases(|store, now| {
            let newest = store.revision();
            store.restore(backup, now);
            // A watch that has ended receives no event, also if the backup is newer than the store.
            self.watchers.end_all(&Error::HistoryReplaced { newest, found: store.revision() });
            newest
        })
    }

    /// Delivers the events of all revisions after `before`.
    fn notify_watchers(&self, before: Revision, store: &RwLockWriteGuard<'_, Store>) {
        let mut revision = before.next();
        while revision <= store.revision() {
            self.watchers.dispatch(revision, store);
            revision = revision.next();
        }
    }

    /// Compacts the revisions that are older than `retain_revisions` allows.
    fn apply_retention(&self, store: &mut Store) {
        let Some(revisions) = self.options.retain_revisions else { return };
        let revisions = i64::try_from(revisions).unwrap_or(i64::MAX);
        let oldest = Revision(store.revision().0.saturating_sub(revisions));
        if oldest > store.compact_revision().max(Revision::ZERO) {
            store.compact_at(oldest);
        }
    }

    /// The time on the lease clock.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Starts the lease timer on the caller's runtime, unless the timer runs already.
    ///
    /// Outside a runtime no timer starts. The next call still revokes overdue leases, but watchers
    /// receive the deletions only then.
    fn ensure_timer(self: &Arc<Self>) {
        let mut timer = sync::lock(&self.timer);
        // The runtime of the previous timer may have shut down.
        if timer.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            let deadline_changed = Arc::clone(&self.deadline_changed);
            *timer = Some(runtime.spawn(run_timer(Arc::downgrade(self), deadline_changed)));
        }
    }

    /// Revokes overdue leases, and returns the time until the next deadline.
    fn revoke_overdue_leases(&self) -> Option<Duration> {
        // `read` revokes the overdue leases.
        let deadline = self.read().next_lease_deadline()?;
        self.clock.time_until(deadline)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Wakes the lease timer, which ends because it cannot upgrade its weak reference.
        self.deadline_changed.notify_one();
    }
}

/// The lease timer, the only task of a store: revokes overdue leases when no call does.
async fn run_timer(shared: Weak<Shared>, deadline_changed: Arc<Notify>) {
    loop {
        let Some(wait) = shared.upgrade().map(|shared| shared.revoke_overdue_leases()) else {
            return;
        };
        let next_deadline = async {
            match wait {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = deadline_changed.notified() => {}
            () = next_deadline => {}
        }
    }
}

/// The lease clock, by which leases expire: runs at `rate` times the speed of tokio's clock.
#[derive(Debug)]
struct LeaseClock {
    rate: f64,
    /// The time of the first call of [`now`](Self::now), on tokio's clock. The time at which the
    /// backend was built would not do: a backend may be built outside the runtime in which it is
    /// used, on another clock.
    start: OnceLock<Instant>,
}

impl LeaseClock {
    fn now(&self) -> Duration {
        self.start.get_or_init(Instant::now).elapsed().mul_f64(self.rate)
    }

    /// The time, on tokio's clock, until the lease clock reaches `deadline`; `None` if it never
    /// does.
    fn time_until(&self, deadline: Duration) -> Option<Duration> {
        let left = deadline.saturating_sub(self.now()).as_secs_f64() / self.rate;
        // One millisecond, the resolution of tokio's timer, is added so that the lease timer does
        // not wake before the deadline.
        Duration::try_from_secs_f64(left).ok().map(|left| left + Duration::from_millis(1))
    }
}
