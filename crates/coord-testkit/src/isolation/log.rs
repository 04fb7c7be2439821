//! The part of a history that the checker needs, in flat tables.
//!
//! Keys and processes are numbered, values are reduced to hashes: a transaction with two reads and
//! one write takes some 200 bytes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{KeyRange, Revision};
use coord_core::stm::Isolation;
use hashbrown::{DefaultHashBuilder, HashMap};
use std::hash::BuildHasher;

use crate::history::{Attempt, AttemptEnd, Event, EventKind, KeyWrite, StoreChange};

/// The number of a key, in the order of first use.
pub(super) type KeyId = u32;

/// No number: a process without a name, a version without a writer, a read without a version.
pub(super) const NONE: u32 = u32::MAX;

/// The revision of a read whose version was found, but is not known, as in formats without
/// revisions.
const UNKNOWN_REVISION: i64 = i64::MIN;

/// A part of a table.
pub(super) type Slice = Range<u32>;

/// The rows of `table` in `slice`.
pub(super) fn rows<'a, T>(table: &'a [T], slice: &Slice) -> &'a [T] {
    &table[slice.start as usize..slice.end as usize]
}

/// An attempt.
#[derive(Clone, Debug)]
pub(super) struct AttemptRow {
    pub(super) transaction: u64,
    pub(super) isolation: Isolation,
    pub(super) process: u32,
    /// Nanoseconds on the clock of the history.
    pub(super) began: u64,
    pub(super) ended: u64,
    /// The keys read, with the keys found in ranges.
    pub(super) reads: Slice,
    pub(super) ranges: Slice,
    pub(super) writes: Slice,
    pub(super) end: AttemptEnd,
    /// Whether a part has already checked that it has read one snapshot.
    pub(super) is_checked: bool,
}

impl AttemptRow {
    pub(super) const fn is_committed(&self) -> bool {
        matches!(self.end, AttemptEnd::Committed { .. })
    }

    /// Whether it has committed writes, and the history does not have their revision.
    pub(super) fn lacks_revision(&self) -> bool {
        let is_unknown = matches!(self.end, AttemptEnd::Committed { revision } if revision.0 <= 0);
        is_unknown && !self.writes.is_empty()
    }
}

/// A read of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadRow {
    pub(super) key: KeyId,
    /// The version read, as an index into all versions; `NONE` if there is none or if it is absent.
    pub(super) version: u32,
    /// The mod revision; 0 if the key was absent, negative if it is not known.
    pub(super) revision: i64,
    /// The hash of the value; 0 if it was not recorded.
    pub(super) value: u64,
}

impl ReadRow {
    pub(super) const fn is_absent(self) -> bool {
        self.revision == 0
    }

    /// Whether a version was read, and its revision is known.
    pub(super) const fn has_revision(self) -> bool {
        self.revision > 0
    }
}

/// A read of a range.
#[derive(Clone, Debug)]
pub(super) struct RangeRow {
    pub(super) range: KeyRange,
    /// The keys found, in the table of reads.
    pub(super) found: Slice,
}

/// A write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteRow {
    pub(super) key: KeyId,
    /// The version that it wrote, as an index into all versions; `NONE` if there is none.
    pub(super) version: u32,
    /// The hash of the value; 0 if the key was deleted.
    pub(super) value: u64,
}

/// A change of the store.
#[derive(Clone, Debug)]
pub(super) struct ChangeRow {
    pub(super) revision: i64,
    pub(super) writes: Slice,
}

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) keys: Vec<Bytes>,
    key_ids: HashMap<Bytes, KeyId>,
    process_ids: HashMap<Arc<str>, u32>,
    hasher: DefaultHashBuilder,
    pub(super) attempts: Vec<AttemptRow>,
    pub(super) reads: Vec<ReadRow>,
    pub(super) ranges: Vec<RangeRow>,
    pub(super) writes: Vec<WriteRow>,
    pub(super) changes: Vec<ChangeRow>,
}

impl Log {
    /// Adds an event. Events other than attempts and changes of the store are ignored.
    pub(super) fn push(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Attempt(attempt) => self.push_attempt(event, attempt),
            EventKind::Changed(change) => self.push_change(change),
            _ => {}
        }
    }

    fn push_attempt(&mut self, event: &Event, attempt: &Attempt) {
        let first_read = length(&self.reads);
        for read in &attempt.reads {
            let key = self.key(&read.key);
            let (revision, value) = match &read.found {
                Some((revision, value)) => (found_at(*revision), self.hash(value)),
                None => (0, 0),
            };
            self.reads.push(ReadRow { key, version: NONE, revision, value });
        }
        let first_range = length(&self.ranges);
        for range in &attempt.ranges {
            let first_found = length(&self.reads);
            for (key, revision) in &range.found {
                let key = self.key(key);
                let revision = found_at(*revision);
                self.reads.push(ReadRow { key, version: NONE, revision, value: 0 });
            }
            let found = first_found..length(&self.reads);
            self.ranges.push(RangeRow { range: range.range.clone(), found });
        }
        let writes = self.push_writes(&attempt.writes);
        let process = event.process.as_ref().map_or(NONE, |name| self.process(name));
        self.attempts.push(AttemptRow {
            transaction: attempt.transaction,
            isolation: attempt.isolation,
            process,
            began: nanoseconds(attempt.began),
            ended: nanoseconds(event.at),
            reads: first_read..length(&self.reads),
            ranges: first_range..length(&self.ranges),
            writes,
            end: attempt.end,
            is_checked: false,
        });
    }

    fn push_change(&mut self, change: &StoreChange) {
        let writes = self.push_writes(&change.writes);
        self.changes.push(ChangeRow { revision: change.revision.0, writes });
    }

    fn push_writes(&mut self, writes: &[KeyWrite]) -> Slice {
        let first = length(&self.writes);
        for write in writes {
            let key = self.key(&write.key);
            let value = write.value.as_ref().map_or(0, |value| self.hash(value));
            self.writes.push(WriteRow { key, version: NONE, value });
        }
        first..length(&self.writes)
    }

    /// Keeps the attempts for which `keep`, called with the number, returns true, and the changes
    /// after `boundary`.
    pub(super) fn retain(&mut self, boundary: i64, keep: impl Fn(usize) -> bool) {
        let (reads, ranges) = (std::mem::take(&mut self.reads), std::mem::take(&mut self.ranges));
        let writes = std::mem::take(&mut self.writes);
        let attempts = std::mem::take(&mut self.attempts);
        let changes = std::mem::take(&mut self.changes);
        let unlinked = |read: &ReadRow| ReadRow { version: NONE, ..*read };
        for (_, mut attempt) in attempts.into_iter().enumerate().filter(|(i, _)| keep(*i)) {
            let first_read = length(&self.reads);
            let shift = |slice: &Slice, from: u32| {
                let start = slice.start - from + first_read;
                start..start + (slice.end - slice.start)
            };
            let first_range = length(&self.ranges);
            for RangeRow { range, found } in rows(&ranges, &attempt.ranges) {
                let found = shift(found, attempt.reads.start);
                self.ranges.push(RangeRow { range: range.clone(), found });
            }
            self.reads.extend(rows(&reads, &attempt.reads).iter().map(unlinked));
            attempt.reads = first_read..length(&self.reads);
            attempt.ranges = first_range..length(&self.ranges);
            attempt.writes = self.keep_writes(rows(&writes, &attempt.writes));
            self.attempts.push(attempt);
        }
        for change in changes.into_iter().filter(|change| change.revision > boundary) {
            let writes = self.keep_writes(rows(&writes, &change.writes));
            self.changes.push(ChangeRow { writes, ..change });
        }
    }

    fn keep_writes(&mut self, writes: &[WriteRow]) -> Slice {
        let first = length(&self.writes);
        self.writes.extend(writes.iter().map(|write| WriteRow { version: NONE, ..*write }));
        first..length(&self.writes)
    }

    /// The number of a key that is known.
    pub(super) fn known_key(&self, key: &Bytes) -> Option<KeyId> {
        self.key_ids.get(key).copied()
    }

    /// The number of a key.
    fn key(&mut self, key: &Bytes) -> KeyId {
        if let Some(id) = self.key_ids.get(key) {
            return *id;
        }
        let id = length(&self.keys);
        self.keys.push(key.clone());
        self.key_ids.insert(key.clone(), id);
        id
    }

    fn process(&mut self, name: &Arc<str>) -> u32 {
        if let Some(id) = self.process_ids.get(name) {
            return *id;
        }
        let id = u32::try_from(self.process_ids.len()).unwrap_or(NONE);
        self.process_ids.insert(Arc::clone(name), id);
        id
    }

    /// The hash of a value, which is never 0.
    fn hash(&self, value: &Bytes) -> u64 {
        self.hasher.hash_one(&value[..]) | 1
    }
}

/// The revision of a version that was read.
const fn found_at(revision: Revision) -> i64 {
    if revision.0 > 0 { revision.0 } else { UNKNOWN_REVISION }
}

/// The length of a table, as the number of its next row.
///
/// # Panics
/// If a table has 2³² rows: a history of that size does not fit into memory.
pub(super) fn length<T>(table: &[T]) -> u32 {
    u32::try_from(table.len()).expect("a table has fewer than 2^32 rows")
}

/// Whole nanoseconds. The clock of a history ends after 584 years.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
