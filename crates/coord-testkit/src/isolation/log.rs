//! The part of a history that the checker needs, in flat tables.
//!
//! Keys and processes are numbered, values are reduced to hashes: a transaction with two reads and
//! one write takes some 200 bytes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::KeyRange;
use coord_core::stm::Isolation;
use hashbrown::{DefaultHashBuilder, HashMap};
use std::hash::BuildHasher;

use crate::history::{Attempt, AttemptEnd, Event, EventKind, KeyWrite, StoreChange};

/// The number of a key, in the order of first use.
pub(super) type KeyId = u32;

/// No number: a process without a name, a version without a writer, a read without a version.
pub(super) const NONE: u32 = u32::MAX;

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
    /// The keys read, with those found in ranges.
    pub(super) reads: Slice,
    pub(super) ranges: Slice,
    pub(super) writes: Slice,
    pub(super) end: AttemptEnd,
}

impl AttemptRow {
    pub(super) const fn is_committed(&self) -> bool {
        matches!(self.end, AttemptEnd::Committed { .. })
    }
}

/// A read of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadRow {
    pub(super) key: KeyId,
    /// The version read, as an index into all versions; `NONE` if there is none or if it is absent.
    pub(super) version: u32,
    /// The mod revision; 0 if the key was absent.
    pub(super) revision: i64,
    /// The hash of the value; 0 if it was not recorded.
    pub(super) value: u64,
}

impl ReadRow {
    pub(super) const fn is_absent(self) -> bool {
        self.revision == 0
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
                Some((revision, value)) => (revision.0, self.hash(value)),
                None => (0, 0),
            };
            self.reads.push(ReadRow { key, version: NONE, revision, value });
        }
        let first_range = length(&self.ranges);
        for range in &attempt.ranges {
            let first_found = length(&self.reads);
            for (key, revision) in &range.found {
                let key = self.key(key);
                self.reads.push(ReadRow { key, version: NONE, revision: revision.0, value: 0 });
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

/// The length of a table, as the number of its next row.
///
/// # Panics
/// If a table has 2³² rows: a history of that size does not fit into memory.
pub(super) fn length<T>(table: &[T]) -> u32 {
    u32::try_from(table.len()).expect("a table has fewer than 2^32 rows")
}

/// Whole nanoseconds; the clock of a history ends after 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
