//! The state of the store at each column: which keys have changed since the column before.
//!
//! ```text
//! history   revision 2: x = 0     revision 3: y = 0     revision 4: x = 1
//! columns   2                                           4
//! changes   x @2 = 0                                    y @3 = 0, x @4 = 1
//! ```
//!
//! The script of the page adds the changes up. They come from the recorded changes of the store,
//! from the commits, and from what was read. Of several values of one version, the first in the
//! history is shown.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coord_core::kv::Revision;

use super::super::participants::{ParticipantRecord, Write, WriteEffect};
use super::scene::{Column, Data, ShownVersion};
use super::{Limits, printable};
use crate::history::{AttemptEnd, EventKind, History};

/// The versions of each key, by revision.
#[derive(Clone, Debug, Default)]
pub(super) struct ShownVersions<'a>(BTreeMap<&'a Bytes, BTreeMap<i64, WriteEffect<'a>>>);

impl<'a> ShownVersions<'a> {
    pub(super) fn new(history: &'a History, records: &'a [ParticipantRecord<'a>]) -> Self {
        let mut versions = Self::default();
        for event in &history.0 {
            match &event.kind {
                EventKind::Changed(change) => {
                    for write in &change.writes {
                        versions.add(write.into(), change.revision);
                    }
                }
                EventKind::Attempt(attempt) => {
                    for read in &attempt.reads {
                        if let Some((revision, value)) = &read.found {
                            let effect = WriteEffect::Put(value);
                            versions.add(Write { key: &read.key, effect }, *revision);
                        }
                    }
                    if let AttemptEnd::Committed { revision } = attempt.end {
                        for write in &attempt.writes {
                            versions.add(write.into(), revision);
                        }
                    }
                }
                _ => {}
            }
        }
        for record in records {
            for write in record.writes.iter().filter(|_| record.attempt.is_none()) {
                versions.add(*write, record.commit.unwrap_or_default());
            }
        }
        versions
    }

    /// Adds a version, unless it is known.
    fn add(&mut self, write: Write<'a>, revision: Revision) {
        self.0.entry(write.key).or_default().entry(revision.0).or_insert(write.effect);
    }

    /// The revision that has ended the version of a key at a revision.
    pub(super) fn end_of(&self, key: &Bytes, revision: i64) -> Option<i64> {
        let versions = self.0.get(key)?;
        versions.range(revision + 1..).next().map(|(revision, _)| *revision)
    }

    /// The gap in which a key was absent that is nearest to a revision: its first revision, 0 if
    /// the key was never there before, and the revision that ended it.
    pub(super) fn gap(&self, key: &Bytes, near: i64) -> (i64, Option<i64>) {
        let Some(versions) = self.0.get(key) else { return (0, None) };
        let deleted =
            versions.range(..=near).rev().find(|(_, effect)| **effect == WriteEffect::Delete);
        let start = deleted.map_or(0, |(revision, _)| *revision);
        (start, self.end_of(key, start))
    }

    /// Adds the changes of each column, of as many keys as the limit permits: the keys `first`
    /// before all others.
    pub(super) fn fill(&self, data: &mut Data, first: &BTreeSet<&Bytes>, limits: &Limits) {
        let others = self.0.keys().filter(|key| !first.contains(*key));
        let known = first.iter().filter(|key| self.0.contains_key(*key));
        let keys: Vec<&Bytes> = known.chain(others).copied().take(limits.keys).collect();
        data.keys_left_out = self.0.len() - keys.len();
        data.keys = keys.iter().map(|key| printable(key, limits.text)).collect();
        let mut previous = i64::MIN;
        for column in &mut data.columns {
            if column.revision < previous {
                continue;
            }
            let changed = keys.iter().enumerate().filter_map(|(number, key)| {
                let versions = self.0.get(*key)?;
                let range = (
                    std::ops::Bound::Excluded(previous),
                    std::ops::Bound::Included(column.revision),
                );
                let (revision, effect) = versions.range(range).next_back()?;
                let value = match effect {
                    WriteEffect::Put(value) => Some(printable(value, limits.text)),
                    WriteEffect::Delete => None,
                    WriteEffect::Unknown => Some("(unknown)".to_owned()),
                };
                Some((number, *revision, value))
            });
            let changes: Vec<ShownVersion> = changed.collect();
            column.changes = changes;
            previous = column.revision;
        }
    }

    /// The revisions at which one of these keys changed.
    pub(super) fn revisions_of(&self, keys: &BTreeSet<&Bytes>) -> BTreeSet<i64> {
        let versions = keys.iter().filter_map(|key| self.0.get(*key));
        versions.flat_map(|versions| versions.keys().copied()).collect()
    }
}

/// The number of the last column at or before a revision; 0 if there is none.
pub(super) fn column_of(columns: &[Column], revision: i64) -> usize {
    let after = columns.partition_point(|column| column.revision <= revision);
    after.saturating_sub(1)
}
