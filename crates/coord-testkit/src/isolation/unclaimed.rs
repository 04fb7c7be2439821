//! Versions that no committed transaction claims: they are from other clients, or from writes that
//! went wrong.
//!
//! If values are unique, the value of such a version shows the attempt that wrote it:
//!
//! ```text
//! T1 commits x = 1 at revision 4; the store has x = 1 at revisions 4 and 5     doubled write
//! T1 commits x = 1 and y = 1 at revision 4; the store has y = 1 at revision 5  split commit
//! T1 conflicts with x = 1; the store has x = 1 at revision 4                   aborted write
//!   T2 reads x = 1                                                             aborted read (G1a)
//! ```
//!
//! Otherwise another client can have put the same value, and none of this is reported.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::anomaly::AnomalyKind;
use super::log::{AttemptRow, KeyId, NONE, length, rows};
use super::options::Values;
use super::resolved::{Finding, Node, ReadSet, Resolved};
use super::versions::Version;
use crate::history::AttemptEnd;

/// Reports versions whose value shows a writer that should not have written them, and reads of
/// them. Does nothing if values are not unique.
pub(super) fn attribute(resolved: &mut Resolved, values: Values) {
    if values == Values::Any {
        return;
    }
    let writers = writers(resolved);
    let mut nodes = vec![NONE; resolved.log.attempts.len()];
    for (number, node) in resolved.nodes.iter().enumerate() {
        nodes[node.attempt as usize] = number as u32;
    }
    let boundary = resolved.base.boundary;
    // The anomaly of a read of a version, and the attempt that wrote the version.
    let mut bad_reads: HashMap<u32, (AnomalyKind, u32)> = HashMap::new();
    for i in 0..resolved.versions.all.len() {
        let version = resolved.versions.all[i];
        let Some(&attempt) = writers.get(&(version.key, version.value)) else { continue };
        if version.writer != NONE || !version.is_put || version.revision <= boundary {
            continue;
        }
        let node = nodes[attempt as usize];
        if resolved.log.attempts[attempt as usize].lacks_revision() {
            continue;
        }
        let kind = if node != NONE {
            let commit = resolved.nodes[node as usize].commit;
            resolved.versions.all[i].writer = node;
            resolved.nodes[node as usize].is_split = true;
            let at_commit = resolved.versions.find(version.key, commit);
            let is_doubled = at_commit
                .is_some_and(|at_commit| resolved.versions.get(at_commit).value == version.value);
            if is_doubled {
                let intermediate =
                    if commit < version.revision { at_commit } else { Some(i as u32) };
                if let Some(intermediate) = intermediate {
                    bad_reads.insert(intermediate, (AnomalyKind::G1b, attempt));
                }
                AnomalyKind::DoubledWrite
            } else {
                resolved.findings.retain(|finding| {
                    let is_lost = finding.kind == AnomalyKind::LostWrite;
                    !(is_lost && finding.attempt == attempt && finding.key == version.key)
                });
                AnomalyKind::SplitCommit
            }
        } else if resolved.log.attempts[attempt as usize].end == AttemptEnd::Unknown {
            continue;
        } else {
            bad_reads.insert(i as u32, (AnomalyKind::G1a, attempt));
            AnomalyKind::AbortedWrite
        };
        let (key, revision) = (version.key, version.revision);
        resolved.findings.push(Finding { kind, attempt, key, revision, writer: NONE });
    }
    report_bad_reads(resolved, &bad_reads);
}

/// The attempt that has put each value of each key: the committed attempt, if several have.
fn writers(resolved: &Resolved) -> HashMap<(KeyId, u64), u32> {
    let rank = |attempt: &AttemptRow| match attempt.end {
        AttemptEnd::Committed { .. } => 0,
        AttemptEnd::Unknown => 1,
        _ => 2,
    };
    let attempts = &resolved.log.attempts;
    let mut writers: HashMap<(KeyId, u64), u32> = HashMap::new();
    for (number, attempt) in attempts.iter().enumerate() {
        let writes = rows(&resolved.log.writes, &attempt.writes);
        for write in writes.iter().filter(|write| write.value != 0) {
            let writer = writers.entry((write.key, write.value)).or_insert(number as u32);
            if rank(attempt) < rank(&attempts[*writer as usize]) {
                *writer = number as u32;
            }
        }
    }
    writers
}

/// Reports the reads of committed transactions that returned one of these versions.
fn report_bad_reads(resolved: &mut Resolved, bad_reads: &HashMap<u32, (AnomalyKind, u32)>) {
    for node in &resolved.nodes {
        for read in rows(&resolved.log.reads, &node.read_set.reads) {
            let Some(&(kind, writer)) = bad_reads.get(&read.version) else { continue };
            if writer != node.attempt {
                let (attempt, key, revision) = (node.attempt, read.key, read.revision);
                resolved.findings.push(Finding { kind, attempt, key, revision, writer });
            }
        }
    }
}

/// Adds a node for each revision that no recorded transaction has written.
pub(super) fn add_changes(resolved: &mut Resolved) {
    let mut nodes: BTreeMap<i64, u32> = BTreeMap::new();
    let first = length(&resolved.nodes);
    let boundary = resolved.base.boundary;
    let is_unclaimed =
        |version: &&mut Version| version.writer == NONE && version.revision > boundary;
    for version in resolved.versions.all.iter_mut().filter(is_unclaimed) {
        let next = first + nodes.len() as u32;
        version.writer = *nodes.entry(version.revision).or_insert(next);
    }
    let mut revisions: Vec<_> = nodes.into_iter().collect();
    revisions.sort_unstable_by_key(|(_, node)| *node);
    resolved.nodes.extend(revisions.into_iter().map(|(revision, _)| Node {
        attempt: NONE,
        commit: revision,
        began: 0,
        ended: u64::MAX,
        process: NONE,
        isolation: None,
        read_set: ReadSet::default(),
        is_split: false,
    }));
}

/// Reports reads whose value is not that of their version.
pub(super) fn check_values(resolved: &mut Resolved) {
    for (number, attempt) in resolved.log.attempts.iter().enumerate() {
        for read in rows(&resolved.log.reads, &attempt.reads) {
            if read.version == NONE || read.value == 0 {
                continue;
            }
            let version = resolved.versions.get(read.version);
            if version.value != 0 && version.value != read.value {
                let writer = resolved.nodes.get(version.writer as usize);
                resolved.findings.push(Finding {
                    kind: AnomalyKind::GarbageRead,
                    attempt: number as u32,
                    key: read.key,
                    revision: read.revision,
                    writer: writer.map_or(NONE, |writer| writer.attempt),
                });
            }
        }
    }
}
