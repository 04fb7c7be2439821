//! The store with what surrounds it: a lock, a clock, and those who watch.
//!
//! One writer or many readers at a time. A call that finds a lease overdue ends it first, so that
//! no answer depends on whether the lease timer has run; the timer exists so that watchers learn
//! of expiry while nobody calls.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};
use std::time::Duration;

use coord_core::kv::Revision;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::options::Options;
use crate::store::Store;
use crate::watch::Hub;

/// What all clones of a backend, and all its watches, have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) hub: Hub,
    store: RwLock<Store>,
    clock: LeaseClock,
    /// Tells the timer that the next deadline has changed.
    deadline_moved: Arc<Notify>,
    timer: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
        Self {
            hub: Hub::default(),
            store: RwLock::new(Store::new(options.lease_ttl_min, seed)),
            clock: LeaseClock { rate: options.lease_clock_rate, began: OnceLock::new() },
            deadline_moved: Arc::default(),
            timer: Mutex::default(),
            options,
        }
    }

    /// The store, to read, with no lease overdue.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Store> {
        loop {
            let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
            if !store.is_overdue(|| self.now()) {
                return store;
            }
            drop(store);
            self.write(|_| {});
        }
    }

    /// Changes the store, and tells whoever watches.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if store.next_deadline().is_some() {
            // Told at once: the change may be a compaction, and forget what there is to tell.
            let before = store.revision();
            store.expire(self.now());
            self.tell(before, &store);
        }
        let before = store.revision();
        let result = change(&mut store);
        self.tell(before, &store);
        self.retain(&mut store);
        result
    }

    /// As [`write`](Self::write), for changes to leases, which are handed the time.
    pub(crate) fn write_leases<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Store, Duration) -> T,
    ) -> T {
        self.ensure_timer();
        let result = self.write(|store| change(store, self.now()));
        self.deadline_moved.notify_one();
        result
    }

    fn tell(&self, before: Revision, store: &RwLockWriteGuard<'_, Store>) {
        let mut revision = before.next();
        while revision <= store.revision() {
            self.hub.dispatch(revision, store);
            revision = revision.next();
        }
    }

    fn retain(&self, store: &mut Store) {
        let Some(revisions) = self.options.retain_revisions else { return };
        let revisions = i64::try_from(revisions).unwrap_or(i64::MAX);
        let oldest = Revision(store.revision().0.saturating_sub(revisions));
        if oldest > store.compact_revision().max(Revision::ZERO) {
            store.forget_before(oldest);
        }
    }

    /// The time on the lease clock.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Sees to it that a timer runs on the caller's runtime.
    ///
    /// Outside a runtime there is none: leases still end on time for whoever calls, but watchers
    /// learn of it only by the next call.
    fn ensure_timer(self: &Arc<Self>) {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        // The runtime that the last one ran on may be gone.
        if timer.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            let deadline_moved = Arc::clone(&self.deadline_moved);
            *timer = Some(runtime.spawn(run_timer(Arc::downgrade(self), deadline_moved)));
        }
    }

    /// Ends what is overdue, and tells how long until the next lease ends.
    fn tick(&self) -> Option<Duration> {
        let deadline = self.read().next_deadline()?;
        self.clock.until(deadline)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The timer finds that its store is gone, and ends.
        self.deadline_moved.notify_one();
    }
}

/// The one task of a store: it ends overdue leases when nobody else does.
async fn run_timer(shared: Weak<Shared>, deadline_moved: Arc<Notify>) {
    loop {
        let Some(wait) = shared.upgrade().map(|shared| shared.tick()) else { return };
        let next_deadline = async {
            match wait {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = deadline_moved.notified() => {}
            () = next_deadline => {}
        }
    }
}

/// A clock that may run fast or slow against tokio's.
#[derive(Debug)]
struct LeaseClock {
    rate: f64,
    /// When the first call was made. Not when the backend was built: that may have been outside
    /// the runtime whose time it is to follow.
    began: OnceLock<Instant>,
}

impl LeaseClock {
    fn now(&self) -> Duration {
        self.began.get_or_init(Instant::now).elapsed().mul_f64(self.rate)
    }

    /// How long, in tokio's time, until this clock shows `deadline`; `None` if it never will.
    fn until(&self, deadline: Duration) -> Option<Duration> {
        let left = deadline.saturating_sub(self.now()).as_secs_f64() / self.rate;
        // Rounded up to the timer's grain: waking early would only mean to sleep again.
        Duration::try_from_secs_f64(left).ok().map(|left| left + Duration::from_millis(1))
    }
}
