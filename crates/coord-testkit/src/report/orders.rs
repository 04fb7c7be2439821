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

use super::actors::{Actor, Effect};
use super::words::{compares, guard, quoted, short, wrap};
use crate::isolation::{Anomaly, EdgeKind, Participant, Step};

/// Up to this number of transactions, all orders are tried.
const ALL_ORDERS_MAX: usize = 3;
/// How many orders of more transactions are shown.
const ORDERS_SHOWN: usize = 6;

/// The section about serial orders; empty for an anomaly without a cycle.
pub(super) fn serial_orders(anomaly: &Anomaly, actors: &[Actor<'_>]) -> String {
    let participants: Vec<Participant> = actors.iter().map(|actor| actor.participant).collect();
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
        let words = contradiction(anomaly, order, actors);
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
fn contradiction(anomaly: &Anomaly, order: &[Participant], actors: &[Actor<'_>]) -> String {
    let position = |participant: Participant| order.iter().position(|other| *other == participant);
    let broken = anomaly.steps.iter().filter(|step| position(step.from) > position(step.to));
    // The contradiction shows where the later transaction of an `rw` edge reads, and where the
    // earlier transaction of any other edge uses what does not exist yet.
    let shows_at = |step: &&Step| {
        let later = step.kind.is_anti_dependency() || step.kind.is_order();
        (position(if later { step.from } else { step.to }), step.kind.is_order())
    };
    broken.min_by_key(shows_at).map_or_else(String::new, |step| why(step, actors))
}

/// Why `to` cannot come before `from`.
fn why(step: &Step, actors: &[Actor<'_>]) -> String {
    let Step { from, to, .. } = step;
    let Some(key) = &step.key else {
        return format!("{from} had ended before {to} began");
    };
    let actor = |participant| actors.iter().find(|actor| actor.participant == participant);
    let short_key = short(key);
    let at = |revision: Option<_>| revision.map_or_else(String::new, |at| format!(" @{at}"));
    match step.kind {
        EdgeKind::ReadWrite | EdgeKind::PredicateReadWrite => {
            let must = match actor(*to).and_then(|actor| actor.effect(key)) {
                Some(Effect::Put(value)) => {
                    format!("must read {short_key}{} = {}", at(step.after), quoted(value))
                }
                Some(Effect::Delete) => format!("must find no {short_key}"),
                _ => format!("must read {short_key}{}", at(step.after)),
            };
            let value = actor(*from).and_then(|actor| actor.value_read(key));
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
        _ if actor(*from).and_then(|actor| actor.effect(key)) == Some(Effect::Delete) => {
            format!("{to} found no {short_key}, which {from} had not deleted")
        }
        _ => format!("{to} read {short_key}{}, which {from} had not written", at(step.before)),
    }
}

/// The section about missing guards; empty if a compare could not have prevented the anomaly.
///
/// A compare of what was read fails only if the key was changed before the commit. The other
/// readers of the cycle have committed before the change.
pub(super) fn missing_guards(anomaly: &Anomaly, actors: &[Actor<'_>]) -> String {
    let mut text = String::new();
    for actor in actors {
        let Some(attempt) = actor.attempt else { continue };
        let is_late = |step: &&Step| {
            actor.writes.is_empty() || actor.commit.is_none_or(|commit| step.after < Some(commit))
        };
        let broken = anomaly
            .steps
            .iter()
            .filter(|step| step.from == actor.participant && step.kind.is_anti_dependency());
        let broken: Vec<&Step> = broken.filter(is_late).collect();
        let guards: Vec<String> = broken.iter().filter_map(|step| guard(step)).collect();
        if guards.is_empty() {
            continue;
        }
        let has_range = broken.iter().any(|step| step.kind.is_predicate());
        let compares = compares(attempt.isolation, has_range);
        let name = actor.participant;
        let words = format!("{name}'s commit needed {}; {compares}", guards.join(" and "));
        text.push_str(&wrap("    ", 6, &words));
    }
    if text.is_empty() { text } else { format!("  Missing guard:\n{text}") }
}
