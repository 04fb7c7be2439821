//! The participants of an anomaly, with what each has read and written.
//!
//! ```text
//! participant   attempt                 reads        writes      commit
//! T1            attempt 2, committed    x@1          put y       3
//! change 2      none                    none         put x       2
//! ```
//!
//! A verdict names transactions. Their reads and writes are looked up in the history: of several
//! attempts of a transaction, the committed attempt is meant, otherwise the last attempt that wrote
//! the key of the anomaly. If the anomaly is about an attempt without a commit, the committed
//! attempt is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::Revision;

use crate::history::{Attempt, AttemptEnd, EventKind, History, KeyWrite};
use crate::isolation::{Anomaly, AnomalyKind, Participant, Step};

/// What a write has done to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteEffect<'a> {
    Put(&'a Bytes),
    Delete,
    /// A change by another client that the history does not have.
    Unknown,
}

/// A write of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write<'a> {
    pub(super) key: &'a Bytes,
    pub(super) effect: WriteEffect<'a>,
}

impl<'a> From<&'a KeyWrite> for Write<'a> {
    fn from(write: &'a KeyWrite) -> Self {
        let effect = write.value.as_ref().map_or(WriteEffect::Delete, WriteEffect::Put);
        Self { key: &write.key, effect }
    }
}

/// A participant, with what it has read and written.
#[derive(Clone, Debug)]
pub(super) struct ParticipantRecord<'a> {
    pub(super) participant: Participant,
    pub(super) process: Option<&'a str>,
    /// `None` for a change by another client.
    pub(super) attempt: Option<&'a Attempt>,
    pub(super) ended: Duration,
    /// The revision of its writes, or the revision as of which it has read.
    pub(super) commit: Option<Revision>,
    pub(super) writes: Vec<Write<'a>>,
}

impl ParticipantRecord<'_> {
    /// What the participant has done to a key.
    pub(super) fn effect(&self, key: &Bytes) -> Option<WriteEffect<'_>> {
        self.writes.iter().find(|write| write.key == key).map(|write| write.effect)
    }

    /// The value that the participant has read from a key.
    pub(super) fn value_read(&self, key: &Bytes) -> Option<&Bytes> {
        let read = self.attempt?.reads.iter().find(|read| read.key == *key)?;
        read.found.as_ref().map(|(_, value)| value)
    }
}

/// The participants of an anomaly, in the order of their commits.
pub(super) fn records<'a>(
    history: &'a History,
    anomaly: &'a Anomaly,
) -> Vec<ParticipantRecord<'a>> {
    let mut attempts: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let mut changes: BTreeMap<Revision, Vec<Write<'a>>> = BTreeMap::new();
    for participant in &anomaly.participants {
        match *participant {
            Participant::Transaction(number) => drop(attempts.entry(number).or_default()),
            Participant::Change(revision) => drop(changes.entry(revision).or_default()),
        }
    }
    for (number, event) in history.0.iter().enumerate() {
        match &event.kind {
            EventKind::Attempt(attempt) => {
                attempts.entry(attempt.transaction).and_modify(|events| events.push(number));
            }
            EventKind::Changed(change) => {
                let writes = change.writes.iter().map(Write::from);
                changes.entry(change.revision).and_modify(|known| known.extend(writes));
            }
            _ => {}
        }
    }
    let mut records: Vec<ParticipantRecord<'a>> = Vec::new();
    for (position, participant) in anomaly.participants.iter().enumerate() {
        if records.iter().any(|record| record.participant == *participant) {
            continue;
        }
        records.push(match participant {
            Participant::Transaction(number) => {
                let events = attempts.get(number).map_or(&[][..], Vec::as_slice);
                transaction(history, anomaly, position, events)
            }
            Participant::Change(revision) => {
                let mut writes = changes.get(revision).cloned().unwrap_or_default();
                if writes.is_empty() {
                    writes = written_keys(anomaly, *participant);
                }
                ParticipantRecord {
                    participant: *participant,
                    process: None,
                    attempt: None,
                    ended: Duration::ZERO,
                    commit: Some(*revision),
                    writes,
                }
            }
        });
    }
    records.sort_by_key(|record| (record.commit.is_none(), record.commit, record.participant));
    records
}

/// The participant of a transaction, of whose attempts `events` are the numbers.
fn transaction<'a>(
    history: &'a History,
    anomaly: &'a Anomaly,
    position: usize,
    events: &[usize],
) -> ParticipantRecord<'a> {
    let participant = anomaly.participants[position];
    let attempt = |event: usize| match &history.0[event].kind {
        EventKind::Attempt(attempt) => Some(&**attempt),
        _ => None,
    };
    let is_committed = |event: &usize| {
        attempt(*event).is_some_and(|attempt| matches!(attempt.end, AttemptEnd::Committed { .. }))
    };
    let concerns_key = |event: &usize| {
        let Some(attempt) = attempt(*event) else { return false };
        let key = anomaly.key.as_ref();
        attempt.writes.iter().any(|write| Some(&write.key) == key)
    };
    let is_about_failure =
        matches!(anomaly.kind, AnomalyKind::AbortedWrite | AnomalyKind::InconsistentAttempt)
            || (anomaly.kind == AnomalyKind::G1a && position == 1);
    let event = if is_about_failure {
        let failed = || events.iter().rev().filter(|event| !is_committed(event));
        failed().find(|event| concerns_key(event)).or_else(|| failed().next())
    } else {
        let last = || events.iter().rev();
        last().find(|event| is_committed(event)).or_else(|| last().find(|e| concerns_key(e)))
    };
    let event = event.or(events.last()).copied();
    let attempt = event.and_then(attempt);
    let committed = attempt.and_then(|attempt| match attempt.end {
        AttemptEnd::Committed { revision } => Some(revision),
        _ => None,
    });
    let writes = attempt.map_or(&[][..], |attempt| &attempt.writes[..]);
    ParticipantRecord {
        participant,
        process: event.and_then(|event| history.0[event].process.as_deref()),
        attempt,
        ended: event.map_or(Duration::ZERO, |event| history.0[event].at),
        commit: committed.or_else(|| found_revision(anomaly, participant, position)),
        writes: writes.iter().map(Write::from).collect(),
    }
}

/// The revision that a transaction without a confirmed commit has written, as the anomaly shows it.
fn found_revision(
    anomaly: &Anomaly,
    participant: Participant,
    position: usize,
) -> Option<Revision> {
    let by_steps = anomaly.steps.iter().find_map(|step| written_revision(step, participant));
    let is_writer = match anomaly.kind {
        AnomalyKind::G1a | AnomalyKind::G1b => position == 1,
        AnomalyKind::AbortedWrite | AnomalyKind::SplitCommit => position == 0,
        _ => false,
    };
    by_steps.or_else(|| anomaly.revision.filter(|_| is_writer))
}

/// The revision that a participant has written according to a step.
fn written_revision(step: &Step, participant: Participant) -> Option<Revision> {
    use crate::isolation::EdgeKind::{PredicateWriteRead, WriteRead, WriteWrite};
    let is_writer_before = matches!(step.kind, WriteWrite | WriteRead | PredicateWriteRead);
    if step.to == participant && step.after.is_some() {
        step.after
    } else if step.from == participant && is_writer_before {
        step.before
    } else {
        None
    }
}

/// The keys that another client has changed according to the steps.
fn written_keys(anomaly: &Anomaly, participant: Participant) -> Vec<Write<'_>> {
    let steps = anomaly.steps.iter().filter(|step| written_revision(step, participant).is_some());
    let mut keys: Vec<&Bytes> = steps.filter_map(|step| step.key.as_ref()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().map(|key| Write { key, effect: WriteEffect::Unknown }).collect()
}
