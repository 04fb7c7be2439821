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

use super::anomaly::AnomalyKind;
use super::base::Base;
use super::coverage::Coverage;
use super::log::{Log, NONE, ReadRow, WriteRow, length, rows};
use super::options::Values;
use super::resolved::{Finding, Node, Resolved};
use super::unknown::Match;
use super::versions::{Origin, Version, Versions};
use super::{claims, unclaimed, unknown};
use crate::history::AttemptEnd;

/// Joins a history, or the part of it that is not forgotten, to its version order.
pub(super) fn resolve(mut log: Log, base: Base, values: Values) -> Resolved {
    log.changes.sort_by_key(|change| change.revision);
    let changes = known_changes(&log, &base);
    let keys = log.keys.len();
    let mut versions = written_versions(&log, changes.as_ref());
    versions.extend_from_slice(&base.versions);
    let mut resolved = Resolved {
        versions: Versions::new(versions, keys),
        log,
        base,
        nodes: Vec::new(),
        no_op_deletes: Vec::new(),
        findings: Vec::new(),
        coverage: Coverage::default(),
        changes,
        has_unknown_writes: vec![false; keys],
        contested: Vec::new(),
        late_versions: Vec::new(),
        sorted_keys: Vec::new(),
    };
    let matches = complete_versions(&mut resolved, values);
    claims::add_transactions(&mut resolved, &matches);
    unclaimed::attribute(&mut resolved, values);
    unclaimed::add_changes(&mut resolved);
    unclaimed::check_values(&mut resolved);
    mark_unknown_writes(&mut resolved);
    count(&mut resolved);
    resolved
}

/// The revisions whose changes are all known.
fn known_changes(log: &Log, base: &Base) -> Option<RangeInclusive<i64>> {
    let revisions = log.changes.iter().map(|change| change.revision);
    let known = base.changes.iter().flat_map(|known| [*known.start(), *known.end()]);
    let (first, last) =
        (revisions.clone().chain(known.clone()).min()?, revisions.chain(known).max()?);
    Some(first..=last)
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
        if revision.0 > 0 && changes.is_none_or(|known| !known.contains(&revision.0)) {
            push(rows(&log.writes, &attempt.writes), revision.0, Origin::Attempt);
        }
    }
    versions
}

/// Adds versions that only reads show, and those of commits with unknown outcome; removes deletions
/// that had no effect. Returns the matched commits, with their revisions.
fn complete_versions(resolved: &mut Resolved, values: Values) -> Vec<Match> {
    link_reads(resolved);
    let observed = observed_versions(resolved);
    let boundary = resolved.base.boundary;
    let is_late = |version: &&Version| version.revision <= boundary;
    resolved.late_versions = observed.iter().filter(is_late).copied().collect();
    let mut is_changed = add_versions(resolved, observed);
    let (matches, added) = unknown::match_commits(resolved, values);
    is_changed |= add_versions(resolved, added);
    // A deletion that a change shows had an effect. Of another one this is known only if the key
    // existed.
    let has_effect = |previous: Option<&Version>, version: &Version| {
        version.is_put
            || version.origin == Origin::Change
            || version.revision <= boundary
            || previous.is_some_and(|previous| previous.is_put)
    };
    if !resolved.versions.all.iter().all(|version| has_effect(None, version)) {
        resolved.versions.retain(has_effect);
        is_changed = true;
    }
    if is_changed {
        link_reads(resolved);
    }
    resolved.versions.before_changes =
        resolved.changes.as_ref().map_or(0, |known| known.start().saturating_sub(1));
    let keys = 0..length(&resolved.log.keys);
    let has_versions = |&key: &u32| resolved.versions.first(key).is_some();
    let mut sorted_keys: Vec<_> = keys.filter(has_versions).collect();
    sorted_keys.sort_unstable_by_key(|&key| &resolved.log.keys[key as usize]);
    resolved.sorted_keys = sorted_keys;
    matches
}

/// Adds versions, and returns whether there were any.
fn add_versions(resolved: &mut Resolved, mut added: Vec<Version>) -> bool {
    if added.is_empty() {
        return false;
    }
    added.extend_from_slice(&resolved.versions.all);
    resolved.versions = Versions::new(added, resolved.log.keys.len());
    true
}

/// The versions that were read and that no attempt or change has written. In revisions whose
/// changes are known there can be none: such a read is garbage.
fn observed_versions(resolved: &mut Resolved) -> Vec<Version> {
    let mut observed = Vec::new();
    for (number, attempt) in resolved.log.attempts.iter().enumerate() {
        let reads = rows(&resolved.log.reads, &attempt.reads).iter();
        for read in reads.filter(|read| read.has_revision() && read.version == NONE) {
            let is_known =
                resolved.changes.as_ref().is_some_and(|all| all.contains(&read.revision));
            if is_beyond(resolved, read, is_known) {
                continue;
            }
            if is_known {
                resolved.findings.push(Finding {
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

/// Whether a read returned a version that may have existed and be forgotten.
fn is_beyond(resolved: &Resolved, read: &ReadRow, is_known: bool) -> bool {
    let boundary = resolved.base.boundary;
    // The first version is that at the boundary, if the key had one.
    let first = resolved.versions.first(read.key);
    first.map(|first| resolved.versions.get(first).revision).is_some_and(|first| {
        read.revision <= boundary && first <= boundary && (first >= read.revision || !is_known)
    })
}

/// Links each read to its version.
fn link_reads(resolved: &mut Resolved) {
    let mut cursors = vec![0; resolved.log.keys.len()];
    for read in resolved.log.reads.iter_mut().filter(|read| !read.is_absent()) {
        let cursor = &mut cursors[read.key as usize];
        let version = resolved.versions.find_near(read.key, read.revision, cursor);
        read.version =
            version.filter(|&version| resolved.versions.get(version).is_put).unwrap_or(NONE);
    }
}

/// The lowest revision that a recorded transaction or a known change has written: versions below
/// are from the initial state.
pub(super) fn first_revision(resolved: &Resolved) -> i64 {
    let commits = resolved.nodes.iter().filter(|node| node.attempt != NONE && node.writes());
    let first = commits.map(|node| node.commit).min().unwrap_or(i64::MAX);
    let first = resolved.base.first_revision.map_or(first, |known| first.min(known));
    resolved.changes.as_ref().map_or(first, |known| first.min(*known.start()))
}

/// Marks the keys with unknown writes. Of a key whose versions may still get a writer, nothing is
/// concluded before its version is forgotten.
fn mark_unknown_writes(resolved: &mut Resolved) {
    if resolved.base.is_partial {
        resolved.has_unknown_writes = (0..length(&resolved.log.keys))
            .map(|key| resolved.base.marks(key).has_unknown_writes)
            .collect();
        return;
    }
    for attempt in resolved.log.attempts.iter().filter(|attempt| attempt.lacks_revision()) {
        for write in rows(&resolved.log.writes, &attempt.writes) {
            resolved.has_unknown_writes[write.key as usize] = true;
        }
    }
    for version in &resolved.versions.all {
        if is_other(&resolved.nodes, version) {
            resolved.has_unknown_writes[version.key as usize] = true;
        }
    }
}

/// Whether only a read shows the version, and no recorded attempt has written it.
fn is_other(nodes: &[Node], version: &Version) -> bool {
    let writer = nodes.get(version.writer as usize);
    version.origin == Origin::Read && writer.is_none_or(|node| node.attempt == NONE)
}

/// Counts what could be joined.
fn count(resolved: &mut Resolved) {
    let first = first_revision(resolved);
    let reads = &resolved.log.reads;
    let is_resolved = |read: &&ReadRow| is_resolved(resolved, read, first);
    let resolved_reads = reads.iter().filter(is_resolved).count();
    let transactions = resolved.nodes.iter().filter(|node| node.attempt != NONE).count();
    let without_revision =
        resolved.log.attempts.iter().filter(|attempt| attempt.lacks_revision()).count();
    let coverage = &mut resolved.coverage;
    coverage.reads = resolved.log.reads.len();
    coverage.resolved_reads = resolved_reads;
    coverage.attempts = resolved.log.attempts.len();
    coverage.transactions = transactions;
    coverage.without_revision = without_revision;
    coverage.other_changes = resolved.nodes.len() - transactions;
}

/// Whether the history has the version that was read, and its writer. `first` is the
/// [`first_revision`].
pub(super) fn is_resolved(resolved: &Resolved, read: &ReadRow, first: i64) -> bool {
    if read.is_absent() {
        return !resolved.has_unknown_writes[read.key as usize];
    }
    if read.version == NONE {
        return false;
    }
    let version = resolved.versions.get(read.version);
    !is_other(&resolved.nodes, version) || version.revision < first
}
