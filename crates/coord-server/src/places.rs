//! What the calls on one lease in one line have in common: a key, and who is told that it holds.
//!
//! It is there as long as one of them is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coord_core::kv::LeaseId;
use coord_core::queue::FencingToken;

/// The places in lines that calls have at this moment: by lease and name of the line.
#[derive(Default)]
pub(crate) struct Places(Mutex<BTreeMap<(LeaseId, Bytes), Arc<Place>>>);

/// What the calls on one lease in one line have in common.
#[derive(Default)]
pub(crate) struct Place(pub(crate) tokio::sync::Mutex<Shared>);

#[derive(Default)]
pub(crate) struct Shared {
    /// Which life of the key this is about; a key that is deleted may be created again.
    pub(crate) life: Option<FencingToken>,
    /// How many wait.
    pub(crate) calls: usize,
    /// Whether somebody has been told that it is first.
    pub(crate) held: bool,
}

impl Places {
    pub(crate) fn of(&self, lease: LeaseId, name: &Bytes) -> Arc<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry((lease, name.clone())).or_default())
    }

    /// Takes a place back; without any call on it, it is forgotten.
    pub(crate) fn forget(&self, lease: LeaseId, name: &Bytes, place: Arc<Place>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(place);
        if let Entry::Occupied(place) = places.entry((lease, name.clone()))
            && Arc::strong_count(place.get()) == 1
        {
            place.remove();
        }
    }
}
