//! The edges of a cycle, as arrows with numbers.

use super::super::participants::ParticipantRecord;
use super::super::words::edge;
use super::bar::Bar;
use super::scene::{Axis, Group, LEFT, Scene, Shape, arrow, to_i32};
use crate::isolation::{Anomaly, EdgeKind, Step};

/// Draws the edges of an anomaly.
pub(super) fn add_edges(
    scene: &mut Scene,
    anomaly: &Anomaly,
    records: &[ParticipantRecord<'_>],
    bars: &[Bar<'_>],
    axis: &Axis,
) {
    for (number, step) in anomaly.steps.iter().enumerate() {
        let bar = |participant| {
            let record = records.iter().position(|record| record.participant == participant);
            bars.iter().find(|bar| bar.record.is_some() && bar.record == record)
        };
        let (Some(from), Some(to)) = (bar(step.from), bar(step.to)) else { continue };
        let (start, end) = ends(step, from, to, axis);
        let bow = if number % 2 == 0 { 26 } else { -26 };
        let (path, (x, y)) = arrow(start, end, bow);
        let words = edge(step, records);
        let title =
            format!("edge {}, {} -> {}, {}: {words}", number + 1, step.from, step.to, step.kind);
        let kind = if step.kind.is_order() { "edge order" } else { "edge" };
        let mut group = Group::new(format!("{kind} edge-{}", number + 1), title);
        group.shapes.push(Shape::Path { path, class: "arrow" });
        group.shapes.push(Shape::Circle { x, y, radius: 9, class: "edge-dot" });
        let text = to_i32(number + 1).to_string();
        group.shapes.push(Shape::Text { x, y: y + 4, text, class: "number" });
        scene.groups.push(group);
    }
}

/// Where an edge starts and ends.
fn ends(step: &Step, from: &Bar<'_>, to: &Bar<'_>, axis: &Axis) -> ((i32, i32), (i32, i32)) {
    let commit = |bar: &Bar<'_>| (axis.x(bar.last), bar.y);
    let strip = |bar: &'_ Bar<'_>, at_end: bool| {
        let strip = bar.strips.iter().find(|strip| Some(strip.key) == step.key.as_ref())?;
        let revision = if at_end { strip.end? } else { strip.start };
        let x = if revision == 0 { LEFT - 24 } else { axis.x(revision) };
        Some((x, strip.y))
    };
    match step.kind {
        EdgeKind::ReadWrite | EdgeKind::PredicateReadWrite => {
            (strip(from, true).unwrap_or_else(|| commit(from)), commit(to))
        }
        EdgeKind::WriteRead | EdgeKind::PredicateWriteRead => {
            (commit(from), strip(to, false).unwrap_or_else(|| commit(to)))
        }
        EdgeKind::Session | EdgeKind::RealTime => (commit(from), (axis.x(to.first), to.y)),
        _ => (commit(from), commit(to)),
    }
}
