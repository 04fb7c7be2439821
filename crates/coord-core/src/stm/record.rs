//! Makes the record of each attempt: collects what only the attempt knows while it runs, and sends
//! the record to the recorder of the client when the attempt is dropped.
//!
//! The end of the record is what is known so far, so that it is right whenever the future of the
//! transaction is dropped:
//!
//! ```text
//! the attempt starts                     failed: nothing was written
//! its closure returns an error           aborted
//! its commit is sent, with writes        unknown
//! its commit has ended                   committed, conflict, failed or unknown
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Isolation;
use super::idempotency_key::IdempotencyKey;
use super::transaction::{Transaction, Write};
use crate::kv::{KeyRange, OpResponse};
use crate::recording::{Attempt, AttemptEnd, AttemptRecorder, KeyRead, KeyWrite, RangeRead};

/// A transaction whose attempts are recorded.
#[derive(Debug)]
pub(super) struct RecordedTransaction {
    recorder: Arc<dyn AttemptRecorder>,
    number: u64,
    began: Duration,
    attempts: u32,
}

/// An attempt in progress that is recorded.
#[derive(Debug)]
pub(super) struct Recording {
    recorder: Arc<dyn AttemptRecorder>,
    attempt: Attempt,
    /// The keys whose deletion has changed nothing.
    no_ops: Vec<Bytes>,
}

impl RecordedTransaction {
    pub(super) fn begin(recorder: &Arc<dyn AttemptRecorder>) -> Self {
        let (number, began) = (recorder.transaction_number(), recorder.now());
        Self { recorder: Arc::clone(recorder), number, began, attempts: 0 }
    }

    /// Starts the next attempt, perhaps with keys that were read before.
    pub(super) fn start_attempt(&mut self, isolation: Isolation, is_fresh: bool) -> Box<Recording> {
        self.attempts += 1;
        let attempt = Attempt {
            transaction: self.number,
            number: self.attempts,
            isolation,
            began: if is_fresh { self.recorder.now() } else { self.began },
            reads: Vec::new(),
            ranges: Vec::new(),
            writes: Vec::new(),
            end: AttemptEnd::Failed,
        };
        let recorder = Arc::clone(&self.recorder);
        Box::new(Recording { recorder, attempt, no_ops: Vec::new() })
    }
}

impl Transaction {
    /// Notes a range that was read, with the keys as the closure sees them before its own writes
    /// are applied: a key that was read before keeps the mod revision of that read, whatever the
    /// range has returned.
    pub(super) fn note_range(&mut self, range: &KeyRange) {
        let Some(recording) = &mut self.recording else { return };
        let found = self.read_set.iter().filter(|(key, _)| range.contains(key));
        let found =
            found.filter_map(|(key, read)| Some((key.clone(), read.as_ref()?.mod_revision)));
        let read = RangeRead { range: range.clone(), found: found.collect() };
        if !recording.attempt.ranges.contains(&read) {
            recording.attempt.ranges.push(read);
        }
    }

    /// Discards the writes of an attempt whose closure has returned an error.
    pub(super) fn abort(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.attempt.end = AttemptEnd::Aborted;
            self.record_writes();
        }
        self.write_set.clear();
    }

    /// Notes that the commit is sent next. From then on its writes may be applied.
    pub(super) fn note_commit_sent(&mut self, key: Option<&IdempotencyKey>) {
        let Some(recording) = self.recording.as_mut().filter(|_| !self.write_set.is_empty()) else {
            return;
        };
        recording.attempt.end = AttemptEnd::Unknown;
        recording.attempt.writes.extend(key.map(IdempotencyKey::last_write));
    }

    /// Notes which writes of the commit have changed nothing. The first responses are the responses
    /// to the writes, in key order.
    pub(super) fn note_applied(&mut self, responses: &[OpResponse]) {
        let Some(recording) = self.recording.as_deref_mut() else { return };
        let is_no_op = |op: &OpResponse| matches!(op, OpResponse::Delete(r) if r.deleted == 0);
        let no_ops = self.write_set.keys().zip(responses).filter(|(_, op)| is_no_op(op));
        recording.no_ops = no_ops.map(|(key, _)| key.clone()).collect();
    }

    /// Notes how the commit ended.
    pub(super) fn note_end(&mut self, end: AttemptEnd) {
        let Some(Recording { attempt, .. }) = self.recording.as_deref_mut() else { return };
        // The reads of an aborted attempt were accepted.
        let is_aborted = attempt.end == AttemptEnd::Aborted;
        if !(is_aborted && matches!(end, AttemptEnd::Committed { .. })) {
            attempt.end = end;
        }
    }

    fn record_writes(&mut self) {
        let Some(Recording { attempt, no_ops, .. }) = self.recording.as_deref_mut() else { return };
        let writes = self.write_set.iter().filter(|(key, _)| !no_ops.contains(key));
        attempt.writes.extend(writes.map(|(key, write)| {
            let read = || self.read_set.get(key)?.as_ref().map(|read| read.value.clone());
            let value = match write {
                Write::Put(put) if put.ignore_value => Some(read().unwrap_or_default()),
                Write::Put(put) => Some(put.value.clone()),
                Write::Delete => None,
            };
            KeyWrite { key: key.clone(), value }
        }));
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.record_writes();
        let Some(recording) = self.recording.take() else { return };
        let Recording { recorder, mut attempt, .. } = *recording;
        attempt.reads.extend(std::mem::take(&mut self.read_set).into_iter().map(|(key, read)| {
            KeyRead { key, found: read.map(|read| (read.mod_revision, read.value)) }
        }));
        attempt.writes.sort_by(|a, b| a.key.cmp(&b.key));
        // An attempt that has failed before its first read shows nothing.
        let is_empty = attempt.reads.is_empty() && attempt.ranges.is_empty();
        if !(is_empty && attempt.end == AttemptEnd::Failed) {
            let ended = recorder.now();
            recorder.record(attempt, ended);
        }
    }
}
