//! The first engine: validity intervals.
//!
//! Each transaction is placed in the order of revisions. A transaction that writes is placed at the
//! revision of its writes; everything it has read must be valid at the revision before. A read-only
//! transaction is placed at the lowest revision at which everything it has read is valid, and at
//! which everything is visible that was committed or observed by transactions that ended before it
//! began (the *floor*):
//!
//! ```text
//! revision      1        2        3        4
//! x             put               put T2
//! y             put      put T1
//! T3 reads      x@1, y@2: valid at revision 2 only; T2 ended before T3 began: the floor is 3
//! ```
//!
//! T3 has no place. If every transaction has one, the places are an order of the transactions that
//! agrees with all reads and with real time: the history is strictly serializable, and no graph is
//! needed. Otherwise every cycle of dependencies runs through a transaction without a place, and
//! stays inside a *window*: the revisions between what that transaction missed and what it saw,
//! merged with the windows that overlap.

use super::log::{NONE, rows};
use super::resolved::{Node, ReadSet, Resolved};
use super::versions::Gap;

/// The places of the nodes.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The revision at which each node is placed.
    pub(super) position: Vec<i64>,
    /// The nodes that have no place, with their windows.
    pub(super) failing: Vec<(u32, Window)>,
}

/// A window of revisions, with both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) first: i64,
    pub(super) last: i64,
}

impl Window {
    fn extend(&mut self, revision: i64) {
        self.first = self.first.min(revision);
        self.last = self.last.max(revision);
    }

    pub(super) const fn length(self) -> i64 {
        self.last.saturating_sub(self.first)
    }
}

/// Places the nodes.
pub(super) fn place(resolved: &Resolved) -> Places {
    let nodes = &resolved.nodes;
    let transactions = || (0..nodes.len() as u32).filter(|&i| nodes[i as usize].attempt != NONE);
    let mut by_begin: Vec<u32> = transactions().collect();
    by_begin.sort_by_key(|&i| nodes[i as usize].began);
    let mut by_end: Vec<u32> = transactions().collect();
    by_end.sort_by_key(|&i| nodes[i as usize].ended);
    let mut places =
        Places { position: nodes.iter().map(|node| node.commit).collect(), failing: Vec::new() };
    let mut ended = by_end.into_iter().peekable();
    // Everything that is forgotten is visible to what is not.
    let mut floor = resolved.base.boundary;
    for i in by_begin {
        let node = &nodes[i as usize];
        // What ended before has begun before, and is placed.
        while let Some(before) = ended.next_if(|&j| nodes[j as usize].ended < node.began) {
            floor = floor.max(places.position[before as usize]);
        }
        match place_node(resolved, node, floor) {
            Some(position) => places.position[i as usize] = position,
            None => {
                let (position, mut window) = window(resolved, i, floor);
                // Edges from forgotten transactions are on no cycle.
                window.first = window.first.max(resolved.base.boundary + 1);
                window.last = window.last.max(window.first);
                places.position[i as usize] = position;
                places.failing.push((i, window));
            }
        }
    }
    places
}

/// The place of a transaction, if it has one.
fn place_node(resolved: &Resolved, node: &Node, floor: i64) -> Option<i64> {
    if node.is_split {
        return None;
    }
    if node.writes() {
        let before = node.commit - 1;
        return (floor <= before && resolved.holds_at(&node.read_set, before))
            .then_some(node.commit);
    }
    lowest_snapshot(resolved, &node.read_set, floor)
}

/// The lowest revision, from `floor` on, at which everything in a read set is valid.
pub(super) fn lowest_snapshot(resolved: &Resolved, read_set: &ReadSet, floor: i64) -> Option<i64> {
    let (mut revision, mut last) = (floor, i64::MAX);
    let reads = rows(&resolved.log.reads, &read_set.reads);
    for read in reads.iter().filter(|read| read.version != NONE) {
        revision = revision.max(read.revision);
        last = last.min(resolved.versions.valid_until(read.version));
    }
    if revision > last {
        return None;
    }
    let mut absent = Vec::new();
    resolved.each_absent(read_set, |key, _| absent.push(key));
    // Each pass moves the revision to where the keys are absent, one after the other, until a pass
    // moves nothing.
    loop {
        let start = revision;
        for &key in &absent {
            revision = resolved.versions.next_absent(key, revision)?;
        }
        if revision > last {
            return None;
        }
        if revision == start {
            return Some(revision);
        }
    }
}

/// Where a transaction without a place is put nevertheless, and its window.
fn window(resolved: &Resolved, number: u32, floor: i64) -> (i64, Window) {
    let (versions, node) = (&resolved.versions, &resolved.nodes[number as usize]);
    let reads = rows(&resolved.log.reads, &node.read_set.reads);
    let found = reads.iter().filter(|read| read.version != NONE);
    let newest = found.clone().map(|read| read.revision).max().unwrap_or(0);
    let position = if node.writes() { node.commit } else { newest.max(floor) };
    let mut window = Window { first: position, last: position.max(floor).max(newest) };
    for next in found.filter_map(|read| versions.next(read.version)) {
        window.extend(versions.get(next).revision);
    }
    resolved.each_absent(&node.read_set, |key, _| {
        let gap = versions.gap_near(number, key, near(node, position));
        if let Some(Gap { start, end }) = gap {
            for version in [start, end].into_iter().flatten() {
                window.extend(versions.get(version).revision);
            }
        }
    });
    if node.is_split {
        let attempt = resolved.attempt(node).map(|attempt| attempt.writes.clone());
        for write in rows(&resolved.log.writes, &attempt.unwrap_or_default()) {
            for gap in versions.of(write.key).filter(|version| {
                version.value == write.value && version.is_put == (write.value != 0)
            }) {
                window.extend(gap.revision);
            }
        }
    }
    (position, window)
}

/// The revision at which a node that is placed at `position` reads.
pub(super) const fn near(node: &Node, position: i64) -> i64 {
    if node.writes() { position - 1 } else { position }
}

/// Merges the windows that overlap, in order.
pub(super) fn merge(failing: &[(u32, Window)]) -> Vec<Window> {
    let mut windows: Vec<Window> = failing.iter().map(|(_, window)| *window).collect();
    windows.sort_unstable_by_key(|window| window.first);
    let mut merged: Vec<Window> = Vec::new();
    for window in windows {
        match merged.last_mut() {
            Some(last) if window.first <= last.last => last.extend(window.last),
            _ => merged.push(window),
        }
    }
    merged
}

/// The attempts that did not commit, and that have seen no single snapshot.
pub(super) fn inconsistent_attempts(resolved: &Resolved) -> impl Iterator<Item = u32> + '_ {
    let attempts = resolved.log.attempts.iter().enumerate();
    attempts.filter(|(_, attempt)| !attempt.is_committed()).filter_map(|(number, attempt)| {
        let (reads, ranges) = (attempt.reads.clone(), attempt.ranges.clone());
        let read_set = ReadSet { reads, ranges, no_op_deletes: 0..0 };
        lowest_snapshot(resolved, &read_set, 0).is_none().then_some(number as u32)
    })
}
