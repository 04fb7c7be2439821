//! Why no serial order explains a cycle, and which compare would have prevented it.
//!
//! Each edge of a cycle states that one transaction comes before another. An order of the
//! transactions contradicts the first edge that it turns round:
//!
//! ```text
//! edges         T1 -> T2  T1 read y @1, T2 overwrote it @3
//!               T2 -> T1  T2 read x @1, T1 overwrote it @2
//! order T1,T2   T2 must read x @2 = "off", read @1 = "on"
//! order T2,T1   T1 must read y @3 = "off", read @1 = "on"
//! ```

use bytes::Bytes;
use coord_core::kv::Revision;

use super::participants::{ParticipantRecord, WriteEffect};
use super::words::{compares, guard, quoted, short, wrap};
use crate::history::{Attempt, AttemptEnd, EventKind, History};
use crate::isolation::{Anomaly, EdgeKind, Participant, Step};

/// Up to this number of transactions, all orders are tried.
const ALL_ORDERS_MAX: usize = 3;
/// How many orders of more transactions are shown.
const ORDERS_SHOWN: usize = 6;

/// The section about serial orders; empty for an anomaly without a cycle.
pub(super) fn serial_orders(anomaly: &Anomaly, records: &[ParticipantRecord<'_>]) -> String {
    let participants: Vec<Participant> = records.iter().map(|record| record.participant).collect();
    if anomaly.steps.is_empty() {
        return String::new();
    }
    let count = participants.len();
    let mut text = "  Serial orders tried:\n".to_owned();
    let orders = if count <= ALL_ORDERS_MAX {
        permutations(&participants)
    } else {
        let number = (1..=count).map(|n| n as f64).product::<f64>();
        let number = if number < 1e6 { format!("{number}") } else { format!("{number:.1e}") };
        let all = format!(
            "each of the {number} orders of {count} transactions contradicts an edge; these \
             contradict only one:"
        );
        text.push_str(&wrap("    ", 4, &all));
        rotations(&anomaly.participants)
    };
    for order in &orders {
        let names: Vec<String> = order.iter().map(Participant::to_string).collect();
        let words = contradiction(anomaly, order, records);
        text.push_str(&wrap(&format!("    {}: ", names.join(", ")), 6, &words));
    }
    text
}

/// All orders of a few participants, in lexical order of their positions.
fn permutations(participants: &[Participant]) -> Vec<Vec<Participant>> {
    if participants.len() <= 1 {
        return vec![participants.to_vec()];
    }
    let mut orders = Vec::new();
    for first in 0..participants.len() {
        let mut others = participants.to_vec();
        let first = others.remove(first);
        orders.extend(permutations(&others).into_iter().map(|mut order| {
            order.insert(0, first);
            order
        }));
    }
    orders
}

/// The orders that follow the cycle from each of its transactions.
fn rotations(participants: &[Participant]) -> Vec<Vec<Participant>> {
    let rotation = |start: usize| {
        let mut order = participants.to_vec();
        order.rotate_left(start);
        order
    };
    (0..participants.len().min(ORDERS_SHOWN)).map(rotation).collect()
}

/// Why an order is impossible: the first transaction in it that contradicts an edge.
fn contradiction(
    anomaly: &Anomaly,
    order: &[Participant],
    records: &[ParticipantRecord<'_>],
) -> String {
    broken_step(anomaly, order).map_or_else(String::new, |step| why(step, order, records))
}

/// The edge that an order contradicts first.
fn broken_step<'a>(anomaly: &'a Anomaly, order: &[Participant]) -> Option<&'a Step> {
    let position = |participant: Participant| order.iter().position(|other| *other == participant);
    let broken = anomaly.steps.iter().filter(|step| position(step.from) > position(step.to));
    // The contradiction shows where the later transaction of an `rw` edge reads, and where the
    // earlier transaction of any other edge uses what does not exist yet.
    let shows_at = |step: &&Step| {
        let later = step.kind.is_anti_dependency() || step.kind.is_order();
        (position(if later { step.from } else { step.to }), step.kind.is_order())
    };
    broken.min_by_key(shows_at)
}

/// The version of a key that a participant must read in an order, in which a writer of the key
/// comes before the participant.
fn version_to_read<'a>(
    step: &Step,
    order: &[Participant],
    records: &'a [ParticipantRecord<'_>],
) -> Option<(Option<Revision>, WriteEffect<'a>)> {
    let key = step.key.as_ref()?;
    let before = order.iter().take_while(|participant| **participant != step.from);
    let writers = before.filter_map(|participant| {
        let record = records.iter().find(|record| record.participant == *participant)?;
        let revision = if *participant == step.to { step.after } else { record.commit };
        Some((revision, record.effect(key)?))
    });
    writers.last()
}

/// Why `to` cannot come before `from`, as it does in an order.
fn why(step: &Step, order: &[Participant], records: &[ParticipantRecord<'_>]) -> String {
    let Step { from, to, .. } = step;
    let Some(key) = &step.key else {
        return format!("{from} had ended before {to} began");
    };
    let record = |participant| records.iter().find(|record| record.participant == participant);
    let short_key = short(key);
    let at = |revision: Option<_>| revision.map_or_else(String::new, |at| format!(" @{at}"));
    match step.kind {
        EdgeKind::ReadWrite | EdgeKind::PredicateReadWrite => {
            let must = match version_to_read(step, order, records) {
                Some((revision, WriteEffect::Put(value))) => {
                    format!("must read {short_key}{} = {}", at(revision), quoted(value))
                }
                Some((_, WriteEffect::Delete)) => format!("must find no {short_key}"),
                Some((revision, WriteEffect::Unknown)) => {
                    format!("must read {short_key}{}", at(revision))
                }
                None => format!("must read {short_key}{}", at(step.after)),
            };
            let value = record(*from).and_then(|record| record.value_read(key));
            let value = value.map_or_else(String::new, |value| format!(" = {}", quoted(value)));
            let got = match step.before {
                Some(_) => format!("read{}{value}", at(step.before)),
                None => "found no key".to_owned(),
            };
            format!("{from} {must}, {got}")
        }
        EdgeKind::WriteWrite => {
            format!("{to} overwrote {short_key}{}, which {from} had not written", at(step.before))
        }
        _ if record(*from).and_then(|record| record.effect(key)) == Some(WriteEffect::Delete) => {
            format!("{to} found no {short_key}, which {from} had not deleted")
        }
        _ => format!("{to} read {short_key}{}, which {from} had not written", at(step.before)),
    }
}

/// The section about missing guards; empty if a compare could not have prevented the anomaly.
///
/// A compare of what was read fails only if the key was changed before the commit. The other
/// readers of the cycle have committed before the change. A commit that writes nothing has no
/// place of its own, so the change must have ended before it, or its transaction must have read
/// data that is as new.
///
/// ```text
/// T1 read z @2    T3 wrote z @4, y @4    T2 read x @3, y @4, ended    T1 wrote x @5
/// ```
///
/// T2 read x before T1 wrote it. Each of its reads was current, so T2 lacks no compare.
pub(super) fn missing_guards(
    history: &History,
    anomaly: &Anomaly,
    records: &[ParticipantRecord<'_>],
) -> String {
    let mut text = String::new();
    for record in records {
        let Some(attempt) = record.attempt else { continue };
        let broken = late_changes(history, anomaly, record, records);
        let guards: Vec<String> = broken.iter().filter_map(|step| guard(step)).collect();
        if guards.is_empty() {
            continue;
        }
        let has_range = broken.iter().any(|step| step.kind.is_predicate());
        let compares = compares(attempt.isolation, has_range);
        let name = record.participant;
        let words = format!("{name}'s commit needed {}; {compares}", guards.join(" and "));
        text.push_str(&wrap("    ", 6, &words));
    }
    if text.is_empty() { text } else { format!("  Missing guard:\n{text}") }
}

/// The revision of the store at which a compare of the participant's commit would have been
/// evaluated, as far as the history shows it: the last revision before its writes. Without writes
/// it is the newest revision that the participant has read, or at which another transaction had
/// committed when the participant ended.
fn compared_at(history: &History, record: &ParticipantRecord<'_>) -> Option<Revision> {
    if !record.writes.is_empty() {
        return record.commit.map(|commit| Revision(commit.0.saturating_sub(1)));
    }
    let reads = record.attempt.iter().flat_map(|attempt| &attempt.reads);
    let read = reads.filter_map(|read| read.found.as_ref().map(|found| found.0)).max();
    let ended = history.0.iter().filter(|event| event.at <= record.ended);
    let committed = ended.filter_map(|event| match &event.kind {
        EventKind::Attempt(attempt) => commit_of(attempt),
        _ => None,
    });
    committed.max().max(read).max(record.commit)
}

fn commit_of(attempt: &Attempt) -> Option<Revision> {
    match attempt.end {
        AttemptEnd::Committed { revision } => Some(revision),
        _ => None,
    }
}

/// Whether a key exists at a revision: whether the last write of it that the history shows puts it.
fn exists(history: &History, key: &Bytes, at: Revision) -> bool {
    let writes = history.0.iter().filter_map(|event| match &event.kind {
        EventKind::Attempt(attempt) => Some((commit_of(attempt)?, &attempt.writes)),
        EventKind::Changed(change) => Some((change.revision, &change.writes)),
        _ => None,
    });
    let of_key = writes.filter(|(revision, _)| *revision <= at).filter_map(|(revision, writes)| {
        let write = writes.iter().rfind(|write| write.key == *key)?;
        Some((revision, write.value.is_some()))
    });
    // A deletion of an absent key has the revision of another change.
    of_key.max().is_some_and(|(_, is_put)| is_put)
}

/// The edges on which a compare of the participant's commit would have failed: the key that it has
/// read was changed before its commit, and a key that it has not found existed at its commit.
fn late_changes<'a>(
    history: &History,
    anomaly: &'a Anomaly,
    record: &ParticipantRecord<'_>,
    records: &[ParticipantRecord<'_>],
) -> Vec<&'a Step> {
    let Some(compared) = compared_at(history, record) else { return Vec::new() };
    let is_late = |step: &&Step| {
        let writer = records.iter().find(|writer| writer.participant == step.to);
        let has_ended = writer.is_some_and(|writer| {
            record.writes.is_empty() && writer.attempt.is_some() && writer.ended <= record.ended
        });
        let is_absent = || {
            let key = step.key.as_ref();
            step.before.is_none() && key.is_some_and(|key| !exists(history, key, compared))
        };
        (step.after <= Some(compared) || has_ended) && !is_absent()
    };
    let broken = anomaly
        .steps
        .iter()
        .filter(|step| step.from == record.participant && step.kind.is_anti_dependency());
    broken.filter(is_late).collect()
}

#[cfg(test)]
mod tests;
