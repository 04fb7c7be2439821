//! A history that is joined to its version order: the tables that all later steps of a check read.
//!
//! `resolve.rs` makes them, and explains nodes by an example.

use std::ops::RangeInclusive;

use coord_core::stm::Isolation;
use hashbrown::HashMap;

use super::anomaly::AnomalyKind;
use super::base::Base;
use super::coverage::Coverage;
use super::log::{AttemptRow, KeyId, Log, NONE, RangeRow, Slice, WriteRow, rows};
use super::versions::{Version, Versions};

/// What a node has read.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadSet {
    pub(super) reads: Slice,
    pub(super) ranges: Slice,
    /// The keys that it has deleted although they were absent, in `Resolved::no_op_deletes`.
    pub(super) no_op_deletes: Slice,
}

/// A committed transaction, or a change of the store that no recorded transaction made.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Its committed attempt; `NONE` for a change of the store.
    pub(super) attempt: u32,
    /// The revision of its writes; 0 if it has changed nothing.
    pub(super) commit: i64,
    /// When its first attempt began: in real time it comes after all that ended before.
    pub(super) began: u64,
    /// When it ended; `u64::MAX` if that is not known.
    pub(super) ended: u64,
    pub(super) process: u32,
    pub(super) isolation: Option<Isolation>,
    pub(super) read_set: ReadSet,
    /// Whether its writes are in several revisions.
    pub(super) is_split: bool,
}

impl Node {
    pub(super) const fn writes(&self) -> bool {
        self.commit > 0
    }
}

/// Something that no level of coord permits, or an inconsistent attempt: found without a search for
/// cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) kind: AnomalyKind,
    /// The attempt.
    pub(super) attempt: u32,
    pub(super) key: KeyId,
    /// The revision of the version that is concerned.
    pub(super) revision: i64,
    /// The attempt that wrote it; `NONE` if that is not known.
    pub(super) writer: u32,
}

/// A history, joined to its version order.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) log: Log,
    /// What is known of forgotten transactions.
    pub(super) base: Base,
    pub(super) versions: Versions,
    pub(super) nodes: Vec<Node>,
    pub(super) no_op_deletes: Vec<KeyId>,
    pub(super) findings: Vec<Finding>,
    pub(super) coverage: Coverage,
    /// The revisions whose changes are all known.
    pub(super) changes: Option<RangeInclusive<i64>>,
    /// Keys that were written by transactions of which the history does not have everything: that
    /// such a key is absent means nothing.
    pub(super) has_unknown_writes: Vec<bool>,
    /// The commits with unknown outcome that could not be matched although revisions have their
    /// writes, each with the lowest of these revisions.
    pub(super) contested: Vec<(u32, i64)>,
    /// Versions up to the boundary that only reads show, of keys without known versions there.
    pub(super) late_versions: Vec<Version>,
    /// The keys with versions, in key order.
    pub(super) sorted_keys: Vec<KeyId>,
}

impl Resolved {
    /// The writes of the change of the store in a revision; empty if it is not known.
    pub(super) fn change(&self, revision: i64) -> &[WriteRow] {
        let changes = &self.log.changes;
        match changes.binary_search_by_key(&revision, |change| change.revision) {
            Ok(found) => rows(&self.log.writes, &changes[found].writes),
            Err(_) => &[],
        }
    }

    /// The attempt of a node.
    pub(super) fn attempt(&self, node: &Node) -> Option<&AttemptRow> {
        self.log.attempts.get(node.attempt as usize)
    }

    /// Whether a node is a commit with unknown outcome that was matched with a revision.
    pub(super) fn is_matched(&self, node: &Node) -> bool {
        self.attempt(node).is_some_and(|attempt| !attempt.is_committed())
    }

    /// Calls `f` with each key that was read as absent, and with whether only a range shows it.
    pub(super) fn each_absent(&self, read_set: &ReadSet, mut f: impl FnMut(KeyId, bool)) {
        let is_known = |key: KeyId| !self.has_unknown_writes[key as usize];
        let reads = rows(&self.log.reads, &read_set.reads).iter().filter(|read| read.is_absent());
        let no_ops = rows(&self.no_op_deletes, &read_set.no_op_deletes);
        for key in reads.map(|read| read.key).chain(no_ops.iter().copied()) {
            if is_known(key) {
                f(key, false);
            }
        }
        for range in rows(&self.log.ranges, &read_set.ranges) {
            self.each_absent_of_range(range, |key| {
                if is_known(key) {
                    f(key, true);
                }
            });
        }
    }

    /// Calls `f` with each key with versions that is in a range, and that was not found.
    fn each_absent_of_range(&self, range: &RangeRow, mut f: impl FnMut(KeyId)) {
        let found = rows(&self.log.reads, &range.found);
        let mut found: Vec<KeyId> = found.iter().map(|read| read.key).collect();
        found.sort_unstable();
        let name = |key: KeyId| &self.log.keys[key as usize];
        let start = self.sorted_keys.partition_point(|&key| name(key) < range.range.start());
        // A range that is a single key, or has no keys, ends at its first key at the latest.
        let keys = self.sorted_keys[start..].iter().copied();
        for key in keys.take_while(|&key| range.range.contains(name(key))) {
            if found.binary_search(&key).is_err() {
                f(key);
            }
        }
    }

    /// Whether everything in a read set is valid at `revision`.
    pub(super) fn holds_at(&self, read_set: &ReadSet, revision: i64) -> bool {
        let reads = rows(&self.log.reads, &read_set.reads);
        let found = reads.iter().filter(|read| read.version != NONE).all(|read| {
            read.revision <= revision && revision <= self.versions.valid_until(read.version)
        });
        if !found {
            return false;
        }
        let mut holds = true;
        self.each_absent(read_set, |key, _| {
            holds = holds && self.versions.is_absent(key, revision)
        });
        holds
    }

    /// The transactions with an attempt that did not commit, and when the first such attempt began.
    pub(super) fn first_begins(&self) -> HashMap<u64, u64> {
        let mut begins = self.base.begins.clone();
        for attempt in self.log.attempts.iter().filter(|attempt| !attempt.is_committed()) {
            let begin = begins.entry(attempt.transaction).or_insert(attempt.began);
            *begin = attempt.began.min(*begin);
        }
        begins
    }
}
