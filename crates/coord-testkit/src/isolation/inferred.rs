//! What the readers of histories without revisions have inferred, as anomalies.
//!
//! ```text
//! T4 has read an element of T3, which was aborted        G1a: T4, T3
//! T1 and T2 read one list, and both appended to it       lost update, a G-single-item
//! ```

use super::anomaly::{Anomaly, AnomalyKind, Order, Participant, Step};
use super::conclude::Summary;
use super::edge_kind::EdgeKind;
use crate::history::{Contradiction, ContradictionKind, Inference};

/// Adds an inference to that of the events before.
pub(super) fn add(known: &mut Inference, inference: &Inference) {
    known.versions += inference.versions;
    known.contradictions.extend_from_slice(&inference.contradictions);
}

/// Adds what was inferred to what the check has found.
pub(super) fn conclude(inference: &Inference, summary: &mut Summary) {
    summary.coverage.inferred_versions = inference.versions;
    summary.breaks_declared |= !inference.contradictions.is_empty();
    for anomaly in inference.contradictions.iter().map(anomaly) {
        let rank = |anomaly: &Anomaly| (anomaly.kind, anomaly.order);
        let anomalies = &mut summary.anomalies;
        match anomalies.binary_search_by_key(&rank(&anomaly), rank) {
            Err(place) => anomalies.insert(place, anomaly),
            // Of a kind with a cycle, the cycle is the example.
            Ok(known) if anomalies[known].steps.is_empty() => anomalies[known].count += 1,
            Ok(_) => {}
        }
    }
}

fn anomaly(contradiction: &Contradiction) -> Anomaly {
    let (kind, name) = match contradiction.kind {
        ContradictionKind::IncompatibleOrder => (AnomalyKind::IncompatibleOrder, None),
        ContradictionKind::DuplicateElement => (AnomalyKind::DuplicateElements, None),
        ContradictionKind::GarbageRead => (AnomalyKind::GarbageRead, None),
        ContradictionKind::AbortedRead => (AnomalyKind::G1a, Some("aborted read")),
        ContradictionKind::IntermediateRead => (AnomalyKind::G1b, Some("intermediate read")),
        ContradictionKind::FutureRead => (AnomalyKind::G1c, Some("future read")),
        ContradictionKind::InternalRead => (AnomalyKind::Internal, None),
        ContradictionKind::LostUpdate => (AnomalyKind::GSingleItem, Some("lost update")),
        ContradictionKind::WriteCycle => (AnomalyKind::G0, None),
        ContradictionKind::ReadCycle => (AnomalyKind::G1c, None),
    };
    let edge = match contradiction.kind {
        ContradictionKind::WriteCycle => Some(EdgeKind::WriteWrite),
        ContradictionKind::ReadCycle => Some(EdgeKind::WriteRead),
        _ => None,
    };
    let participants: Vec<Participant> =
        contradiction.transactions.iter().copied().map(Participant::Transaction).collect();
    let next = participants.iter().cycle().skip(1);
    let edges = participants.iter().zip(next).zip(&contradiction.keys);
    let step = |kind, ((from, to), key): ((&Participant, &Participant), &bytes::Bytes)| Step {
        from: *from,
        to: *to,
        kind,
        key: Some(key.clone()),
        before: None,
        after: None,
    };
    let steps = edge.map(|kind| edges.map(|edge| step(kind, edge)).collect()).unwrap_or_default();
    Anomaly {
        kind,
        order: Order::None,
        name,
        participants,
        steps,
        key: contradiction.keys.first().filter(|_| edge.is_none()).cloned(),
        revision: None,
        count: 1,
    }
}
