//! The lines of a file, and their conversion from and to events.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{KeyRange, Revision};
use coord_core::stm::IsolationError;
use serde::{Deserialize, Serialize};

use super::super::bytes::{decode, to_text};
use super::inferred::InferredLine;
use crate::history::{
    Attempt, AttemptEnd, Event, EventKind, KeyRead, KeyWrite, RangeRead, StoreChange,
};

/// A text that borrows from the line if it has no escape. An `Option` of a `Cow` never borrows.
#[derive(Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'a> From<Cow<'a, str>> for Text<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Self(text)
    }
}

/// One event. Exactly one of the fields after `process` is present.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    pub(super) at: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    attempt: Option<AttemptLine<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    change: Option<ChangeLine<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    note: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    fault: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    applied: Option<ResponseLine<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    received: Option<ResponseLine<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    watched: Option<WatchedLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored: Option<RestoredLine>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    inferred: Option<InferredLine<'a>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct AttemptLine<'a> {
    transaction: u64,
    number: u32,
    #[serde(borrow)]
    isolation: Cow<'a, str>,
    began: u64,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    reads: Vec<ReadLine<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeLine<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    writes: Vec<WriteLine<'a>>,
    #[serde(borrow)]
    end: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<i64>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ReadLine<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<i64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<Text<'a>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RangeLine<'a> {
    #[serde(borrow)]
    start: Cow<'a, str>,
    #[serde(borrow)]
    end: Cow<'a, str>,
    #[serde(borrow)]
    found: Vec<ReadLine<'a>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WriteLine<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<Text<'a>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ChangeLine<'a> {
    revision: i64,
    #[serde(borrow)]
    writes: Vec<WriteLine<'a>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ResponseLine<'a> {
    request: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<i64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    error: Option<Text<'a>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WatchedLine {
    revision: i64,
    events: usize,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RestoredLine {
    newest: i64,
    found: i64,
}

impl<'a> From<&'a Event> for Line<'a> {
    fn from(event: &'a Event) -> Self {
        let mut line = Self {
            at: nanos(event.at),
            process: event.process.as_deref().map(|name| Text(name.into())),
            ..Self::default()
        };
        match &event.kind {
            EventKind::Attempt(attempt) => line.attempt = Some(AttemptLine::from(&**attempt)),
            EventKind::Changed(change) => {
                let writes = change.writes.iter().map(WriteLine::from).collect();
                line.change = Some(ChangeLine { revision: change.revision.0, writes });
            }
            EventKind::Applied { request, result } => {
                let error = result.as_ref().err().map(|error| Text(error.into()));
                let revision = result.as_ref().ok().map(|revision| revision.0);
                line.applied = Some(ResponseLine { request: *request, revision, error });
            }
            EventKind::Received { request, error } => {
                let error = error.as_deref().map(|error| Text(error.into()));
                line.received = Some(ResponseLine { request: *request, revision: None, error });
            }
            EventKind::Watched { revision, events } => {
                line.watched = Some(WatchedLine { revision: revision.0, events: *events });
            }
            EventKind::Restored { newest, found } => {
                line.restored = Some(RestoredLine { newest: newest.0, found: found.0 });
            }
            EventKind::Inferred(inference) => line.inferred = Some(inference.into()),
            EventKind::Fault(text) => line.fault = Some(Text(text.into())),
            EventKind::Note(text) => line.note = Some(Text(text.into())),
            EventKind::Sent { .. } => line.note = Some(Text(event.kind.to_string().into())),
        }
        line
    }
}

impl Line<'_> {
    /// The event of the line, or what is wrong with it.
    pub(super) fn into_kind(self) -> Result<EventKind, String> {
        let Line { attempt, change, note, fault, applied, received, watched, .. } = self;
        let kinds = [
            attempt.map(|line| Ok(EventKind::Attempt(Box::new(line.into_attempt()?)))),
            change.map(|line| {
                let writes = line.writes.iter().map(WriteLine::to_write);
                let writes: Vec<_> = writes.collect::<Result<_, _>>()?;
                each_once("a change", writes.iter().map(|write| &write.key))?;
                Ok(EventKind::Changed(StoreChange { revision: Revision(line.revision), writes }))
            }),
            note.map(|text| Ok(EventKind::Note(text.0.into_owned()))),
            fault.map(|text| Ok(EventKind::Fault(text.0.into_owned()))),
            applied.map(|ResponseLine { request, revision, error }| {
                let result = match (revision, error) {
                    (Some(revision), None) => Ok(Revision(revision)),
                    (None, Some(error)) => Err(error.0.into_owned()),
                    _ => return Err("`applied` needs a revision or an error".to_owned()),
                };
                Ok(EventKind::Applied { request, result })
            }),
            received.map(|ResponseLine { request, error, .. }| {
                Ok(EventKind::Received { request, error: error.map(|error| error.0.into_owned()) })
            }),
            watched.map(|WatchedLine { revision, events }| {
                Ok(EventKind::Watched { revision: Revision(revision), events })
            }),
            self.inferred.map(|line| Ok(EventKind::Inferred(line.into_inference()?))),
            self.restored.map(|RestoredLine { newest, found }| {
                Ok(EventKind::Restored { newest: Revision(newest), found: Revision(found) })
            }),
        ];
        let mut kinds = kinds.into_iter().flatten();
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => kind,
            _ => Err("a line needs exactly one event".to_owned()),
        }
    }
}

impl<'a> From<&'a Attempt> for AttemptLine<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        let (end, revision) = match attempt.end {
            AttemptEnd::Committed { revision } => ("committed", Some(revision.0)),
            AttemptEnd::Conflict => ("conflict", None),
            AttemptEnd::Aborted => ("aborted", None),
            AttemptEnd::Failed => ("failed", None),
            AttemptEnd::Unknown => ("unknown", None),
        };
        let read = |read: &'a KeyRead| ReadLine {
            key: to_text(&read.key),
            revision: read.found.as_ref().map(|(revision, _)| revision.0),
            value: read.found.as_ref().map(|(_, value)| to_text(value).into()),
        };
        let found = |(key, revision): &'a (Bytes, Revision)| ReadLine {
            key: to_text(key),
            revision: Some(revision.0),
            value: None,
        };
        let range = |RangeRead { range, found: keys }: &'a RangeRead| RangeLine {
            start: to_text(range.start()),
            end: to_text(range.range_end()),
            found: keys.iter().map(found).collect(),
        };
        Self {
            transaction: attempt.transaction,
            number: attempt.number,
            isolation: attempt.isolation.name().into(),
            began: nanos(attempt.began),
            reads: attempt.reads.iter().map(read).collect(),
            ranges: attempt.ranges.iter().map(range).collect(),
            writes: attempt.writes.iter().map(WriteLine::from).collect(),
            end: end.into(),
            revision,
        }
    }
}

impl AttemptLine<'_> {
    fn into_attempt(self) -> Result<Attempt, String> {
        let end = match (&*self.end, self.revision) {
            ("committed", Some(revision)) => AttemptEnd::Committed { revision: Revision(revision) },
            ("conflict", None) => AttemptEnd::Conflict,
            ("aborted", None) => AttemptEnd::Aborted,
            ("failed", None) => AttemptEnd::Failed,
            ("unknown", None) => AttemptEnd::Unknown,
            (end, _) => {
                let expected = "committed with a revision, or conflict, aborted, failed or unknown \
                                without one";
                return Err(format!("invalid end {end:?}: must be {expected}"));
            }
        };
        let found = |line: &ReadLine<'_>| match line.revision {
            Some(revision) => Ok((decode(&line.key)?, Revision(revision))),
            None => Err(format!("the key {:?} of a range needs a revision", line.key)),
        };
        let range = |line: &RangeLine<'_>| {
            let range = KeyRange::from_wire(decode(&line.start)?, decode(&line.end)?);
            let found = line.found.iter().map(found).collect::<Result<_, String>>()?;
            Ok(RangeRead { range, found })
        };
        let reads: Vec<_> = self.reads.iter().map(ReadLine::to_read).collect::<Result<_, _>>()?;
        each_once("reads", reads.iter().map(|read| &read.key))?;
        let ranges: Vec<_> = self.ranges.iter().map(range).collect::<Result<_, String>>()?;
        for RangeRead { found, .. } in &ranges {
            each_once("a range", found.iter().map(|(key, _)| key))?;
        }
        let writes = self.writes.iter().map(WriteLine::to_write);
        let writes: Vec<_> = writes.collect::<Result<_, _>>()?;
        each_once("writes", writes.iter().map(|write| &write.key))?;
        Ok(Attempt {
            transaction: self.transaction,
            number: self.number,
            isolation: self.isolation.parse().map_err(|error: IsolationError| error.to_string())?,
            began: Duration::from_nanos(self.began),
            reads,
            ranges,
            writes,
            end,
        })
    }
}

impl ReadLine<'_> {
    fn to_read(&self) -> Result<KeyRead, String> {
        let found = match (self.revision, &self.value) {
            (Some(revision), Some(value)) => Some((Revision(revision), decode(&value.0)?)),
            (None, None) => None,
            _ => return Err(format!("the read of {:?} needs a revision and a value", self.key)),
        };
        Ok(KeyRead { key: decode(&self.key)?, found })
    }
}

impl<'a> From<&'a KeyWrite> for WriteLine<'a> {
    fn from(write: &'a KeyWrite) -> Self {
        Self {
            key: to_text(&write.key),
            value: write.value.as_deref().map(|value| to_text(value).into()),
        }
    }
}

impl WriteLine<'_> {
    fn to_write(&self) -> Result<KeyWrite, String> {
        let value = self.value.as_ref().map(|value| decode(&value.0)).transpose()?;
        Ok(KeyWrite { key: decode(&self.key)?, value })
    }
}

/// Checks that `part` names each key once. A recorder writes keys in order, so a sorted list needs
/// no set.
fn each_once<'a>(part: &str, keys: impl Iterator<Item = &'a Bytes> + Clone) -> Result<(), String> {
    if keys.clone().is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let mut known = BTreeSet::new();
    match keys.into_iter().find(|key| !known.insert(*key)) {
        Some(key) => Err(format!("{part} must name each key once: {:?} twice", to_text(key))),
        None => Ok(()),
    }
}

/// A time in nanoseconds. The type holds up to 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
