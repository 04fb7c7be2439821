//! The store: a state machine without clock, task or lock.
//!
//! Every call is handed all it needs, the time included, and does its work at once; the same calls
//! to a store of the same seed give the same answers to the last byte. Who calls, when, and who is
//! told of the changes, is the business of the shell around it.

mod index;
mod lease;
mod live;
mod log;
mod past;
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
use txn::Changes;

/// The first lease id that a store chooses is one of these: far from the small numbers that people
/// choose, 16 hex digits long, as etcd's ids are, and far from the end.
const FIRST_LEASE_IDS: RangeInclusive<i64> = 0x1000_0000_0000_0000..=0x6fff_ffff_ffff_ffff;

const LOSS: &str = "a transaction of this revision deleted a key by a delete without end and put it again; compacting exactly there makes etcd lose the key";

/// Keys with their history, leases, and the log of changes.
#[derive(Debug)]
pub(crate) struct Store {
    revision: Revision,
    /// The oldest revision that can be read; -1 before the first compaction.
    compact_revision: Revision,
    /// The ids of cluster and member; the rest of a header is filled in.
    header: Header,
    index: Index,
    log: Log,
    leases: Leases,
}

impl Store {
    /// An empty store whose ids are drawn from `seed`.
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
            leases: Leases::new(ttl_min, ids.i64(FIRST_LEASE_IDS)),
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

    pub(crate) const fn compacted(&self, requested: Revision) -> Error {
        let compact_revision = Some(self.compact_revision);
        Error::Compacted { requested: Some(requested), compact_revision }
    }

    /// Sets one key, outside a transaction.
    pub(crate) fn put(&mut self, put: Put) -> Result<PutResponse> {
        // In a transaction these two are tested the other way round.
        self.check_lease(put.lease)?;
        self.check_kept(&put)?;
        let mut changes = Changes::begin(self);
        let response = changes.put(put);
        changes.commit();
        Ok(PutResponse { header: self.header(), ..response })
    }

    /// Deletes a range, outside a transaction.
    pub(crate) fn delete(&mut self, delete: &Delete) -> DeleteResponse {
        let mut changes = Changes::begin(self);
        let response = changes.delete(delete);
        changes.commit();
        DeleteResponse { header: self.header(), ..response }
    }

    pub(crate) fn compact(&mut self, request: Compact) -> Result<()> {
        let (requested, current) = (request.revision, self.revision);
        if requested <= self.compact_revision {
            return Err(self.compacted(requested));
        }
        if requested > current {
            let (requested, current) = (Some(requested), Some(current));
            return Err(Error::FutureRevision { requested, current });
        }
        if replaces_a_key(self.log.changes(requested)) {
            return Err(Error::Refused { hazard: LOSS });
        }
        self.forget_before(requested);
        Ok(())
    }

    /// Compacts at `revision`. Only keys that changed since the last compaction, or in its very
    /// revision, have anything to forget, so this costs what was changed and not what there is.
    pub(crate) fn forget_before(&mut self, revision: Revision) {
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

    /// The changes of a revision.
    pub(crate) fn changes(&self, revision: Revision) -> &[Change] {
        self.log.changes(revision)
    }

    /// The key as it was before `change`; `None` where it did not exist or that is compacted.
    pub(crate) fn before(&self, change: &Change) -> Option<KeyValue> {
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

    /// Ends a lease: its keys are deleted in one revision, in key order.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<()> {
        let keys = self.leases.revoke(id)?;
        let mut changes = Changes::begin(self);
        for key in keys {
            changes.delete_key(&key);
        }
        changes.commit();
        Ok(())
    }

    /// Ends every lease whose time is over, each in its own revision, the most overdue first.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some(id) = self.leases.overdue(now) {
            self.revoke(id).expect("an overdue lease exists");
        }
    }

    /// Whether [`expire`](Self::expire) would do anything.
    pub(crate) fn is_overdue(&self, now: impl FnOnce() -> Duration) -> bool {
        self.leases.next_deadline().is_some_and(|deadline| deadline <= now())
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.leases.next_deadline()
    }

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

/// Whether a key was both deleted and put by these changes of one revision.
fn replaces_a_key(changes: &[Change]) -> bool {
    changes.iter().enumerate().any(|(i, deleted)| {
        deleted.kind == EventKind::Delete
            && changes[i..]
                .iter()
                .any(|put| put.kind == EventKind::Put && put.kv.key == deleted.kv.key)
    })
}
