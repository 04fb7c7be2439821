//! The version order: the versions of each key, in the order of their revisions.
//!
//! A version is valid from its revision until the revision before the next one. A key is absent in
//! *gaps*: before its first version, and after each deletion:
//!
//! ```text
//! revision    1       2       3       4       5
//! key x       absent  put     put     deleted put
//! gaps        [0, 1]                  [4, 4]
//! versions            [2, 2]  [3, 3]          [5, ∞)
//! ```
//!
//! A read that found a key names its version. A read that found none does not name its gap, so it
//! is satisfied by every gap: in the example by revision 1 and by revision 4.

use std::ops::Range;

use super::log::{KeyId, NONE, length};

/// A version of a key: a value, or a deletion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) revision: i64,
    /// The hash of the value; 0 if the key was deleted, or if the value is not known.
    pub(super) value: u64,
    pub(super) key: KeyId,
    /// The transaction that wrote it: an index of nodes.
    pub(super) writer: u32,
    pub(super) is_put: bool,
    /// How the version is known.
    pub(super) origin: Origin,
}

/// How a version is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// From a change of the store.
    Change,
    /// From a write of an attempt, in a history without the change.
    Attempt,
    /// From a read of a version that no recorded attempt has written.
    Read,
}

/// A gap of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The deletion that starts it; `None` before the first version.
    pub(super) start: Option<u32>,
    /// The put that ends it; `None` if there is none.
    pub(super) end: Option<u32>,
}

/// The versions of all keys, by key and revision.
#[derive(Debug, Default)]
pub(super) struct Versions {
    pub(super) all: Vec<Version>,
    /// Where the versions of each key start in `all`, and the length of `all`.
    offsets: Vec<u32>,
    /// The last revision before the changes of the store are known; 0 if it does not matter.
    pub(super) before_changes: i64,
}

impl Versions {
    /// Sorts versions of `keys` keys by key and revision. Of two versions of a key with the same
    /// revision the better known is kept, and a put rather than a deletion.
    pub(super) fn new(versions: Vec<Version>, keys: usize) -> Self {
        let mut offsets = vec![0_u32; keys + 1];
        for version in &versions {
            offsets[version.key as usize + 1] += 1;
        }
        for key in 0..keys {
            offsets[key + 1] += offsets[key];
        }
        let mut next = offsets.clone();
        let unsorted = versions;
        let mut all = unsorted.clone();
        for version in unsorted {
            let slot = &mut next[version.key as usize];
            all[*slot as usize] = version;
            *slot += 1;
        }
        for key in 0..keys {
            let versions = &mut all[offsets[key] as usize..offsets[key + 1] as usize];
            versions.sort_by_key(|version| (version.revision, version.origin, !version.is_put));
        }
        let mut sorted = Self { all, offsets, before_changes: 0 };
        sorted.retain(|previous, version| {
            previous.is_none_or(|previous| previous.revision != version.revision)
        });
        sorted
    }

    /// Removes the versions for which `keep`, called with the previous kept version of the key and
    /// the version, returns false.
    pub(super) fn retain(&mut self, keep: impl Fn(Option<&Version>, &Version) -> bool) {
        let mut kept = 0;
        for key in 0..self.offsets.len().saturating_sub(1) {
            let first = kept;
            for i in self.range(key as KeyId) {
                let version = self.all[i];
                let previous = (kept > first).then(|| &self.all[kept - 1]);
                if keep(previous, &version) {
                    self.all[kept] = version;
                    kept += 1;
                }
            }
            self.offsets[key] = first as u32;
        }
        self.all.truncate(kept);
        if let Some(last) = self.offsets.last_mut() {
            *last = length(&self.all);
        }
    }

    fn range(&self, key: KeyId) -> Range<usize> {
        self.offsets[key as usize] as usize..self.offsets[key as usize + 1] as usize
    }

    /// The versions of `key`.
    pub(super) fn of(&self, key: KeyId) -> impl Iterator<Item = &Version> {
        self.all[self.range(key)].iter()
    }

    /// The index of the last version of `key` at or before `revision`.
    pub(super) fn at(&self, key: KeyId, revision: i64) -> Option<u32> {
        let range = self.range(key);
        let start = range.start;
        let count = self.all[range].partition_point(|version| version.revision <= revision);
        (count > 0).then(|| (start + count - 1) as u32)
    }

    /// The index of the version of `key` with exactly this revision, searched for from `cursor` on,
    /// which is moved there: histories use versions roughly in their order.
    pub(super) fn find_near(&self, key: KeyId, revision: i64, cursor: &mut u32) -> Option<u32> {
        let range = self.range(key);
        let versions = &self.all[range.clone()];
        let is_before = |i: usize| versions[i].revision < revision;
        let mut low = (*cursor as usize).min(versions.len());
        let mut step = 1;
        while low > 0 && !is_before(low - 1) {
            low = low.saturating_sub(step);
            step *= 2;
        }
        let (mut high, mut step) = (low, 1);
        while high < versions.len() && is_before(high) {
            (low, high) = (high + 1, (high + step).min(versions.len()));
            step *= 2;
        }
        let within = low.min(high)..high;
        let found =
            within.start + versions[within].partition_point(|version| version.revision < revision);
        *cursor = found as u32;
        let is_found = versions.get(found).is_some_and(|version| version.revision == revision);
        is_found.then_some((range.start + found) as u32)
    }

    /// The index of the version of `key` with exactly this revision.
    pub(super) fn find(&self, key: KeyId, revision: i64) -> Option<u32> {
        self.at(key, revision).filter(|&i| self.all[i as usize].revision == revision)
    }

    /// The version with an index.
    pub(super) fn get(&self, version: u32) -> &Version {
        &self.all[version as usize]
    }

    /// The index of the next version of the same key.
    pub(super) fn next(&self, version: u32) -> Option<u32> {
        let next = self.all.get(version as usize + 1)?;
        (next.key == self.get(version).key).then_some(version + 1)
    }

    /// The last revision at which a version is valid.
    pub(super) fn valid_until(&self, version: u32) -> i64 {
        self.next(version).map_or(i64::MAX, |next| self.get(next).revision - 1)
    }

    /// The index of the first version of `key`.
    pub(super) fn first(&self, key: KeyId) -> Option<u32> {
        let range = self.range(key);
        (!range.is_empty()).then_some(range.start as u32)
    }

    /// Whether `key` is absent at `revision`.
    pub(super) fn is_absent(&self, key: KeyId, revision: i64) -> bool {
        self.next_absent(key, revision) == Some(revision)
    }

    /// The first revision from `revision` on at which `key` is absent.
    pub(super) fn next_absent(&self, key: KeyId, revision: i64) -> Option<i64> {
        let mut version = match self.at(key, revision) {
            Some(version) if !self.get(version).is_put => return Some(revision),
            Some(version) => self.next(version),
            None => match self.first(key) {
                // The key existed when the changes became known, and may have been created after
                // an older read.
                Some(first) if !self.get(first).is_put && revision >= self.before_changes => {
                    Some(first)
                }
                _ => return Some(revision),
            },
        };
        while let Some(next) = version {
            if !self.get(next).is_put {
                return Some(self.get(next).revision);
            }
            version = self.next(next);
        }
        None
    }

    /// The gaps of `key`, in order.
    pub(super) fn gaps(&self, key: KeyId) -> impl Iterator<Item = Gap> + '_ {
        let first = self.first(key);
        let initial = match first {
            Some(first) if !self.get(first).is_put => {
                (self.before_changes > 0).then_some(Gap { start: None, end: None })
            }
            first => Some(Gap { start: None, end: first }),
        };
        let deleted = self.range(key).filter(|&i| !self.all[i].is_put);
        initial.into_iter().chain(deleted.map(|i| {
            let start = i as u32;
            Gap { start: Some(start), end: self.put_after(start) }
        }))
    }

    /// The gaps of `key` in which transaction `reader` can have read that the key is absent: all
    /// but those that its own deletion starts.
    pub(super) fn gaps_for(&self, reader: u32, key: KeyId) -> impl Iterator<Item = Gap> + '_ {
        let is_own = move |version: u32| self.get(version).writer == reader;
        self.gaps(key).filter(move |gap| !gap.start.is_some_and(is_own))
    }

    /// The next put of the same key.
    fn put_after(&self, version: u32) -> Option<u32> {
        let mut next = self.next(version)?;
        while !self.get(next).is_put {
            next = self.next(next)?;
        }
        Some(next)
    }

    /// The gap in which `reader` read that `key` is absent, if it reads at `position`: the gap at
    /// that revision if there is one, else the last one before, else the first one after. A read
    /// after the changes became known cannot be in a gap that ended before them.
    pub(super) fn gap_near(&self, reader: u32, key: KeyId, position: i64) -> Option<Gap> {
        let mut version = self.at(key, position);
        while let Some(i) = version {
            let found = self.get(i);
            if !found.is_put && found.writer != reader {
                return Some(Gap { start: Some(i), end: self.put_after(i) });
            }
            version = (self.first(key) != Some(i)).then(|| i - 1);
        }
        let mut gaps = self.gaps_for(reader, key);
        let first = gaps.next()?;
        let has_ended =
            first.start.is_none() && first.end.is_none() && position >= self.before_changes;
        has_ended.then(|| gaps.next()).flatten().or(Some(first))
    }

    /// The writer of a version.
    pub(super) fn writer(&self, version: u32) -> Option<u32> {
        Some(self.get(version).writer).filter(|&writer| writer != NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions of key 0: `+` is a put, `-` a deletion; the revisions count from 1.
    fn versions(text: &str) -> Versions {
        let version = |(i, kind)| Version {
            revision: i as i64 + 1,
            value: 0,
            key: 0,
            writer: NONE,
            is_put: kind == '+',
            origin: Origin::Attempt,
        };
        let all = text.chars().enumerate().filter(|(_, kind)| *kind != ' ').map(version);
        Versions::new(all.collect(), 1)
    }

    #[test]
    fn absent_key_has_one_gap_per_deletion() {
        let versions = versions(" ++-+");
        let absent: Vec<_> = (0..7).filter(|&revision| versions.is_absent(0, revision)).collect();
        assert_eq!(absent, [0, 1, 4]);
        assert_eq!(versions.next_absent(0, 2), Some(4));
        assert_eq!(versions.next_absent(0, 5), None);
        let gaps: Vec<_> = versions.gaps(0).map(|gap| (gap.start, gap.end)).collect();
        assert_eq!(gaps, [(None, Some(0)), (Some(2), Some(3))]);
    }

    #[test]
    fn gap_near_position_prefers_the_last_started_gap() {
        let versions = versions("+-+-+");
        let start = |position| versions.gap_near(7, 0, position).and_then(|gap| gap.start);
        assert_eq!(
            [start(0), start(1), start(2), start(3), start(9)],
            [None, None, Some(1), Some(1), Some(3)]
        );
    }

    /// Regression: a wrong read of a key that existed when the changes became known was explained
    /// by the time before them, so the report showed no edge to its deletion.
    #[test]
    fn gap_before_the_changes_explains_older_reads_only() {
        let mut versions = versions("   -+");
        versions.before_changes = 2;
        let start = |position| versions.gap_near(7, 0, position).and_then(|gap| gap.start);
        assert_eq!([start(1), start(2), start(4), start(9)], [None, Some(0), Some(0), Some(0)]);
    }

    #[test]
    fn version_is_valid_until_the_next_one() {
        let versions = versions("+ +");
        let first = versions.find(0, 1).expect("the version exists");
        assert_eq!(versions.valid_until(first), 2);
        assert_eq!(versions.find(0, 2), None);
        assert_eq!(versions.at(0, 2), Some(first));
    }

    #[test]
    fn search_from_any_cursor_finds_the_same_version() {
        let versions = versions("++ -+ +++  -+");
        for (start, revision) in (0..12).flat_map(|start| (0..15).map(move |at| (start, at))) {
            let mut cursor = start;
            let found = versions.find_near(0, revision, &mut cursor);
            assert_eq!(found, versions.find(0, revision), "{revision} from {start}");
        }
    }
}
