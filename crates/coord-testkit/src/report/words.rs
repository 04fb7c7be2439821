//! The words of a report: keys and values in short, edges, findings, levels and guards.

use coord_core::stm::Isolation;

use super::participants::{ParticipantRecord, WriteEffect};
use crate::isolation::{Anomaly, AnomalyKind, EdgeKind, Level, Order, Participant, Step};

/// How many columns a key or a value has at most.
const COLUMNS_MAX: usize = 24;

/// Some bytes, escaped. Of a long text the middle is left out, because keys often differ only at
/// their ends.
pub(super) fn short(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() <= COLUMNS_MAX {
        return text;
    }
    let half = COLUMNS_MAX / 2 - 1;
    // The escaped text is ASCII, so each byte is a character.
    format!("{}..{}", &text[..half], &text[text.len() - half..])
}

/// A value in quotes.
pub(super) fn quoted(value: &[u8]) -> String {
    format!("\"{}\"", short(value))
}

/// The name of an anomaly with that of its kind.
pub(super) fn title(anomaly: &Anomaly) -> String {
    match anomaly.name {
        Some(name) => format!("{name} ({})", anomaly.elle_name()),
        None => anomaly.elle_name(),
    }
}

/// The weakest levels that forbid an anomaly.
pub(super) fn refuted_by(anomaly: &Anomaly) -> &'static [Level] {
    use AnomalyKind as Kind;
    if anomaly.order != Order::None {
        return &[Level::StrictSerializable];
    }
    match anomaly.kind {
        Kind::G0 => &[Level::ReadUncommitted],
        Kind::G1c => &[Level::ReadCommitted],
        Kind::GSingleItem | Kind::GNonadjacentItem => {
            &[Level::RepeatableRead, Level::SnapshotIsolation]
        }
        Kind::GSingle | Kind::GNonadjacent => &[Level::SnapshotIsolation],
        Kind::G2Item => &[Level::RepeatableRead],
        Kind::G2 => &[Level::Serializable],
        _ => anomaly.refutes(),
    }
}

/// The words of an edge: what both participants have done.
pub(super) fn edge(step: &Step, records: &[ParticipantRecord<'_>]) -> String {
    let Step { from, to, .. } = step;
    let record = |participant| records.iter().find(|record| record.participant == participant);
    let Some(key) = &step.key else {
        return order(step, record(*from), record(*to));
    };
    let effect = |participant| record(participant).and_then(|record| record.effect(key));
    let short_key = short(key);
    let read = match step.before {
        Some(revision) => format!("{from} read {short_key} @{revision}"),
        None => format!("{from} found no {short_key}"),
    };
    let before = step.before.map_or_else(String::new, |revision| format!(" @{revision}"));
    let after = step.after.map_or_else(String::new, |revision| format!(" @{revision}"));
    let first_wrote = match effect(*from) {
        Some(WriteEffect::Delete) => format!("{from} deleted {short_key}{before}"),
        _ => format!("{from} wrote {short_key}{before}"),
    };
    let then_wrote = match (effect(*to), step.before) {
        (Some(WriteEffect::Delete), _) => format!("{to} deleted it{after}"),
        (_, Some(_)) => format!("{to} overwrote it{after}"),
        // Without revisions, only an order of versions is known.
        (_, None) if step.kind == EdgeKind::WriteWrite => format!("{to} overwrote it"),
        (_, None) => format!("{to} created it{after}"),
    };
    match step.kind {
        EdgeKind::WriteWrite => format!("{first_wrote}, {then_wrote}"),
        EdgeKind::WriteRead if effect(*from) == Some(WriteEffect::Delete) => {
            format!("{first_wrote}, {to} found no such key")
        }
        EdgeKind::WriteRead => format!("{first_wrote}, {to} read it"),
        EdgeKind::PredicateWriteRead => format!("{first_wrote}, {to} did not find it in a range"),
        EdgeKind::PredicateReadWrite => {
            format!("{from} found no {short_key} in a range, {to} created it{after}")
        }
        _ => format!("{read}, {then_wrote}"),
    }
}

/// The words of an order in time.
fn order(
    step: &Step,
    from: Option<&ParticipantRecord<'_>>,
    to: Option<&ParticipantRecord<'_>>,
) -> String {
    let ended = from.map(|record| record.ended);
    let began = to.and_then(|record| record.attempt).map(|attempt| attempt.began);
    let times = match (ended, began) {
        (Some(ended), Some(began)) => format!(": {ended:?}, {began:?}"),
        _ => String::new(),
    };
    let process = match (step.kind, from.and_then(|record| record.process)) {
        (EdgeKind::Session, Some(process)) => format!(" in {}", short(process.as_bytes())),
        _ => String::new(),
    };
    format!("{} ended before {} began{process}{times}", step.from, step.to)
}

/// The words of an anomaly that is no cycle.
pub(super) fn finding(anomaly: &Anomaly) -> String {
    let first = anomaly.participants.first().map_or_else(String::new, Participant::to_string);
    let second = anomaly.participants.get(1).map(Participant::to_string);
    let key = anomaly.key.as_ref().map_or_else(String::new, |key| short(key));
    let at = anomaly.revision.map_or_else(String::new, |revision| format!("@{revision}"));
    let by = |before: &str| second.as_ref().map_or_else(String::new, |by| format!("{before}{by}"));
    let words = match anomaly.kind {
        AnomalyKind::LostWrite => {
            format!("{first} has committed a write of {key}{at}, and the store does not have it")
        }
        AnomalyKind::DoubledWrite if second.is_none() || second.as_deref() == Some(&*first) => {
            format!("{first} was applied more than once: also as {key}{at}")
        }
        AnomalyKind::DoubledWrite => {
            format!("{first} reports revision {}, which belongs to another", at.trim_matches('@'))
                + &by(" transaction: ")
        }
        AnomalyKind::GarbageRead => {
            format!("{first} has read {key}{at} with a value that the store never had")
                + &by(": another value was written by ")
        }
        AnomalyKind::G1a => format!(
            "{first} has read {key}{at}, written by an attempt that did not commit{}",
            by(", of ")
        ),
        AnomalyKind::G1b => format!(
            "{first} has read {key}{at}, and its writer has written the key again{}",
            by(": ")
        ),
        AnomalyKind::AbortedWrite => {
            format!("the store has {key}{at}, written by an attempt of {first} without a commit")
        }
        AnomalyKind::SplitCommit => {
            format!("the writes of {first} are in several revisions, one of them {key}{at}")
        }
        AnomalyKind::IncompatibleOrder => {
            format!("{first} has read a list of {key} that does not continue, or begin, the list")
                + &by(" of ")
        }
        AnomalyKind::DuplicateElements => {
            format!("{first} has read a list of {key} with an element twice")
        }
        AnomalyKind::Internal => format!(
            "{first} has read {key} with a value that differs from what it had read or written"
        ),
        AnomalyKind::G1c => {
            format!("{first} has read {key} with a value that it wrote only later")
        }
        AnomalyKind::GSingleItem => {
            format!("{first} has appended to the list of {key}") + &by(" that was also read by ")
        }
        _ => format!("an attempt of {first} has seen values that never existed together"),
    };
    match anomaly.count {
        0 | 1 => words,
        count => format!("{words}; {} more of this kind", count - 1),
    }
}

/// What a commit compares at a level of coord, where a range or a key was changed.
pub(super) const fn compares(isolation: Isolation, has_range: bool) -> &'static str {
    match (isolation, has_range) {
        (Isolation::SerializableSnapshot | Isolation::Serializable, _) => {
            "coord compares that at this level: the store or the client is wrong"
        }
        (Isolation::RepeatableReads, true) => {
            "at repeatable-reads a commit compares the keys that were found, not the range"
        }
        (Isolation::RepeatableReads, false) => {
            "at repeatable-reads coord compares that, unless the transaction only reads a single key"
        }
        (Isolation::ReadCommitted, _) => {
            "at read-committed a commit compares nothing that was read"
        }
    }
}

/// The compare that an edge lacks, `mod(x) == 3`; 0 if the key was absent.
pub(super) fn guard(step: &Step) -> Option<String> {
    let key = short(step.key.as_ref()?);
    let revision = step.before.map_or(0, |revision| revision.0);
    let range = if step.kind.is_predicate() { " for its range" } else { "" };
    Some(format!("mod({key}) == {revision}{range}"))
}

/// Breaks words into lines. A line has at most 80 columns. The first line starts with `first`, the
/// others with as many spaces as `indent`.
pub(super) fn wrap(first: &str, indent: usize, text: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        let space = usize::from(!is_empty);
        if !is_empty && line.chars().count() + space + word.chars().count() > 80 {
            lines.push_str(line.trim_end());
            lines.push('\n');
            line = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push_str(line.trim_end());
    lines.push('\n');
    lines
}
