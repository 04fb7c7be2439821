//! Leases of the model. The keys of a lease are found by searching all keys.

use std::time::Duration;

use coord_core::{
    error::ErrorKind,
    kv::{
        LeaseGrant, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse,
        LeaseStatus, LeaseTimeToLive, LeaseTimeToLiveResponse, LeasesResponse, TTL_MAX,
    },
};

use super::state::{Model, ModelResult};

/// The minimum TTL that etcd grants with its default settings.
const TTL_MIN: Duration = Duration::from_secs(2);

/// A lease.
#[derive(Debug)]
pub(super) struct Lease {
    granted: Duration,
    /// When it expires, on the clock of the model.
    deadline: Duration,
}

impl Model {
    /// Advances the clock to `now` and expires leases, each at its own revision, in the order of
    /// their deadlines and then of their ids. Returns the number of expired leases.
    pub(super) fn advance_clock(&mut self, now: Duration) -> usize {
        self.now = now;
        let mut expired: Vec<_> =
            self.leases.iter().map(|(&id, lease)| (lease.deadline, id)).collect();
        expired.retain(|&(deadline, _)| deadline <= now);
        expired.sort_unstable();
        for &(_, id) in &expired {
            self.end_lease(id);
        }
        expired.len()
    }

    /// Grants a lease. If the request has no id, `chosen` is the id that the store chose.
    pub(super) fn grant(
        &mut self,
        request: &LeaseGrant,
        chosen: Option<LeaseId>,
    ) -> ModelResult<LeaseGrantResponse> {
        if request.ttl.subsec_nanos() != 0 {
            return Err(ErrorKind::InvalidTtl);
        }
        if request.ttl > TTL_MAX {
            return Err(ErrorKind::TtlTooLarge);
        }
        let id = request.id.or(chosen).expect("a granted lease has an id");
        if self.leases.contains_key(&id) {
            return Err(ErrorKind::LeaseExists);
        }
        let granted = request.ttl.max(TTL_MIN);
        self.leases.insert(id, Lease { granted, deadline: self.now + granted });
        Ok(LeaseGrantResponse { header: self.header(), id, ttl: granted })
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId) -> ModelResult<LeaseKeepAliveResponse> {
        let header = self.header();
        let lease = self.leases.get_mut(&id).ok_or(ErrorKind::LeaseNotFound)?;
        lease.deadline = self.now + lease.granted;
        Ok(LeaseKeepAliveResponse { header, id, ttl: lease.granted })
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> ModelResult<LeaseRevokeResponse> {
        if !self.leases.contains_key(&id) {
            return Err(ErrorKind::LeaseNotFound);
        }
        self.end_lease(id);
        Ok(LeaseRevokeResponse { header: self.header() })
    }

    /// Deletes a lease, and its keys in key order at one revision. Without keys, there is no
    /// revision.
    fn end_lease(&mut self, id: LeaseId) {
        self.leases.remove(&id);
        let mut changes = self.begin();
        for kv in self.current().values() {
            if kv.lease == Some(id) {
                changes.delete_key(&kv.key);
            }
        }
        self.commit(changes);
    }

    /// The status of a lease, with its keys sorted. A store may return them in any order, so the
    /// caller sorts them.
    pub(super) fn time_to_live(&self, request: LeaseTimeToLive) -> LeaseTimeToLiveResponse {
        let lease = self.leases.get(&request.id).map(|lease| LeaseStatus {
            granted: lease.granted,
            remaining: Duration::from_secs((lease.deadline - self.now).as_secs()),
            keys: self
                .current()
                .values()
                .filter(|kv| request.keys && kv.lease == Some(request.id))
                .map(|kv| kv.key.clone())
                .collect(),
        });
        LeaseTimeToLiveResponse { header: self.header(), lease }
    }

    /// All leases, sorted by their remaining time, as an etcd leader sorts them.
    pub(super) fn list_leases(&self) -> LeasesResponse {
        let mut leases: Vec<_> =
            self.leases.iter().map(|(&id, lease)| (lease.deadline, id)).collect();
        leases.sort_unstable();
        let leases = leases.into_iter().map(|(_, id)| id).collect();
        LeasesResponse { header: self.header(), leases }
    }
}
