//! Leases. Which keys hang on one is read off the keys themselves.

use std::time::Duration;

use coord_core::{
    error::ErrorKind,
    kv::{
        LeaseGrant, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse,
        LeaseStatus, LeaseTimeToLive, LeaseTimeToLiveResponse, LeasesResponse, TTL_MAX,
    },
};

use super::state::{Answer, Model};

/// What etcd grants at least, by its default settings.
const TTL_MIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Lease {
    granted: Duration,
    ends: Duration,
}

impl Model {
    /// Moves the clock to `now` and ends what has ended meanwhile, each lease by itself, the
    /// first to end first, equal ones by their id.
    pub(super) fn pass_time(&mut self, now: Duration) -> usize {
        self.now = now;
        let mut ended: Vec<_> = self.leases.iter().map(|(&id, lease)| (lease.ends, id)).collect();
        ended.retain(|&(ends, _)| ends <= now);
        ended.sort_unstable();
        for &(_, id) in &ended {
            self.end_lease(id);
        }
        ended.len()
    }

    /// Grants a lease. Where the request leaves the id to the store, `chosen` is the store's.
    pub(super) fn grant(
        &mut self,
        request: &LeaseGrant,
        chosen: Option<LeaseId>,
    ) -> Answer<LeaseGrantResponse> {
        if request.ttl.subsec_nanos() != 0 {
            return Err(ErrorKind::InvalidTtl);
        }
        if request.ttl > TTL_MAX {
            return Err(ErrorKind::TtlTooLarge);
        }
        let id = request.id.or(chosen).expect("a store that grants a lease names it");
        if self.leases.contains_key(&id) {
            return Err(ErrorKind::LeaseExists);
        }
        let granted = request.ttl.max(TTL_MIN);
        self.leases.insert(id, Lease { granted, ends: self.now + granted });
        Ok(LeaseGrantResponse { header: self.header(), id, ttl: granted })
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId) -> Answer<LeaseKeepAliveResponse> {
        let header = self.header();
        let lease = self.leases.get_mut(&id).ok_or(ErrorKind::LeaseNotFound)?;
        lease.ends = self.now + lease.granted;
        Ok(LeaseKeepAliveResponse { header, id, ttl: lease.granted })
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Answer<LeaseRevokeResponse> {
        if !self.leases.contains_key(&id) {
            return Err(ErrorKind::LeaseNotFound);
        }
        self.end_lease(id);
        Ok(LeaseRevokeResponse { header: self.header() })
    }

    /// One revision, keys in order; none if no key hangs on it.
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

    /// The keys in order, though nobody may rely on it: the caller sorts the other side's too.
    pub(super) fn time_to_live(&self, request: LeaseTimeToLive) -> LeaseTimeToLiveResponse {
        let lease = self.leases.get(&request.id).map(|lease| LeaseStatus {
            granted: lease.granted,
            remaining: Duration::from_secs((lease.ends - self.now).as_secs()),
            keys: self
                .current()
                .values()
                .filter(|kv| request.keys && kv.lease == Some(request.id))
                .map(|kv| kv.key.clone())
                .collect(),
        });
        LeaseTimeToLiveResponse { header: self.header(), lease }
    }

    /// Sorted by the time that is left, as an etcd leader sorts them.
    pub(super) fn list_leases(&self) -> LeasesResponse {
        let mut leases: Vec<_> = self.leases.iter().map(|(&id, lease)| (lease.ends, id)).collect();
        leases.sort_unstable();
        let leases = leases.into_iter().map(|(_, id)| id).collect();
        LeasesResponse { header: self.header(), leases }
    }
}
