//! The report as text: 80 columns, and the same bytes for the same history.

use std::fmt;

use super::Report;
use super::lanes::lanes;
use super::orders::{missing_guards, serial_orders};
use super::participants::{ParticipantRecord, Write, WriteEffect, records};
use super::words::{edge, finding, quoted, refuted_by, short, title, wrap};
use crate::history::Attempt;
use crate::isolation::{Anomaly, Coverage, Level, Participant, Status, Step, Verdict, counted};

/// How many reads or writes of a transaction are listed.
const LISTED_MAX: usize = 8;

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(verdict) = self.verdict else { return write!(f, "{}", self.history) };
        f.write_str(&wrap("", 2, &self.headline()))?;
        f.write_str(&levels(verdict))?;
        f.write_str(&wrap("  ", 4, &coverage(verdict.coverage())))?;
        if !verdict.anomalies().is_empty() {
            f.write_str(
                "  in the lanes: r read, w wrote, d deleted, c committed without a write\n",
            )?;
        }
        for anomaly in verdict.anomalies() {
            let records = records(self.history, anomaly);
            writeln!(f)?;
            f.write_str(&wrap("", 2, &heading(anomaly, verdict)))?;
            f.write_str(&lanes(anomaly, &records))?;
            f.write_str(&edges(anomaly, &records))?;
            f.write_str(&serial_orders(anomaly, &records))?;
            f.write_str(&missing_guards(self.history, anomaly, &records))?;
            f.write_str(&details(&records))?;
        }
        Ok(())
    }
}

impl Report<'_> {
    /// The first line: what was checked, and what came out.
    pub(super) fn headline(&self) -> String {
        let level = match self.level {
            Some(level) => level.to_string(),
            None => "the level of each transaction".to_owned(),
        };
        let anomalies = self.verdict.map_or(&[][..], Verdict::anomalies);
        let titles = |anomalies: &mut dyn Iterator<Item = &Anomaly>| {
            anomalies.map(title).collect::<Vec<_>>().join("; ")
        };
        match self.status() {
            Status::Not | Status::AlsoNot => {
                let refutes = |anomaly: &&Anomaly| {
                    self.level.is_none_or(|level| {
                        refuted_by(anomaly).iter().any(|weaker| level.implies(*weaker))
                    })
                };
                let mut titles_shown = titles(&mut anomalies.iter().filter(refutes));
                if titles_shown.is_empty() {
                    titles_shown = titles(&mut anomalies.iter());
                }
                format!("VIOLATION of {level}: {titles_shown}")
            }
            Status::Holds if anomalies.is_empty() => format!("HOLDS: {level}, as far as checked"),
            Status::Holds => {
                format!("HOLDS: {level}, which permits {}", titles(&mut anomalies.iter()))
            }
            Status::Unknown => format!("UNKNOWN: whether {level} holds"),
        }
    }
}

/// The heading of an anomaly of a verdict, with the levels that it refutes.
///
/// A cycle may have an edge of one of several gaps in which a key was absent. It stands for the
/// cycles of the other gaps, which are of another kind, and then the weakest levels that are
/// refuted are named.
pub(super) fn heading(anomaly: &Anomaly, verdict: &Verdict) -> String {
    let forbidding = refuted_by(anomaly).iter().copied();
    let mut levels: Vec<Level> =
        forbidding.filter(|level| verdict.status(*level).is_refuted()).collect();
    if levels.is_empty() {
        let weakest = verdict.levels().filter(|(_, status)| *status == Status::Not);
        levels = weakest.map(|(level, _)| level).collect();
    }
    let levels: Vec<String> = levels.iter().map(Level::to_string).collect();
    format!("{} refutes {}", title(anomaly), levels.join(" and "))
}

/// The levels by status, one paragraph for each status.
fn levels(verdict: &Verdict) -> String {
    let mut text = String::new();
    for (name, status) in STATUSES {
        let levels = verdict.levels().filter(|(_, other)| *other == status);
        let levels: Vec<String> = levels.map(|(level, _)| level.to_string()).collect();
        if !levels.is_empty() {
            text.push_str(&wrap(&format!("  {name}: "), 4, &levels.join(", ")));
        }
    }
    text
}

/// The name of each status.
pub(super) const STATUSES: [(&str, Status); 4] = [
    ("not", Status::Not),
    ("also not", Status::AlsoNot),
    ("still holds", Status::Holds),
    ("unknown", Status::Unknown),
];

/// How much was checked, in one sentence.
pub(super) fn coverage(coverage: &Coverage) -> String {
    coverage.parts().join("; ")
}

/// The edges of a cycle, or the words of a finding.
fn edges(anomaly: &Anomaly, records: &[ParticipantRecord<'_>]) -> String {
    if anomaly.steps.is_empty() {
        return wrap("  Found: ", 4, &finding(anomaly));
    }
    let label = |step: &Step| format!("{} -> {}", step.from, step.to);
    let labels = anomaly.steps.iter().map(|step| label(step).len()).max().unwrap_or(0);
    let kinds = anomaly.steps.iter().map(|step| step.kind.to_string().len()).max().unwrap_or(0);
    let mut text =
        "  Edges of the cycle, each from the earlier to the later transaction:\n".to_owned();
    for step in &anomaly.steps {
        let (label, kind) = (label(step), step.kind.to_string());
        let first = format!("    {label:labels$}  {kind:kinds$}  ");
        text.push_str(&wrap(&first, 6, &edge(step, records)));
    }
    text
}

/// What each participant has read and written.
fn details(records: &[ParticipantRecord<'_>]) -> String {
    let names =
        records.iter().map(|record| record.participant.to_string().len()).max().unwrap_or(0);
    let mut text = "  Participants:\n".to_owned();
    for record in records {
        let name = record.participant.to_string();
        let first = format!("    {name:names$}  ");
        let indent = first.len();
        text.push_str(&wrap(&first, indent, &origin(record)));
        let indent_text = " ".repeat(indent);
        for line in [record.attempt.map_or_else(String::new, reads), writes(&record.writes)] {
            if !line.is_empty() {
                text.push_str(&wrap(&indent_text, indent + 2, &line));
            }
        }
    }
    text
}

/// Where and when a participant ran, and how it ended.
pub(super) fn origin(record: &ParticipantRecord<'_>) -> String {
    let Some(attempt) = record.attempt else {
        return match record.participant {
            Participant::Change(_) => "by a client that is not recorded".to_owned(),
            Participant::Transaction(_) => "not in the history".to_owned(),
        };
    };
    let process = match record.process {
        Some(process) => format!("process {}, ", short(process.as_bytes())),
        None => String::new(),
    };
    let number = match attempt.number {
        1 => String::new(),
        number => format!("attempt {number}, "),
    };
    let Attempt { isolation, began, end, .. } = attempt;
    format!("{process}{number}{isolation}, {began:?} to {:?}, {end}", record.ended)
}

/// The first items of a list, and how many others there are.
fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let others = items.len().saturating_sub(LISTED_MAX);
    let mut items: Vec<String> = items.take(LISTED_MAX).collect();
    if others > 0 {
        items.push(format!("and {others} more"));
    }
    items.join(", ")
}

pub(super) fn reads(attempt: &Attempt) -> String {
    let ranges = listed(attempt.ranges.iter().map(|read| {
        let found = counted(read.found.len(), "key");
        format!("{} with {found}", shortened_range(&read.range.to_string()))
    }));
    let keys = listed(attempt.reads.iter().map(|read| match &read.found {
        Some((revision, value)) => format!("{} @{revision} = {}", short(&read.key), quoted(value)),
        None => format!("no {}", short(&read.key)),
    }));
    match (ranges.is_empty(), keys.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!("reads {ranges}"),
        (true, false) => format!("reads {keys}"),
        (false, false) => format!("reads {ranges}: {keys}"),
    }
}

/// A range, whose text is ASCII, in short.
fn shortened_range(range: &str) -> String {
    if range.len() <= 40 { range.to_owned() } else { short(range.as_bytes()) }
}

pub(super) fn writes(writes: &[Write<'_>]) -> String {
    listed(writes.iter().map(|write| {
        let key = short(write.key);
        match write.effect {
            WriteEffect::Put(value) => format!("puts {key} = {}", quoted(value)),
            WriteEffect::Delete => format!("deletes {key}"),
            WriteEffect::Unknown => format!("changes {key}"),
        }
    }))
}
