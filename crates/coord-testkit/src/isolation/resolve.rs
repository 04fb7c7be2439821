//! Joins the attempts of a history to the version order: which transaction wrote which version, and
//! which version each read returned.
//!
//! The result is a list of *nodes*: the committed transactions, and the changes of the store that
//! no recorded transaction made. What cannot be joined is a finding, such as a read of a version
//! that the store never had, or is counted as unresolved, if the history does not have what is
//! needed.
//!
//! ```text
//! attempt 1 of T7  reads x@3, puts x = a; committed at revision 5     the store puts x = a at 5
//!   node T7: reads version x@3, writes version x@5
//! attempt 1 of T8  puts y = b; outcome unknown                        the store puts y = b at 6
//!   node T8: writes version y@6; no other attempt or change has the same writes
//! (none)                                                              the store deletes x at 7
//!   node "revision 7": writes version x@7
//! ```

use std::ops::RangeInclusive;

use coord_core::stm::Isolation;
use hashbrown::HashMap;

use super::anomaly::AnomalyKind;
use super::log::{AttemptRow, KeyId, Log, NONE, RangeRow, Slice, WriteRow, length, rows};
use super::unknown::Match;
use super::versions::{Origin, Version, Versions};
use super::{Coverage, Values, claims, unclaimed, unknown};
use crate::history::AttemptEnd;

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

/// Something that no isolation level permits, found without a search for cycles.
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
    /// The keys with versions, in key order.
    sorted_keys: Vec<KeyId>,
}

/// Joins a history to its version order.
pub(super) fn resolve(mut log: Log, values: Values) -> Resolved {
    log.changes.sort_by_key(|change| change.revision);
    let changes = match &log.changes[..] {
        [] => None,
        [first, .., last] => Some(first.revision..=last.revision),
        [only] => Some(only.revision..=only.revision),
    };
    let keys = log.keys.len();
    let mut resolved = Resolved {
        versions: Versions::new(written_versions(&log, changes.as_ref()), keys),
        log,
        nodes: Vec::new(),
        no_op_deletes: Vec::new(),
        findings: Vec::new(),
        coverage: Coverage::default(),
        changes,
        has_unknown_writes: vec![false; keys],
        sorted_keys: Vec::new(),
    };
    let matches = resolved.complete_versions(values);
    claims::add_transactions(&mut resolved, &matches);
    unclaimed::attribute(&mut resolved, values);
    unclaimed::add_changes(&mut resolved);
    unclaimed::check_values(&mut resolved);
    resolved.count();
    resolved
}

/// The versions that the changes of the store and the committed attempts have written.
fn written_versions(log: &Log, changes: Option<&RangeInclusive<i64>>) -> Vec<Version> {
    let mut versions = Vec::with_capacity(log.writes.len());
    let mut push = |writes: &[WriteRow], revision, origin| {
        versions.extend(writes.iter().map(|write| Version {
            revision,
            value: write.value,
            key: write.key,
            writer: NONE,
            is_put: write.value != 0,
            origin,
        }));
    };
    for change in &log.changes {
        push(rows(&log.writes, &change.writes), change.revision, Origin::Change);
    }
    for attempt in &log.attempts {
        let AttemptEnd::Committed { revision } = attempt.end else { continue };
        if changes.is_none_or(|known| !known.contains(&revision.0)) {
            push(rows(&log.writes, &attempt.writes), revision.0, Origin::Attempt);
        }
    }
    versions
}

impl Resolved {
    /// Adds versions that only reads show, and those of commits with unknown outcome; removes
    /// deletions that had no effect. Returns the matched commits, with their revisions.
    fn complete_versions(&mut self, values: Values) -> Vec<Match> {
        self.link_reads();
        let observed = self.observed_versions();
        let mut is_changed = self.add_versions(observed);
        let (matches, added) = unknown::match_commits(self, values);
        is_changed |= self.add_versions(added);
        // A deletion that a change shows had an effect. Of another one this is known only if the
        // key existed.
        let has_effect = |previous: Option<&Version>, version: &Version| {
            version.is_put
                || version.origin == Origin::Change
                || previous.is_some_and(|previous| previous.is_put)
        };
        if !self.versions.all.iter().all(|version| has_effect(None, version)) {
            self.versions.retain(has_effect);
            is_changed = true;
        }
        if is_changed {
            self.link_reads();
        }
        self.versions.before_changes = self.changes.as_ref().map_or(0, |known| known.start() - 1);
        self.sorted_keys =
            (0..length(&self.log.keys)).filter(|&key| self.versions.first(key).is_some()).collect();
        self.sorted_keys.sort_unstable_by_key(|&key| &self.log.keys[key as usize]);
        matches
    }

    /// Adds versions, and returns whether there were any.
    fn add_versions(&mut self, mut added: Vec<Version>) -> bool {
        if added.is_empty() {
            return false;
        }
        added.extend_from_slice(&self.versions.all);
        self.versions = Versions::new(added, self.log.keys.len());
        true
    }

    /// The versions that were read and that no attempt or change has written. In revisions whose
    /// changes are known there can be none: such a read is garbage.
    fn observed_versions(&mut self) -> Vec<Version> {
        let mut observed = Vec::new();
        for (number, attempt) in self.log.attempts.iter().enumerate() {
            let reads = rows(&self.log.reads, &attempt.reads).iter();
            for read in reads.filter(|read| !read.is_absent() && read.version == NONE) {
                if self.changes.as_ref().is_some_and(|known| known.contains(&read.revision)) {
                    self.findings.push(Finding {
                        kind: AnomalyKind::GarbageRead,
                        attempt: number as u32,
                        key: read.key,
                        revision: read.revision,
                        writer: NONE,
                    });
                } else {
                    observed.push(Version {
                        revision: read.revision,
                        value: read.value,
                        key: read.key,
                        writer: NONE,
                        is_put: true,
                        origin: Origin::Read,
                    });
                }
            }
        }
        observed
    }

    /// Links each read to its version.
    fn link_reads(&mut self) {
        let mut cursors = vec![0; self.log.keys.len()];
        for read in self.log.reads.iter_mut().filter(|read| !read.is_absent()) {
            let cursor = &mut cursors[read.key as usize];
            let version = self.versions.find_near(read.key, read.revision, cursor);
            read.version =
                version.filter(|&version| self.versions.get(version).is_put).unwrap_or(NONE);
        }
    }

    /// The lowest revision that a recorded transaction or a known change has written: versions
    /// below are from the initial state.
    fn first_revision(&self) -> i64 {
        let commits = self.nodes.iter().filter(|node| node.attempt != NONE && node.writes());
        let first = commits.map(|node| node.commit).min().unwrap_or(i64::MAX);
        self.changes.as_ref().map_or(first, |known| first.min(*known.start()))
    }

    /// Counts what could be joined, and marks the keys with unknown writes.
    fn count(&mut self) {
        let first = self.first_revision();
        let is_other = |version: &&Version| {
            version.origin == Origin::Read && version.writer_is_no_attempt(&self.nodes)
        };
        for version in self.versions.all.iter().filter(is_other) {
            self.has_unknown_writes[version.key as usize] = true;
        }
        let mut resolved = 0;
        for read in &self.log.reads {
            resolved += usize::from(if read.is_absent() {
                !self.has_unknown_writes[read.key as usize]
            } else if read.version == NONE {
                false
            } else {
                let version = self.versions.get(read.version);
                !is_other(&version) || version.revision < first
            });
        }
        self.coverage.reads = self.log.reads.len();
        self.coverage.resolved_reads = resolved;
        self.coverage.attempts = self.log.attempts.len();
        let transactions = self.nodes.iter().filter(|node| node.attempt != NONE);
        self.coverage.transactions = transactions.count();
        self.coverage.other_changes = self.nodes.len() - self.coverage.transactions;
    }

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
        let mut begins = HashMap::new();
        for attempt in self.log.attempts.iter().filter(|attempt| !attempt.is_committed()) {
            let begin = begins.entry(attempt.transaction).or_insert(attempt.began);
            *begin = attempt.began.min(*begin);
        }
        begins
    }
}

impl Version {
    /// Whether no recorded attempt has written it.
    fn writer_is_no_attempt(&self, nodes: &[Node]) -> bool {
        nodes.get(self.writer as usize).is_none_or(|node| node.attempt == NONE)
    }
}
