//! Call groups: the state shared by concurrent Lock or Campaign calls on one lease and one name.
//!
//! These calls share one queue key. A group exists while one of its calls is in progress.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use coord_core::kv::{FencingToken, LeaseId};
use coord_core::sync;

/// All call groups, by lease and by the name of the lock or election.
#[derive(Default)]
pub(crate) struct CallGroups(Mutex<BTreeMap<(LeaseId, Bytes), Arc<CallGroup>>>);

/// One call group: the calls on one lease and one name.
#[derive(Default)]
pub(crate) struct CallGroup(pub(crate) tokio::sync::Mutex<GroupState>);

/// The state of a call group's queue key.
#[derive(Default)]
pub(crate) struct GroupState {
    /// The fencing token of the queue key that this state describes. A key that is deleted and
    /// created again has another token.
    pub(crate) token: Option<FencingToken>,
    /// Number of calls that wait.
    pub(crate) waiting_calls: usize,
    /// Whether a call may have returned successfully, so that a client may be the holder.
    pub(crate) reported_held: bool,
}

impl CallGroups {
    /// The group of a lease and a name; creates it if there is none.
    pub(crate) fn get_or_create(&self, lease: LeaseId, name: &Bytes) -> Arc<CallGroup> {
        let mut groups = sync::lock(&self.0);
        Arc::clone(groups.entry((lease, name.clone())).or_default())
    }

    /// Drops a call's handle on its group, and removes the group if no other call has a handle.
    pub(crate) fn release(&self, lease: LeaseId, name: &Bytes, group: Arc<CallGroup>) {
        let mut groups = sync::lock(&self.0);
        drop(group);
        if let Entry::Occupied(entry) = groups.entry((lease, name.clone()))
            && Arc::strong_count(entry.get()) == 1
        {
            entry.remove();
        }
    }
}
