//! The commit of an attempt: builds the request and reads its response.
//!
//! The request is one transaction: *if* the read set is unchanged, *then* apply the write set,
//! *else* read the read set again. So a conflict costs one request, and its response is a snapshot
//! with which the next attempt starts. At the strong levels, "the read set is unchanged" means:
//!
//! - each key has the mod revision that the attempt has read, or still does not exist;
//! - no key in a range that was read has a mod revision above the snapshot revision. This detects a
//!   created and a changed key; the compare of each key detects a deleted key;
//! - at `SerializableSnapshot`, each key of a blind write has the mod revision that it had at the
//!   first snapshot revision. The key is read before the commit, as of that revision, because no
//!   other compare detects a deleted key.
//!
//! At the strong levels a read-only attempt has seen one snapshot and needs no commit.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Isolation;
use super::error::Conflict;
use super::idempotency_key::IdempotencyKey;
use super::read_set::{ReadSet, Snapshot, Versioned, kvs, mod_revision, single, unchanged_compare};
use super::transaction::{Transaction, Write};
use crate::error::{Error, Result};
use crate::kv::{Compare, CompareOp, Delete, LeaseId, Op, Put, Range, Txn, TxnResponse};

impl Transaction {
    /// Whether the attempt needs no commit: it writes nothing, and its reads need no validation.
    pub(super) fn is_complete(&self) -> bool {
        let needs_validation = self.isolation == Isolation::RepeatableReads
            && (self.read_set.len() > 1 || !self.ranges.is_empty());
        self.write_set.is_empty() && !needs_validation
    }

    /// Checks the number of operations, and reads the keys of the blind writes that the commit
    /// compares.
    ///
    /// If the attempt has neither read nor started with a snapshot, all its writes are blind, and
    /// the commit compares none of them, at every level.
    pub(super) async fn prepare_commit(&mut self, with_idempotency_key: bool) -> Result<()> {
        let is_compared = self.isolation == Isolation::SerializableSnapshot;
        let first = self.snapshot.first().filter(|_| is_compared);
        let blind = self.write_set.keys().filter(|key| !self.read_set.contains_key(*key));
        let blind: Vec<_> = blind.filter(|_| first.is_some()).cloned().collect();
        let compares = match self.isolation {
            Isolation::ReadCommitted => 0,
            _ => self.read_set.len() + self.ranges.len() + blind.len(),
        };
        let extra = usize::from(with_idempotency_key && !self.write_set.is_empty());
        let count = compares.max(self.write_set.len()) + extra;
        let limit = self.client.limits().max_txn_ops;
        if count > limit {
            return Err(Error::TooManyOps { count, limit });
        }
        match first {
            Some(first) => self.read_blind_writes(first, blind).await,
            None => Ok(()),
        }
    }

    /// Whether a put of the write set uses another lease.
    pub(super) fn uses_lease_other_than(&self, lease: LeaseId) -> bool {
        let other = |put: &Put| put.lease.is_some_and(|other| other != lease);
        self.write_set.values().any(|write| matches!(write, Write::Put(put) if other(put)))
    }

    /// The request that commits the attempt.
    pub(super) fn commit_request(&self, key: Option<&mut IdempotencyKey>) -> Txn {
        let writes = self.write_set.iter().map(|(key, write)| match write {
            Write::Put(put) => Op::Put(put.clone()),
            Write::Delete => Op::Delete(Delete::new(key)),
        });
        let mut commit = Txn::new().and_then(writes);
        if self.isolation != Isolation::ReadCommitted {
            let reads = self.compared_keys().map(|(key, _)| Range::new(key));
            let reads = reads.chain(self.ranges.iter().map(Range::new));
            commit = commit.when(self.compared_keys().map(unchanged_compare)).or_else(reads);
        }
        if let Some(at) = self.snapshot.current() {
            let untouched = |range| Compare::mod_revision(range, CompareOp::Less, at.next());
            commit = commit.when(self.ranges.iter().map(untouched));
        }
        match key {
            Some(key) => key.add_to(commit),
            None => commit,
        }
    }

    /// The keys that the commit compares one by one, with what was read.
    fn compared_keys(&self) -> impl Iterator<Item = (&Bytes, &Option<Versioned>)> {
        self.read_set.iter().chain(&self.blind_writes)
    }

    /// The snapshot in the response of a commit that failed.
    pub(super) fn found_snapshot(&self, response: TxnResponse) -> Snapshot {
        let mut responses = response.responses.into_iter();
        let compared = self.compared_keys().map(|(key, _)| key.clone());
        let keys = compared.zip(responses.by_ref().map(single)).collect();
        let ranges = self.ranges.iter().cloned().zip(responses.map(kvs)).collect();
        Snapshot { revision: response.header.revision, keys, ranges }
    }

    /// The keys that differ from what the attempt has read.
    pub(super) fn conflicts(&self, found: &Snapshot) -> Vec<Conflict> {
        let mut conflicts: Vec<_> = self
            .compared_keys()
            .filter_map(|(key, read)| {
                let (read, found) = (mod_revision(read), mod_revision(found.keys.get(key)?));
                (read != found).then(|| Conflict { key: key.clone(), read, found })
            })
            .collect();
        let in_ranges = found.ranges.iter().flat_map(|(_, kvs)| kvs);
        for kv in in_ranges.filter(|kv| !self.read_set.contains_key(&kv.key)) {
            let found = Some(kv.mod_revision);
            conflicts.push(Conflict { key: kv.key.clone(), read: None, found });
        }
        conflicts
    }

    /// Whether the key is in the read set or the write set. The commit reads no such key for the
    /// post-image.
    pub(super) fn reads_or_writes(&self, key: &Bytes) -> bool {
        self.read_set.contains_key(key) || self.write_set.contains_key(key)
    }

    /// The post-image: the keys of the read set and the write set after the commit, which has
    /// validated the read set and applied the write set, and the `wanted` keys, which its last
    /// operations have read.
    pub(super) fn post_image(&self, mut commit: TxnResponse, wanted: BTreeSet<Bytes>) -> Snapshot {
        let revision = commit.header.revision;
        let read = commit.responses.split_off(commit.responses.len() - wanted.len());
        let mut keys: ReadSet = wanted.into_iter().zip(read.into_iter().map(single)).collect();
        keys.extend(self.read_set.clone());
        for (key, write) in &self.write_set {
            match write {
                // The put kept the value in the store, which the attempt may not have read.
                Write::Put(put) if put.ignore_value => drop(keys.remove(key)),
                Write::Put(put) => {
                    let value = put.value.clone();
                    keys.insert(key.clone(), Some(Versioned { value, mod_revision: revision }));
                }
                Write::Delete => drop(keys.insert(key.clone(), None)),
            }
        }
        Snapshot { revision, keys, ranges: Vec::new() }
    }
}
