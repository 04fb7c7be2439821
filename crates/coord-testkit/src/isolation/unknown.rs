//! Commits with unknown outcome: matches them with revisions.
//!
//! A commit was applied if a revision that no other attempt claims has its writes. The match must
//! be the only one on both sides: two commits that put the same value, of which one was applied,
//! cannot be distinguished, and stay unmatched.
//!
//! ```text
//! T1 puts x = 1, unknown     revision 4 puts x = 1      T1 was applied at revision 4
//! T2 puts y = 1, unknown     revision 5 puts y = 1      either may have been applied: unmatched
//! T3 puts y = 1, unknown
//! T4 deletes z, unknown      revision 6 deletes z       T4 deleted z, or another client did
//!                            T5 ends at revision 7
//! T6 deletes z, unknown      z is absent                T6 began after revision 6: unmatched
//! ```
//!
//! A match shows which revision was written, never when: the transaction has no end in real time.
//! But it has a beginning: a revision that another attempt had seen before is not its own.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::log::{AttemptRow, KeyId, Log, NONE, WriteRow, rows};
use super::options::Values;
use super::resolved::Resolved;
use super::versions::{Origin, Version};
use crate::history::AttemptEnd;

/// A commit with unknown outcome that was applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Match {
    pub(super) attempt: u32,
    pub(super) revision: i64,
    /// Whether another client cannot have made the revision, so that the reads of the attempt
    /// belong to it.
    pub(super) is_certain: bool,
}

/// Matches the commits with unknown outcome, in the order of the attempts. Also returns versions
/// that the matches add.
pub(super) fn match_commits(resolved: &mut Resolved, values: Values) -> (Vec<Match>, Vec<Version>) {
    let log = &resolved.log;
    let unknown: Vec<u32> = (0..log.attempts.len() as u32)
        .filter(|&number| is_unknown(&log.attempts[number as usize]))
        .collect();
    if unknown.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let candidates = candidates(resolved, &unknown);
    let mut by_attempt: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
    let mut by_revision: BTreeMap<i64, u32> = BTreeMap::new();
    for &(attempt, revision) in &candidates {
        by_attempt.entry(attempt).or_default().push(revision);
        *by_revision.entry(revision).or_default() += 1;
    }
    let mut matches = Vec::new();
    let mut added = Vec::new();
    for number in unknown {
        let attempt = &resolved.log.attempts[number as usize];
        let writes = rows(&resolved.log.writes, &attempt.writes);
        match by_attempt.get(&number).map(Vec::as_slice) {
            Some(&[revision]) if by_revision.get(&revision) == Some(&1) => {
                let has_put = writes.iter().any(|write| write.value != 0);
                let is_certain = has_put && values == Values::Unique;
                matches.push(Match { attempt: number, revision, is_certain });
                if !is_known(resolved, revision) {
                    added.extend(writes.iter().map(|write| version(write, revision)));
                }
            }
            revisions => {
                let lowest = revisions.and_then(|revisions| revisions.iter().min());
                resolved.contested.extend(lowest.map(|&lowest| (number, lowest)));
                let keys: Vec<KeyId> = writes.iter().map(|write| write.key).collect();
                resolved.coverage.unmatched_unknown += 1;
                if !all_changes_are_known(resolved) {
                    for key in keys {
                        resolved.has_unknown_writes[key as usize] = true;
                    }
                }
            }
        }
    }
    resolved.coverage.matched_unknown = matches.len();
    (matches, added)
}

fn is_unknown(attempt: &AttemptRow) -> bool {
    attempt.end == AttemptEnd::Unknown && !attempt.writes.is_empty()
}

fn version(write: &WriteRow, revision: i64) -> Version {
    Version {
        revision,
        value: write.value,
        key: write.key,
        writer: NONE,
        is_put: write.value != 0,
        origin: Origin::Attempt,
    }
}

/// Whether all changes of a revision are known.
fn is_known(resolved: &Resolved, revision: i64) -> bool {
    resolved.changes.as_ref().is_some_and(|known| known.contains(&revision))
}

/// Whether no attempt has read or written a revision after the known changes.
fn all_changes_are_known(resolved: &Resolved) -> bool {
    let Some(known) = &resolved.changes else { return false };
    let last = resolved.versions.all.iter().map(|version| version.revision).max();
    last.is_none_or(|last| last <= *known.end())
}

/// The pairs of a commit and a revision that has its writes, and that no other attempt claims.
fn candidates(resolved: &Resolved, unknown: &[u32]) -> BTreeSet<(u32, i64)> {
    let log = &resolved.log;
    let mut claimed = BTreeSet::new();
    for attempt in &log.attempts {
        if let AttemptEnd::Committed { revision } = attempt.end {
            let has_put = rows(&log.writes, &attempt.writes).iter().any(|write| write.value != 0);
            if !attempt.writes.is_empty() {
                claimed.insert((revision.0, has_put));
            }
        }
    }
    let mut writers: HashMap<(KeyId, u64), Vec<u32>> = HashMap::new();
    for &number in unknown {
        let writes = rows(&log.writes, &log.attempts[number as usize].writes);
        let has_put = writes.iter().any(|write| write.value != 0);
        for write in writes.iter().filter(|write| (write.value != 0) == has_put) {
            writers.entry((write.key, write.value)).or_default().push(number);
        }
    }
    let seen = seen_before(log, unknown);
    let mut candidates = BTreeSet::new();
    let boundary = resolved.base.boundary;
    for version in resolved.versions.all.iter().filter(|version| version.revision > boundary) {
        let Some(writers) = writers.get(&(version.key, version.value)) else { continue };
        let is_claimed = claimed.contains(&(version.revision, true))
            || (!version.is_put && claimed.contains(&(version.revision, false)));
        if is_claimed || (!version.is_put && version.origin != Origin::Change) {
            continue;
        }
        let fits = writers
            .iter()
            .filter(|&&writer| version.revision > seen[&writer] && fits(resolved, writer, version));
        candidates.extend(fits.map(|&writer| (writer, version.revision)));
    }
    candidates
}

/// For each attempt of `unknown`, the newest revision that other attempts had seen when it began.
fn seen_before(log: &Log, unknown: &[u32]) -> HashMap<u32, i64> {
    let mut by_end: Vec<&AttemptRow> = log.attempts.iter().collect();
    by_end.sort_unstable_by_key(|attempt| attempt.ended);
    let mut by_begin = unknown.to_vec();
    by_begin.sort_unstable_by_key(|&number| log.attempts[number as usize].began);
    let (mut ended, mut newest) = (by_end.into_iter().peekable(), 0);
    let mut seen = HashMap::new();
    for number in by_begin {
        let began = log.attempts[number as usize].began;
        while let Some(attempt) = ended.next_if(|attempt| attempt.ended < began) {
            let reads = rows(&log.reads, &attempt.reads).iter().map(|read| read.revision);
            let committed = match attempt.end {
                AttemptEnd::Committed { revision } => revision.0,
                _ => 0,
            };
            newest = reads.fold(newest.max(committed), i64::max);
        }
        seen.insert(number, newest);
    }
    seen
}

/// Whether the writes of an attempt can be the change that `version` is a part of.
fn fits(resolved: &Resolved, attempt: u32, version: &Version) -> bool {
    let attempt = &resolved.log.attempts[attempt as usize];
    let writes = rows(&resolved.log.writes, &attempt.writes);
    let is_whole = is_known(resolved, version.revision);
    let existed = |key| {
        let before = resolved.versions.at(key, version.revision - 1);
        before.is_some_and(|before| resolved.versions.get(before).is_put)
    };
    let writes_fit = writes.iter().all(|write| {
        match resolved.versions.find(write.key, version.revision) {
            Some(found) => resolved.versions.get(found).value == write.value,
            // The change lacks a write only if it is not whole, or if the write is a deletion of an
            // absent key.
            None => !is_whole || (write.value == 0 && !existed(write.key)),
        }
    });
    let newest_read = rows(&resolved.log.reads, &attempt.reads).iter().map(|read| read.revision);
    writes_fit && newest_read.max().is_none_or(|newest| newest < version.revision)
}
