//! Who is told of which change, without asking everybody.
//!
//! A writer hands each new revision to the [`Hub`], which finds the watchers of the changed keys by
//! the key: watchers of one key in a hash map, watchers of a range in [`Segments`]. Ten thousand
//! watchers of other keys cost it nothing. What a watcher is to see is put into its [`Slot`], at
//! most [`BUFFER`] batches; a slot that is full *falls behind*, and its watch reads on from the
//! store's log when it has been emptied. So a watcher that nobody reads costs bounded memory, and
//! when the log it needs is compacted meanwhile it says so, as a slow watcher of etcd does.
//!
//! ```text
//! a slot of 2, with changes at 5, 6, 7 and 8 and nobody reading
//!   5   [5]
//!   6   [5 6]
//!   7   [5 6] behind from 7        7 and 8 are in the log only
//!   8   [5 6] behind from 7
//! read: 5, 6, then 7 and 8 from the log, and it is no longer behind
//! ```
//!
//! Locks are taken in the order store, hub, slot. A registration holds the store's lock for
//! reading: no change can slip between the revision it answers with and its place in the hub.

mod segments;
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
use segments::Segments;
pub(crate) use stream::MemWatch;

/// The most batches that wait in a slot.
const BUFFER: usize = 1024;

/// All watchers of a store.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    by_key: DashMap<Bytes, Vec<Arc<Slot>>, DefaultHashBuilder>,
    by_range: Mutex<Segments>,
    next_id: AtomicU64,
    /// How many there are. Only changed and read under the store's lock, or to be lowered.
    watchers: AtomicUsize,
}

/// A watcher: what it wants, and what it has not read yet.
#[derive(Debug)]
pub(crate) struct Slot {
    id: u64,
    request: Watch,
    state: Mutex<SlotState>,
}

#[derive(Debug, Default)]
struct SlotState {
    pending: VecDeque<Result<WatchBatch>>,
    /// The first revision that has to be read from the log. Invariant: while this is set, nothing
    /// is added to `pending` by writers.
    behind: Option<Revision>,
    /// A bookmark was asked for.
    progress: bool,
    waker: Option<Waker>,
}

impl Hub {
    /// Registers a watcher. The store is locked, so nothing changes meanwhile.
    pub(crate) fn register(&self, request: Watch, store: &Store) -> Arc<Slot> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let start = request.start_revision;
        let slot = Arc::new(Slot { id, request, state: Mutex::default() });
        if let Some(start) = start.filter(|start| (Revision(1)..=store.revision()).contains(start))
        {
            let mut state = slot.lock();
            state.behind = Some(start);
            slot.catch_up(&mut state, store);
        }
        self.watchers.fetch_add(1, Ordering::Relaxed);
        let keys = &slot.request.keys;
        if keys.is_single() {
            self.by_key.entry(keys.start().clone()).or_default().push(Arc::clone(&slot));
        } else {
            self.by_range().insert(keys, &slot);
        }
        slot
    }

    /// Forgets a watcher.
    pub(crate) fn remove(&self, slot: &Slot) {
        let keys = &slot.request.keys;
        if keys.is_single() {
            self.by_key.remove_if_mut(keys.start(), |_, slots| {
                slots.retain(|other| other.id != slot.id);
                slots.is_empty()
            });
        } else {
            self.by_range().remove(keys, slot.id);
        }
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Hands the changes of a revision to whom they concern. The store is locked by the writer.
    pub(crate) fn dispatch(&self, revision: Revision, store: &Store) {
        if self.watchers.load(Ordering::Relaxed) == 0 {
            return;
        }
        // By id, so that watchers are woken in the order in which they came.
        let mut told: BTreeMap<u64, (Arc<Slot>, Vec<Event>)> = BTreeMap::new();
        let by_range = self.by_range();
        for change in store.changes(revision) {
            let mut tell = |slot: &Arc<Slot>| {
                if let Some(event) = slot.wanted(change, store) {
                    let (_, events) =
                        told.entry(slot.id).or_insert_with(|| (Arc::clone(slot), Vec::new()));
                    events.push(event);
                }
            };
            if let Some(slots) = self.by_key.get(&change.kv.key) {
                slots.iter().for_each(&mut tell);
            }
            if !by_range.is_empty() {
                by_range.at(&change.kv.key).iter().for_each(&mut tell);
            }
        }
        drop(by_range);
        for (slot, events) in told.into_values() {
            slot.push(WatchBatch { revision, events });
        }
    }

    fn by_range(&self) -> MutexGuard<'_, Segments> {
        self.by_range.lock().expect("no holder of the lock panics")
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// The change as the watcher wants to be told of it, if it does.
    fn wanted(&self, change: &Change, store: &Store) -> Option<Event> {
        let unwanted = match change.kind {
            EventKind::Put => WatchFilter::NoPut,
            EventKind::Delete => WatchFilter::NoDelete,
        };
        if self.request.start_revision.is_some_and(|start| change.kv.mod_revision < start)
            || self.request.filters.contains(&unwanted)
        {
            return None;
        }
        let prev_kv = if self.request.prev_kv { store.before(change) } else { None };
        Some(Event { kind: change.kind, kv: KeyValue::clone(&change.kv), prev_kv })
    }

    fn push(&self, batch: WatchBatch) {
        let mut state = self.lock();
        if state.behind.is_none() {
            if state.pending.len() < BUFFER {
                state.pending.push_back(Ok(batch));
            } else {
                state.behind = Some(batch.revision);
            }
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Fills the slot from the log as far as there is room.
    fn catch_up(&self, state: &mut SlotState, store: &Store) {
        let Some(mut next) = state.behind else { return };
        if next < store.compact_revision() {
            state.pending.push_back(Err(store.compacted(next)));
            state.behind = None;
            return;
        }
        while next <= store.revision() && state.pending.len() < BUFFER {
            let changes = store.changes(next).iter();
            let changes = changes.filter(|change| self.request.keys.contains(&change.kv.key));
            let events: Vec<_> = changes.filter_map(|change| self.wanted(change, store)).collect();
            if !events.is_empty() {
                state.pending.push_back(Ok(WatchBatch { revision: next, events }));
            }
            next = next.next();
        }
        state.behind = (next <= store.revision()).then_some(next);
    }
}

/// Gives an empty key the meaning that it has in a watch, and refuses what can never happen.
pub(crate) fn normalize(mut request: Watch, store: &Store) -> Result<Watch> {
    if request.keys.start().is_empty() {
        request.keys = KeyRange::from_wire("\0", request.keys.range_end());
    }
    if let Some(start) = request.start_revision.filter(|start| *start < Revision::ZERO) {
        return Err(store.compacted(start));
    }
    if request.keys.is_empty() {
        return Err(Error::EmptyWatchRange { keys: request.keys });
    }
    Ok(request)
}
