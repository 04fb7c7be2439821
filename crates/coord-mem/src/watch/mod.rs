//! Watcher registry: delivers the events of each revision to the watchers of the changed keys.
//!
//! The writer passes each new revision to the [`WatcherRegistry`], which looks watchers up by the
//! changed key: watchers of one key in a hash map, watchers of a range in an [`IntervalMap`]. So
//! the watchers of other keys add almost nothing to the cost of a write.
//!
//! Each watcher has a [`Registration`]: its request, and a queue of at most [`MAX_PENDING_BATCHES`]
//! batches that its stream has not yielded. When the queue is full, the registration records the
//! first revision that it skipped, and the stream reads from the store's log once the queue is
//! empty. So a watcher whose stream is never polled uses bounded memory. If that part of the log is
//! compacted meanwhile, the stream yields `Compacted`, like etcd's stream of a slow watcher.
//!
//! ```text
//! a registration with room for 2 batches; changes at 5, 6, 7 and 8; the stream is not polled
//!   5   [5]
//!   6   [5 6]
//!   7   [5 6] catch up from 7        7 and 8 are only in the log
//!   8   [5 6] catch up from 7
//! then the stream is polled: 5 and 6 from the queue, 7 and 8 from the log; it has caught up
//! ```
//!
//! When the store is restored from a backup, every watch ends: its stream yields the batches in the
//! queue, then the error. A watcher that had to catch up reads nothing more: the log is replaced.
//!
//! Lock order: store, registry, registration. Registering holds the store's read lock, so that no
//! change can happen between the revision in the response and the insertion into the registry.

mod interval_map;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;
use coord_core::{
    Error, Result,
    kv::{Event, EventKind, KeyRange, KeyValue, Revision, Watch, WatchBatch, WatchFilter},
};
use dashmap::DashMap;
use hashbrown::DefaultHashBuilder;

use crate::store::{Change, Store};
use interval_map::IntervalMap;
pub(crate) use stream::MemWatchStream;

/// Capacity of a registration's queue, in batches.
const MAX_PENDING_BATCHES: usize = 1024;

/// All watchers of a store, indexed by the key or the range that they watch.
#[derive(Debug, Default)]
pub(crate) struct WatcherRegistry {
    by_key: DashMap<Bytes, Vec<Arc<Registration>>, DefaultHashBuilder>,
    by_range: Mutex<IntervalMap>,
    next_id: AtomicU64,
    /// Number of watchers. Increased and read only under the store's lock, decreased without the
    /// lock.
    count: AtomicUsize,
}

/// One watcher: its request, and the batches that its stream has not yielded.
#[derive(Debug)]
pub(crate) struct Registration {
    id: u64,
    request: Watch,
    state: Mutex<RegistrationState>,
}

/// The mutable part of a [`Registration`].
#[derive(Debug, Default)]
struct RegistrationState {
    /// Batches to yield, or the error that ends the stream.
    pending: VecDeque<Result<WatchBatch>>,
    /// The first revision to read from the log; `None` if the watcher has caught up. Invariant:
    /// while this is set, writers add nothing to `pending`.
    catch_up_from: Option<Revision>,
    /// Whether a progress notification was requested and has not been delivered yet.
    progress_requested: bool,
    /// Whether the last item of `pending`, or the last item that was yielded, is the error that
    /// ends the stream. Invariant: while this is set, nothing is added to `pending`.
    is_ended: bool,
    waker: Option<Waker>,
}

impl WatcherRegistry {
    /// Registers a watcher. The caller holds the store's lock, so no revision is missed.
    pub(crate) fn register(&self, request: Watch, store: &Store) -> Arc<Registration> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let start = request.start_revision;
        let registration = Arc::new(Registration { id, request, state: Mutex::default() });
        if let Some(start) = start.filter(|start| (Revision(1)..=store.revision()).contains(start))
        {
            let mut state = registration.lock();
            state.catch_up_from = Some(start);
            registration.catch_up(&mut state, store);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let keys = &registration.request.keys;
        if keys.is_single() {
            self.by_key.entry(keys.start().clone()).or_default().push(Arc::clone(&registration));
        } else {
            self.by_range().insert(keys, &registration);
        }
        registration
    }

    /// Removes a watcher.
    pub(crate) fn remove(&self, registration: &Registration) {
        let keys = &registration.request.keys;
        if keys.is_single() {
            self.by_key.remove_if_mut(keys.start(), |_, registrations| {
                registrations.retain(|other| other.id != registration.id);
                registrations.is_empty()
            });
        } else {
            self.by_range().remove(keys, registration.id);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Delivers the events of a revision to the watchers of the changed keys, and wakes their
    /// streams. The caller holds the store's write lock.
    pub(crate) fn dispatch(&self, revision: Revision, store: &Store) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Ordered by id, so that watchers are woken in the order in which they registered.
        let mut batches: BTreeMap<u64, (Arc<Registration>, Vec<Event>)> = BTreeMap::new();
        let by_range = self.by_range();
        for change in store.changes(revision) {
            let mut add = |registration: &Arc<Registration>| {
                if let Some(event) = registration.event_for(change, store) {
                    let (_, events) = batches
                        .entry(registration.id)
                        .or_insert_with(|| (Arc::clone(registration), Vec::new()));
                    events.push(event);
                }
            };
            if let Some(registrations) = self.by_key.get(&change.kv.key) {
                registrations.iter().for_each(&mut add);
            }
            if !by_range.is_empty() {
                by_range.watchers_of(&change.kv.key).iter().for_each(&mut add);
            }
        }
        drop(by_range);
        for (registration, events) in batches.into_values() {
            registration.push(WatchBatch { revision, events });
        }
    }

    /// Ends every watch with an error: its stream yields the batches that are queued, then the
    /// error. The caller holds the store's write lock.
    pub(crate) fn end_all(&self, error: &Error) {
        // Ordered by id, so that watchers are woken in the order in which they registered.
        let mut registrations = BTreeMap::new();
        let mut add = |registration: &Arc<Registration>| {
            registrations.insert(registration.id, Arc::clone(registration));
        };
        self.by_key.iter().for_each(|watchers| watchers.iter().for_each(&mut add));
        self.by_range().registrations().for_each(add);
        for registration in registrations.into_values() {
            registration.end(error.clone());
        }
    }

    fn by_range(&self) -> MutexGuard<'_, IntervalMap> {
        self.by_range.lock().expect("no holder of the lock panics")
    }
}

impl Registration {
    fn lock(&self) -> MutexGuard<'_, RegistrationState> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// The event of a change for this watcher; `None` if the watch starts later or has a filter
    /// that excludes the change.
    fn event_for(&self, change: &Change, store: &Store) -> Option<Event> {
        let excluding_filter = match change.kind {
            EventKind::Put => WatchFilter::NoPut,
            EventKind::Delete => WatchFilter::NoDelete,
        };
        if self.request.start_revision.is_some_and(|start| change.kv.mod_revision < start)
            || self.request.filters.contains(&excluding_filter)
        {
            return None;
        }
        let prev_kv = if self.request.prev_kv { store.previous_kv(change) } else { None };
        Some(Event { kind: change.kind, kv: KeyValue::clone(&change.kv), prev_kv })
    }

    /// Ends the stream with an error after the batches that are queued, and wakes it. History that
    /// the watcher still had to read from the log is skipped.
    fn end(&self, error: Error) {
        let mut state = self.lock();
        state.end(error);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Queues a batch unless the queue is full, and wakes the stream.
    fn push(&self, batch: WatchBatch) {
        let mut state = self.lock();
        if state.catch_up_from.is_none() && !state.is_ended {
            if state.pending.len() < MAX_PENDING_BATCHES {
                state.pending.push_back(Ok(batch));
            } else {
                state.catch_up_from = Some(batch.revision);
            }
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Fills the queue from the log, as far as there is room.
    fn catch_up(&self, state: &mut RegistrationState, store: &Store) {
        let Some(mut next) = state.catch_up_from else { return };
        if next < store.compact_revision() {
            state.end(store.compacted_error(next));
            return;
        }
        while next <= store.revision() && state.pending.len() < MAX_PENDING_BATCHES {
            let changes = store.changes(next).iter();
            let changes = changes.filter(|change| self.request.keys.contains(&change.kv.key));
            let events: Vec<_> =
                changes.filter_map(|change| self.event_for(change, store)).collect();
            if !events.is_empty() {
                state.pending.push_back(Ok(WatchBatch { revision: next, events }));
            }
            next = next.next();
        }
        state.catch_up_from = (next <= store.revision()).then_some(next);
    }
}

impl RegistrationState {
    /// Adds the error that ends the stream, unless the stream has one.
    fn end(&mut self, error: Error) {
        if !self.is_ended {
            self.pending.push_back(Err(error));
        }
        (self.catch_up_from, self.is_ended) = (None, true);
    }
}

/// Replaces an empty start key, which in a watch request means the key `\0`, and rejects requests
/// that could never deliver anything.
pub(crate) fn normalize(mut request: Watch, store: &Store) -> Result<Watch> {
    if request.keys.start().is_empty() {
        request.keys = KeyRange::from_wire("\0", request.keys.range_end());
    }
    if let Some(start) = request.start_revision.filter(|start| *start < Revision::ZERO) {
        return Err(store.compacted_error(start));
    }
    if request.keys.is_empty() {
        return Err(Error::EmptyWatchRange { keys: request.keys });
    }
    Ok(request)
}
