//! Leases: their deadlines, and the keys attached to them.
//!
//! Every method that depends on the time receives it as a [`Duration`] since the lease clock
//! started. The clock itself is in `shared`, so that a test can make it run fast or slow, or stop
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Error, Result,
    kv::{LeaseId, LeaseStatus},
};

/// One lease.
#[derive(Clone, Debug)]
struct Lease {
    granted_ttl: Duration,
    /// When the lease expires, on the lease clock.
    deadline: Duration,
    /// Sorted, because a revocation deletes the keys in this order.
    keys: BTreeSet<Bytes>,
}

/// All leases of a store.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    ttl_min: Duration,
    next_id: i64,
    leases: BTreeMap<LeaseId, Lease>,
    /// The deadline of each lease, the earliest first. Invariant: one entry for each lease.
    deadlines: BTreeSet<(Duration, LeaseId)>,
}

impl Leases {
    /// An empty set of leases. The ids that the store chooses count up from `first_id`.
    pub(crate) const fn new(ttl_min: Duration, first_id: i64) -> Self {
        Self { ttl_min, next_id: first_id, leases: BTreeMap::new(), deadlines: BTreeSet::new() }
    }

    /// Grants a lease, and returns its id and its TTL.
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
        let granted_ttl = ttl.max(self.ttl_min);
        let deadline = now + granted_ttl;
        self.leases.insert(id, Lease { granted_ttl, deadline, keys: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
        Ok((id, granted_ttl))
    }

    /// Replaces all leases by the leases of a backup, each with its whole TTL from `now` on.
    ///
    /// The ids that the store chooses continue to count up: a client that outlives the restoration
    /// cannot mistake a new lease for its own.
    pub(crate) fn restore(&mut self, backup: &Self, now: Duration) {
        self.leases = backup.leases.clone();
        self.deadlines.clear();
        for (&id, lease) in &mut self.leases {
            lease.granted_ttl = lease.granted_ttl.max(self.ttl_min);
            lease.deadline = now + lease.granted_ttl;
            self.deadlines.insert((lease.deadline, id));
        }
    }

    /// The next id that no lease has.
    fn choose_id(&mut self) -> LeaseId {
        loop {
            let id = LeaseId::new(self.next_id);
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if let Some(id) = id.filter(|id| !self.leases.contains_key(id)) {
                return id;
            }
        }
    }

    /// Moves the deadline to a full TTL from now, and returns the TTL.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<Duration> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseNotFound { lease: Some(id) })?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + lease.granted_ttl;
        self.deadlines.insert((lease.deadline, id));
        Ok(lease.granted_ttl)
    }

    /// Removes the lease, and returns its keys in order.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<BTreeSet<Bytes>> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound { lease: Some(id) })?;
        self.deadlines.remove(&(lease.deadline, id));
        Ok(lease.keys)
    }

    /// The most overdue lease, if any is overdue.
    pub(crate) fn most_overdue_lease(&self, now: Duration) -> Option<LeaseId> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|&(_, id)| id)
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// The TTL and the remaining time of a lease, without its keys.
    pub(crate) fn status(&self, id: LeaseId, now: Duration) -> Option<LeaseStatus> {
        let lease = self.leases.get(&id)?;
        let remaining = Duration::from_secs(lease.deadline.saturating_sub(now).as_secs());
        Some(LeaseStatus { granted: lease.granted_ttl, remaining, keys: Vec::new() })
    }

    /// The keys attached to a lease, in key order.
    pub(crate) fn keys(&self, id: LeaseId) -> Vec<Bytes> {
        self.leases.get(&id).map(|lease| lease.keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// All leases, the earliest deadline first.
    pub(crate) fn list(&self) -> Vec<LeaseId> {
        self.deadlines.iter().map(|&(_, id)| id).collect()
    }

    /// Moves a key from one lease to another.
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
