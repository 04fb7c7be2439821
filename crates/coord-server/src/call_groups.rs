//! Call groups: the state shared by concurrent Lock or Campaign calls on one lease and one name.
//!
//! These calls share one queue key. A group exists as long as one of its calls does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coord_core::kv::FencingToken;
use coord_core::kv::LeaseId;

/// All call groups, by lease and by the name of the lock or election.
#[derive(Default)]
pub(crate) struct CallGroups(Mutex<BTreeMap<(LeaseId, Bytes), Arc<CallGroup>>>);

/// The state shared by the calls on one lease and one name.
#[derive(Default)]
pub(crate) struct CallGroup(pub(crate) tokio::sync::Mutex<GroupState>);

/// What the calls of a group know about their key.
#[derive(Default)]
pub(crate) struct GroupState {
    /// The fencing token of the queue key that this state describes. A key that is deleted and
    /// created again has another token.
    pub(crate) token: Option<FencingToken>,
    /// Number of calls that wait.
    pub(crate) waiting_calls: usize,
    /// Whether a call has returned successfully, so that a client may hold the key.
    pub(crate) reported_held: bool,
}

impl CallGroups {
    /// The group of a lease and a name; creates it if there is none.
    pub(crate) fn get_or_create(&self, lease: LeaseId, name: &Bytes) -> Arc<CallGroup> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(groups.entry((lease, name.clone())).or_default())
    }

    /// Releases a call's handle on its group, and removes the group if that was the last one.
    pub(crate) fn release(&self, lease: LeaseId, name: &Bytes, group: Arc<CallGroup>) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(group);
        if let Entry::Occupied(entry) = groups.entry((lease, name.clone()))
            && Arc::strong_count(entry.get()) == 1
        {
            entry.remove();
        }
    }
}
