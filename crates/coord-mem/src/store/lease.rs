//! Leases: who lives until when, and which keys hang on whom.
//!
//! Times are those of the store's own clock, handed in by the caller: a [`Duration`] since the
//! store began. Nothing here knows where it comes from, so it can run fast, slow, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Error, Result,
    kv::{LeaseId, LeaseStatus},
};

#[derive(Debug)]
struct Lease {
    granted: Duration,
    deadline: Duration,
    /// Sorted, because revoking deletes them in this order.
    keys: BTreeSet<Bytes>,
}

/// All leases of a store.
#[derive(Debug)]
pub(crate) struct Leases {
    ttl_min: Duration,
    next_id: i64,
    leases: BTreeMap<LeaseId, Lease>,
    /// Who ends next. Invariant: one entry for each lease.
    deadlines: BTreeSet<(Duration, LeaseId)>,
}

impl Leases {
    /// No leases; the first one whose id the store chooses has `first_id`, the next one more.
    pub(crate) const fn new(ttl_min: Duration, first_id: i64) -> Self {
        Self { ttl_min, next_id: first_id, leases: BTreeMap::new(), deadlines: BTreeSet::new() }
    }

    /// Grants a lease and returns its id and the time it was granted.
    pub(crate) fn grant(
        &mut self,
        id: Option<LeaseId>,
        ttl: Duration,
        now: Duration,
    ) -> Result<(LeaseId, Duration)> {
        let id = match id {
            Some(lease) if self.leases.contains_key(&lease) => {
                return Err(Error::LeaseExists { lease });
            }
            Some(id) => id,
            None => self.choose_id(),
        };
        let granted = ttl.max(self.ttl_min);
        let deadline = now + granted;
        self.leases.insert(id, Lease { granted, deadline, keys: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
        Ok((id, granted))
    }

    fn choose_id(&mut self) -> LeaseId {
        loop {
            let id = LeaseId::new(self.next_id);
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if let Some(id) = id.filter(|id| !self.leases.contains_key(id)) {
                return id;
            }
        }
    }

    /// Lets the lease live its whole time again, and returns that time.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<Duration> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseNotFound { lease: Some(id) })?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + lease.granted;
        self.deadlines.insert((lease.deadline, id));
        Ok(lease.granted)
    }

    /// Ends the lease and returns its keys, in order.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<BTreeSet<Bytes>> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound { lease: Some(id) })?;
        self.deadlines.remove(&(lease.deadline, id));
        Ok(lease.keys)
    }

    /// A lease whose time is over, the most overdue first.
    pub(crate) fn overdue(&self, now: Duration) -> Option<LeaseId> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|&(_, id)| id)
    }

    /// When the next lease ends.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// What there is to say about a lease, without its keys.
    pub(crate) fn status(&self, id: LeaseId, now: Duration) -> Option<LeaseStatus> {
        let lease = self.leases.get(&id)?;
        let remaining = Duration::from_secs(lease.deadline.saturating_sub(now).as_secs());
        Some(LeaseStatus { granted: lease.granted, remaining, keys: Vec::new() })
    }

    /// The keys that hang on a lease.
    pub(crate) fn keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.leases.get(&id).map(|lease| lease.keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// All leases, those that end first at the front.
    pub(crate) fn list(&self) -> Vec<LeaseId> {
        self.deadlines.iter().map(|&(_, id)| id).collect()
    }

    /// Moves a key from the lease it hung on to another.
    pub(crate) fn reattach(&mut self, key: &Bytes, from: Option<LeaseId>, to: Option<LeaseId>) {
        if from == to {
            return;
        }
        if let Some(lease) = from.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(key);
        }
        if let Some(lease) = to.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(key.clone());
        }
    }
}
