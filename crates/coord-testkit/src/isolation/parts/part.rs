//! One part of a history: what is forgotten of it, and what that leaves in doubt.

use std::collections::BTreeMap;

use super::Doubt;
use crate::history::AttemptEnd;
use crate::isolation::anomaly::AnomalyKind;
use crate::isolation::base::Base;
use crate::isolation::coverage::Coverage;
use crate::isolation::log::{AttemptRow, Log, NONE, ReadRow, length, rows};
use crate::isolation::options::Values;
use crate::isolation::resolve::{first_revision, is_resolved, resolve};
use crate::isolation::resolved::{Finding, Node, ReadSet, Resolved};
use crate::isolation::snapshots::{Places, Window, lowest_snapshot, merge, near, place};
use crate::isolation::versions::Version;

/// A part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) resolved: Resolved,
    pub(super) places: Places,
    /// The windows of all transactions without a place, merged.
    pub(super) windows: Vec<Window>,
    /// The boundary after this part; `i64::MAX` if it is the last one.
    pub(super) boundary: i64,
    pub(super) is_forgotten: Vec<bool>,
    values: Values,
    /// The node of each attempt; `NONE` if there is none.
    nodes: Vec<u32>,
}

impl Part {
    /// Places the attempts, and chooses what to forget: all but a window of attempts, or everything
    /// if there is no window.
    pub(super) fn new(log: Log, base: Base, values: Values, window: Option<usize>) -> Self {
        let resolved = resolve(log, base, values);
        let places = place(&resolved);
        let windows = merge(&places.failing);
        let mut nodes = vec![NONE; resolved.log.attempts.len()];
        for (number, node) in (0..).zip(&resolved.nodes) {
            if node.attempt != NONE {
                nodes[node.attempt as usize] = number;
            }
        }
        let (boundary, is_forgotten) = match window {
            None => (i64::MAX, vec![true; nodes.len()]),
            Some(window) => {
                let ranks = ranks(&resolved, &places, &nodes);
                let uncut = uncut_windows(&resolved, &places, &ranks);
                let boundary = boundary(&resolved, &uncut, &ranks, window);
                let is_forgotten = |rank: &Option<i64>| rank.is_some_and(|rank| rank <= boundary);
                (boundary, ranks.iter().map(is_forgotten).collect())
            }
        };
        Self { resolved, places, windows, boundary, is_forgotten, values, nodes }
    }

    fn attempts(&self) -> impl Iterator<Item = (u32, &AttemptRow)> {
        (0..).zip(&self.resolved.log.attempts)
    }

    pub(super) fn forgotten_attempts(&self) -> impl Iterator<Item = (u32, &AttemptRow)> {
        self.attempts().filter(|(number, _)| self.is_forgotten[*number as usize])
    }

    pub(super) fn kept_attempts(&self) -> impl Iterator<Item = (u32, &AttemptRow)> {
        self.attempts().filter(|(number, _)| !self.is_forgotten[*number as usize])
    }

    /// The node of an attempt.
    pub(super) fn node(&self, attempt: u32) -> Option<&Node> {
        self.resolved.nodes.get(self.nodes[attempt as usize] as usize)
    }

    /// Whether a revision is forgotten now, and was not before.
    const fn is_in(&self, revision: i64) -> bool {
        self.resolved.base.boundary < revision && revision <= self.boundary
    }

    /// The versions that are forgotten, and that no committed attempt claims.
    fn unclaimed_versions(&self) -> impl Iterator<Item = &Version> {
        let resolved = &self.resolved;
        resolved.versions.all.iter().filter(|version| {
            let writer = resolved.nodes.get(version.writer as usize);
            let is_unclaimed =
                writer.is_none_or(|node| node.attempt == NONE || resolved.is_matched(node));
            is_unclaimed && self.is_in(version.revision)
        })
    }

    /// The versions after which a commit with unknown outcome may come too late.
    pub(super) fn claimable_versions(&self) -> Vec<Version> {
        self.unclaimed_versions().chain(&self.resolved.late_versions).copied().collect()
    }

    /// The version of each key at the boundary, without its writer.
    pub(super) fn current_versions(&self) -> Vec<Version> {
        let versions = &self.resolved.versions;
        let keys = 0..length(&self.resolved.log.keys);
        let current = keys.filter_map(|key| versions.at(key, self.boundary));
        current.map(|version| Version { writer: NONE, ..*versions.get(version) }).collect()
    }

    /// What cannot be decided because other parts of the history are not known.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        let resolved = &self.resolved;
        let mut doubts = Vec::new();
        for &(number, window) in &self.places.failing {
            let node = &resolved.nodes[number as usize];
            if self.is_forgotten[node.attempt as usize]
                && (self.is_cut(window) || self.reaches_below(number))
            {
                doubts.push(self.doubt_about(node));
            }
        }
        // If values are unique, the version may be one that no attempt should have written.
        let doubt = if self.values == Values::Unique { Doubt::All } else { Doubt::Reads };
        for (number, _) in self.forgotten_attempts() {
            let reads =
                self.node(number).map(|node| rows(&resolved.log.reads, &node.read_set.reads));
            let beyond = reads.unwrap_or_default().iter().filter(|read| self.is_beyond(read));
            doubts.extend(beyond.map(|_| doubt));
        }
        doubts.extend(resolved.findings.iter().filter_map(|finding| self.doubt_of(finding)));
        let is_pending = |(number, attempt): (u32, &AttemptRow)| {
            attempt.end == AttemptEnd::Unknown && self.node(number).is_none()
        };
        // A commit with unknown outcome may have put a version that is known only now.
        if self.values == Values::Unique || self.attempts().any(is_pending) {
            doubts.extend(resolved.late_versions.iter().map(|_| Doubt::All));
        }
        if self.values == Values::Unique {
            let puts = self.unclaimed_versions().filter(|version| {
                version.is_put && resolved.nodes[version.writer as usize].attempt == NONE
            });
            doubts.extend(puts.map(|_| Doubt::All));
        }
        let attempts =
            self.unchecked_attempts().filter_map(|(_, attempt)| self.snapshot(attempt).err());
        doubts.extend(attempts.flatten());
        doubts
    }

    /// Whether the boundary cuts the window that contains this one.
    fn is_cut(&self, window: Window) -> bool {
        let merged = self.windows.iter().find(|merged| merged.last >= window.last);
        merged.is_some_and(|merged| merged.last > self.boundary)
    }

    /// Whether a transaction without a place comes before something that is forgotten.
    fn reaches_below(&self, number: u32) -> bool {
        let resolved = &self.resolved;
        let node = &resolved.nodes[number as usize];
        let (before, position) = (resolved.base.boundary, self.places.position[number as usize]);
        let mut reaches = before > 0 && position <= before;
        resolved.each_absent(&node.read_set, |key, _| {
            let gap = resolved.versions.gap_near(number, key, near(node, position));
            let end = gap.and_then(|gap| gap.end).map(|end| resolved.versions.get(end).revision);
            reaches |= end.is_some_and(|end| end <= before);
        });
        reaches
    }

    /// What a missed cycle through a transaction can consist of. Without a read from the future and
    /// without split writes, `ww` and `wr` edges lead to later revisions.
    fn doubt_about(&self, node: &Node) -> Doubt {
        let newest = newest_read(rows(&self.resolved.log.reads, &node.read_set.reads));
        match node {
            _ if node.is_split => Doubt::All,
            _ if node.writes() && newest >= node.commit => Doubt::Reads,
            _ => Doubt::Cycles,
        }
    }

    /// Whether a read is of a version that was forgotten before.
    fn is_beyond(&self, read: &ReadRow) -> bool {
        let is_old = read.revision <= self.resolved.base.boundary;
        read.has_revision() && read.version == NONE && is_old
    }

    /// What is left in doubt if the boundary is between an attempt and the version that a finding
    /// about it concerns.
    fn doubt_of(&self, finding: &Finding) -> Option<Doubt> {
        match (self.is_forgotten[finding.attempt as usize], finding.revision <= self.boundary) {
            (true, false) => Some(Doubt::All),
            // A garbage read is found again when its attempt is forgotten.
            (false, true) if finding.kind != AnomalyKind::GarbageRead => Some(Doubt::Findings),
            _ => None,
        }
    }

    /// The findings that nothing to come can take back.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let is_final = |finding: &&Finding| {
            self.is_forgotten[finding.attempt as usize] && finding.revision <= self.boundary
        };
        self.resolved.findings.iter().filter(is_final).copied().collect()
    }

    /// The attempts that did not commit, whose snapshots were not checked yet and can be.
    fn unchecked_attempts(&self) -> impl Iterator<Item = (u32, &AttemptRow)> {
        self.attempts().filter(|(_, attempt)| {
            let newest = newest_read(rows(&self.resolved.log.reads, &attempt.reads));
            !attempt.is_committed() && !attempt.is_checked && newest <= self.boundary
        })
    }

    pub(super) fn checked_attempts(&self) -> Vec<u32> {
        self.unchecked_attempts().map(|(number, _)| number).collect()
    }

    /// The attempts that did not commit, and that have seen no single snapshot.
    pub(super) fn inconsistent_attempts(&self) -> Vec<u32> {
        let attempts = self.unchecked_attempts();
        let is_inconsistent = |attempt| self.snapshot(attempt) == Err(None);
        attempts.filter(|(_, attempt)| is_inconsistent(attempt)).map(|(number, _)| number).collect()
    }

    /// Whether an attempt has seen one snapshot. The error is a doubt; `None` if it has seen none,
    /// whatever comes.
    fn snapshot(&self, attempt: &AttemptRow) -> Result<(), Option<Doubt>> {
        let (log, versions) = (&self.resolved.log, &self.resolved.versions);
        let reads = rows(&log.reads, &attempt.reads);
        if reads.iter().any(|read| self.is_beyond(read)) {
            return Err(Some(Doubt::Cycles));
        }
        let (reads, ranges) = (attempt.reads.clone(), attempt.ranges.clone());
        let read_set = ReadSet { reads, ranges, no_op_deletes: 0..0 };
        if lowest_snapshot(&self.resolved, &read_set, self.resolved.base.boundary).is_some() {
            return Ok(());
        }
        let found = rows(&log.reads, &read_set.reads).iter().filter(|read| read.version != NONE);
        let first = found.clone().map(|read| read.revision).max();
        let last = found.map(|read| versions.valid_until(read.version)).min();
        Err((first <= last).then_some(Doubt::Cycles))
    }

    /// Whether a forgotten read of a version could be resolved.
    pub(super) fn has_found(&self) -> bool {
        let first = first_revision(&self.resolved);
        let log = &self.resolved.log;
        let attempts = self.forgotten_attempts();
        let mut reads = attempts.flat_map(|(_, attempt)| rows(&log.reads, &attempt.reads));
        reads.any(|read| !read.is_absent() && is_resolved(&self.resolved, read, first))
    }

    /// Adds what is forgotten to the coverage.
    pub(super) fn count(&self, coverage: &mut Coverage) {
        let resolved = &self.resolved;
        let first = first_revision(resolved);
        for (number, attempt) in self.forgotten_attempts() {
            let reads = rows(&resolved.log.reads, &attempt.reads);
            coverage.attempts += 1;
            coverage.without_revision += usize::from(attempt.lacks_revision());
            coverage.reads += reads.len();
            coverage.resolved_reads +=
                reads.iter().filter(|read| is_resolved(resolved, read, first)).count();
            let is_unknown = attempt.end == AttemptEnd::Unknown && !attempt.writes.is_empty();
            let is_transaction = self.node(number).is_some();
            coverage.transactions += usize::from(is_transaction);
            coverage.matched_unknown += usize::from(is_unknown && is_transaction);
            coverage.unmatched_unknown += usize::from(is_unknown && !is_transaction);
        }
        let others = resolved.nodes.iter().filter(|node| node.attempt == NONE);
        coverage.other_changes += others.filter(|node| self.is_in(node.commit)).count();
        let unplaced =
            self.places.failing.iter().filter(|(node, _)| {
                self.is_forgotten[resolved.nodes[*node as usize].attempt as usize]
            });
        coverage.unplaced += unplaced.count();
    }
}

/// The revision after which nothing concerns an attempt; none for a commit that may still be
/// matched.
fn ranks(resolved: &Resolved, places: &Places, nodes: &[u32]) -> Vec<Option<i64>> {
    let contested: BTreeMap<u32, i64> = resolved.contested.iter().copied().collect();
    let rank = |(number, attempt): (u32, &AttemptRow)| {
        let is_unknown = attempt.end == AttemptEnd::Unknown && !attempt.writes.is_empty();
        match nodes[number as usize] {
            NONE if is_unknown => contested.get(&number).copied(),
            NONE => Some(newest_read(rows(&resolved.log.reads, &attempt.reads))),
            node => Some(places.position[node as usize].max(claimed(attempt))),
        }
    };
    (0..).zip(&resolved.log.attempts).map(rank).collect()
}

/// The revision that an attempt claims: of a deletion without effect, another attempt may write it.
fn claimed(attempt: &AttemptRow) -> i64 {
    match attempt.end {
        AttemptEnd::Committed { revision } if !attempt.writes.is_empty() => revision.0,
        _ => 0,
    }
}

/// The windows that the boundary should not cut: those of transactions without a place, and those
/// between an attempt and the version that a finding about it concerns.
fn uncut_windows(resolved: &Resolved, places: &Places, ranks: &[Option<i64>]) -> Vec<Window> {
    let findings = resolved.findings.iter().filter_map(|finding| {
        let rank = ranks[finding.attempt as usize]?;
        let (first, last) = (rank.min(finding.revision), rank.max(finding.revision));
        Some((NONE, Window { first, last }))
    });
    merge(&places.failing.iter().copied().chain(findings).collect::<Vec<_>>())
}

/// The next boundary. A window of attempts stays after it, unless too many have one rank, and at
/// most three.
fn boundary(resolved: &Resolved, windows: &[Window], ranks: &[Option<i64>], window: usize) -> i64 {
    let before = resolved.base.boundary;
    let mut ranks: Vec<i64> = ranks.iter().copied().flatten().collect();
    ranks.sort_unstable();
    let Some(&rank) = ranks.get(ranks.len().saturating_sub(window)) else { return before };
    let is_small = |boundary: &i64| {
        let forgotten = ranks.partition_point(|rank| rank <= boundary);
        ranks.len() - forgotten <= window.saturating_mul(3)
    };
    let known = resolved.changes.as_ref().map_or(i64::MAX, |known| *known.end());
    let boundary = [known.min(rank - 1), rank - 1].into_iter().find(is_small).unwrap_or(rank);
    // A window that is cut cannot be checked completely.
    let is_cut = |window: &&Window| window.first <= boundary && boundary < window.last;
    let uncut = windows.iter().find(is_cut).map(|window| window.first - 1).filter(is_small);
    uncut.unwrap_or(boundary).max(before)
}

/// The newest revision that was read; 0 if there is none, or none is known.
fn newest_read(reads: &[ReadRow]) -> i64 {
    reads.iter().map(|read| read.revision).max().unwrap_or(0).max(0)
}
