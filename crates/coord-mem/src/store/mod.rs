//! The MVCC store: a synchronous state machine without clock, task or lock.
//!
//! The result of a call depends only on the state and the arguments; a call on leases receives the
//! time as an argument. The same calls to a store with the same seed return the same responses to
//! the last byte. Locking and time are in `shared`, the delivery of events is in `watch`.

mod history;
mod index;
mod lease;
mod live;
mod log;
mod range;
mod size;
mod txn;

use std::ops::RangeInclusive;
use std::time::Duration;

use coord_core::{
    Error, Result,
    kv::{
        Compact, Delete, DeleteResponse, EventKind, Header, KeyValue, LeaseGrant, LeaseId,
        LeaseStatus, LeaseTimeToLive, Put, PutResponse, Revision,
    },
};

use index::Index;
use lease::Leases;
pub(crate) use log::Change;
use log::Log;
pub(crate) use size::{delete_size, put_size, range_size, replicated_size, txn_size, watch_size};
use txn::PendingRevision;

/// The range from which a store draws the first lease id that it chooses: ids with 16 hex digits,
/// like etcd's, far from the small ids that callers choose, and far from overflow.
const FIRST_LEASE_ID_RANGE: RangeInclusive<i64> = 0x1000_0000_0000_0000..=0x6fff_ffff_ffff_ffff;

/// Why a compaction is refused: etcd would lose a key.
const COMPACTION_LOSES_KEY: &str = "the transaction of this revision deleted a key by an \
    unbounded delete and put it again, and etcd loses the key if it compacts exactly there; \
    compact at another revision";

/// All keys with their history, the leases, and the change log.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    revision: Revision,
    /// The oldest revision that can be read; -1 before the first compaction.
    compact_revision: Revision,
    /// Template of response headers: the cluster id and the member id. `header()` sets the
    /// revision.
    header: Header,
    index: Index,
    log: Log,
    leases: Leases,
}

impl Store {
    /// An empty store at revision 1, whose ids are drawn from `seed`.
    pub(crate) fn new(ttl_min: Duration, seed: u64) -> Self {
        let mut ids = fastrand::Rng::with_seed(seed);
        let revision = Revision(1);
        let (cluster_id, member_id) = (ids.u64(1..), ids.u64(1..));
        Self {
            header: Header { cluster_id, member_id, revision, raft_term: 2 },
            revision,
            compact_revision: Revision(-1),
            index: Index::default(),
            log: Log::new(revision),
            leases: Leases::new(ttl_min, ids.i64(FIRST_LEASE_ID_RANGE)),
        }
    }

    pub(crate) const fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) const fn compact_revision(&self) -> Revision {
        self.compact_revision
    }

    pub(crate) const fn header(&self) -> Header {
        Header { revision: self.revision, ..self.header }
    }

    /// The error for a request at a compacted revision.
    pub(crate) const fn compacted_error(&self, requested: Revision) -> Error {
        let compact_revision = Some(self.compact_revision);
        Error::Compacted { requested: Some(requested), compact_revision }
    }

    /// Puts one key, outside a transaction.
    pub(crate) fn put(&mut self, put: Put) -> Result<PutResponse> {
        // As in etcd, a transaction does these two checks in the opposite order.
        self.check_lease(put.lease)?;
        self.check_ignored_fields(&put)?;
        let mut changes = PendingRevision::begin(self);
        let response = changes.put(put);
        changes.commit();
        Ok(PutResponse { header: self.header(), ..response })
    }

    /// Deletes a range, outside a transaction.
    pub(crate) fn delete(&mut self, delete: &Delete) -> DeleteResponse {
        let mut changes = PendingRevision::begin(self);
        let response = changes.delete(delete);
        changes.commit();
        DeleteResponse { header: self.header(), ..response }
    }

    /// Compacts at the requested revision, unless etcd would lose a key by this compaction.
    pub(crate) fn compact(&mut self, request: Compact) -> Result<()> {
        let (requested, current) = (request.revision, self.revision);
        if requested <= self.compact_revision {
            return Err(self.compacted_error(requested));
        }
        if requested > current {
            let (requested, current) = (Some(requested), Some(current));
            return Err(Error::FutureRevision { requested, current });
        }
        if deletes_then_puts_a_key(self.log.changes(requested)) {
            return Err(Error::Refused { hazard: COMPACTION_LOSES_KEY });
        }
        self.compact_at(requested);
        Ok(())
    }

    /// Compacts at `revision`. Only keys that changed at or after the last compact revision have
    /// history to drop, so the cost depends on the number of changes and not on the number of keys.
    pub(crate) fn compact_at(&mut self, revision: Revision) {
        let mut next = self.log.clamp(self.compact_revision);
        while next <= revision {
            for change in self.log.changes(next) {
                self.index.compact(&change.kv.key, revision);
            }
            next = next.next();
        }
        self.log.compact(revision);
        self.compact_revision = revision;
    }

    /// Replaces the keys with their history, the revisions and the leases by the contents of a
    /// backup. The ids of the cluster and of the member stay the same, and lease ids continue to
    /// count up.
    pub(crate) fn restore(&mut self, backup: &Self, now: Duration) {
        self.revision = backup.revision;
        self.compact_revision = backup.compact_revision;
        self.index = backup.index.clone();
        self.log = backup.log.clone();
        self.leases.restore(&backup.leases, now);
    }

    /// The changes of a revision.
    pub(crate) fn changes(&self, revision: Revision) -> &[Change] {
        self.log.changes(revision)
    }

    /// The key as of the revision before `change`; `None` if `change` created the key, if the key
    /// did not exist at that revision, or if that revision is compacted.
    pub(crate) fn previous_kv(&self, change: &Change) -> Option<KeyValue> {
        let kv = &change.kv;
        let before = kv.mod_revision.previous();
        if kv.create_revision == kv.mod_revision || before < self.compact_revision {
            return None;
        }
        self.index.get_at(&kv.key, before).cloned()
    }

    pub(crate) fn grant(
        &mut self,
        request: LeaseGrant,
        now: Duration,
    ) -> Result<(LeaseId, Duration)> {
        request.check()?;
        self.leases.grant(request.id, request.ttl, now)
    }

    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<Duration> {
        self.leases.keep_alive(id, now)
    }

    /// Removes a lease, and deletes its keys in one revision, in key order.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<()> {
        let keys = self.leases.revoke(id)?;
        let mut changes = PendingRevision::begin(self);
        for key in keys {
            changes.delete_key(&key);
        }
        changes.commit();
        Ok(())
    }

    /// Revokes every overdue lease, each in its own revision, the most overdue first.
    pub(crate) fn revoke_overdue_leases(&mut self, now: Duration) {
        while let Some(id) = self.leases.most_overdue_lease(now) {
            self.revoke(id).expect("an overdue lease exists");
        }
    }

    /// Whether a lease is overdue. `now` is called only if there are leases.
    pub(crate) fn has_overdue_lease(&self, now: impl FnOnce() -> Duration) -> bool {
        self.leases.next_deadline().is_some_and(|deadline| deadline <= now())
    }

    /// The earliest deadline of a lease, on the lease clock.
    pub(crate) fn next_lease_deadline(&self) -> Option<Duration> {
        self.leases.next_deadline()
    }

    /// The granted and the remaining time of a lease and, if requested, its keys; `None` if the
    /// lease does not exist.
    pub(crate) fn lease_status(
        &self,
        request: LeaseTimeToLive,
        now: Duration,
    ) -> Option<LeaseStatus> {
        let status = self.leases.status(request.id, now)?;
        let keys = if request.keys { self.leases.keys(request.id) } else { Vec::new() };
        Some(LeaseStatus { keys, ..status })
    }

    pub(crate) fn leases(&self) -> Vec<LeaseId> {
        self.leases.list()
    }
}

/// Whether these changes of one revision delete a key and then put it.
fn deletes_then_puts_a_key(changes: &[Change]) -> bool {
    changes.iter().enumerate().any(|(i, deleted)| {
        deleted.kind == EventKind::Delete
            && changes[i..]
                .iter()
                .any(|put| put.kind == EventKind::Put && put.kv.key == deleted.kv.key)
    })
}
