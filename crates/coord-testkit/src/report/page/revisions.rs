//! The drawing of transactions over an axis of revisions.
//!
//! ```text
//! revision         2      3      4      5
//! store            •      •      ●      ●
//! a   T1 bar       ├─────────────●               from its oldest read to its commit
//!        strip x   └─────────────┘ x @2 = yes    while what it has read was valid
//!        strip y          └─────────────┘        ends after the commit of T1
//! b   T2 bar       ├────────────────────●
//!        strip x   └─────────────✕               ends before the commit of T2: an edge
//! ```
//!
//! A transaction is consistent if all its strips reach its commit. So an `rw` edge starts where a
//! strip ends, in the column of the commit that ended it, and a `wr` edge ends where a strip
//! starts.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::participants::{ParticipantRecord, records};
use super::bar::Bar;
use super::drawn::{AXIS_HEIGHT, Drawn};
use super::edges::add_edges;
use super::rows::Rows;
use super::scene::{Axis, Column, Data, Group, Scene, Shape, to_i32};
use super::state::{ShownVersions, column_of};
use super::{Limits, printable};
use crate::history::{EventKind, History};
use crate::isolation::Anomaly;

/// Draws the transactions of a history. Those of the anomaly are drawn in full.
pub(super) fn draw(history: &History, anomaly: Option<&Anomaly>, limits: &Limits) -> Scene {
    let records = anomaly.map_or_else(Vec::new, |anomaly| records(history, anomaly));
    let versions = ShownVersions::new(history, &records);
    let (drawn, left_out) = select(history, &records, limits);
    let keys = keys(&records, limits);
    let axis = axis(&drawn, &records, &versions, &keys, limits);
    let mut scene = Scene { width: axis.width(), ..Scene::default() };
    if left_out > 0 {
        scene.left_out.push(format!("{left_out} attempts of other transactions"));
    }
    let mut rows = Rows::new(&axis, &versions, limits);
    rows.store(&records);
    let mut lanes: BTreeMap<&str, Vec<&Drawn<'_>>> = BTreeMap::new();
    for drawn in &drawn {
        lanes.entry(drawn.process).or_default().push(drawn);
    }
    for (process, drawn) in lanes {
        rows.lane(process, &drawn, &records, anomaly);
    }
    let Rows { groups, bars, bottom, left_out, .. } = rows;
    scene.left_out.extend(left_out);
    scene.height = bottom + 12;
    scene.data = columns(&axis, &versions, &keys, &bars, limits);
    scene.groups = axis_groups(&axis, scene.height);
    add_faults(&mut scene, history, &axis, limits);
    scene.groups.extend(groups);
    if let Some(anomaly) = anomaly {
        add_edges(&mut scene, anomaly, &records, &bars, &axis);
    }
    let last = bars.iter().filter(|bar| bar.record.is_some()).map(|bar| bar.last).max();
    scene.data.first = last.map_or(0, |last| column_of(&scene.data.columns, last));
    scene
}

/// The attempts to draw: those of the participants, then the nearest others. Also returns how many
/// are left out.
fn select<'a>(
    history: &'a History,
    records: &[ParticipantRecord<'a>],
    limits: &Limits,
) -> (Vec<Drawn<'a>>, usize) {
    let mut all: Vec<Drawn<'a>> = Vec::new();
    for event in &history.0 {
        let EventKind::Attempt(attempt) = &event.kind else { continue };
        let is_attempt = |record: &ParticipantRecord<'_>| {
            record.attempt.is_some_and(|other| std::ptr::eq(other, &raw const **attempt))
        };
        let process = event.process.as_deref().unwrap_or("(no process)");
        all.push(Drawn { process, attempt, record: records.iter().position(is_attempt) });
    }
    let commits = records.iter().filter_map(|record| record.commit).map(|commit| commit.0);
    let (first, last) = (commits.clone().min().unwrap_or(0), commits.max().unwrap_or(i64::MAX));
    // Without an anomaly the first ones are drawn.
    let distance = |drawn: &Drawn<'_>| {
        let (_, at) = drawn.span(None);
        if records.is_empty() { at } else { (first - at).max(at - last).max(0) }
    };
    all.sort_by_key(|drawn| (drawn.record.is_none(), distance(drawn)));
    let others = limits.attempts + records.len();
    let left_out = all.len().saturating_sub(others);
    all.truncate(others);
    all.sort_by_key(|drawn| (drawn.record.is_none(), drawn.record, drawn.attempt.began));
    (all, left_out)
}

/// The keys that the participants have read or written.
fn keys<'a>(records: &[ParticipantRecord<'a>], limits: &Limits) -> BTreeSet<&'a Bytes> {
    let mut keys = BTreeSet::new();
    for record in records {
        let reads = record.attempt.into_iter().flat_map(|attempt| &attempt.reads);
        keys.extend(reads.take(limits.reads).map(|read| &read.key));
        keys.extend(record.writes.iter().take(limits.reads).map(|write| write.key));
    }
    keys
}

/// The revisions that have a column: what the participants have read and written and when that
/// changed, then the commits of the others.
fn axis(
    drawn: &[Drawn<'_>],
    records: &[ParticipantRecord<'_>],
    versions: &ShownVersions<'_>,
    keys: &BTreeSet<&Bytes>,
    limits: &Limits,
) -> Axis {
    let mut revisions: BTreeSet<i64> =
        records.iter().filter_map(|record| record.commit).map(|commit| commit.0).collect();
    for drawn in drawn.iter().filter(|drawn| drawn.record.is_some()) {
        let reads = drawn.attempt.reads.iter().filter_map(|read| read.found.as_ref());
        revisions.extend(reads.take(limits.reads).map(|(revision, _)| revision.0));
    }
    let (first, last) = (revisions.first().copied(), revisions.last().copied());
    let focus = first.unwrap_or(1)..=last.unwrap_or(0);
    if let (Some(first), Some(last)) = (first, last) {
        let within = versions.revisions_of(keys).into_iter();
        revisions.extend(within.filter(|at| (first..=last + 1).contains(at)).take(limits.columns));
    }
    for drawn in drawn.iter().filter(|drawn| drawn.record.is_none()) {
        if revisions.len() < limits.columns {
            revisions.insert(drawn.span(None).1);
        }
    }
    revisions.remove(&0);
    if revisions.is_empty() {
        revisions.insert(1);
    }
    Axis::new(revisions.into_iter().collect(), &focus)
}

/// The columns as the script reads them, with what happens in each.
fn columns(
    axis: &Axis,
    versions: &ShownVersions<'_>,
    keys: &BTreeSet<&Bytes>,
    bars: &[Bar<'_>],
    limits: &Limits,
) -> Data {
    let column = |&revision: &i64| Column {
        x: axis.x(revision),
        title: format!("revision {revision}"),
        hash: format!("rev={revision}"),
        revision,
        ..Column::default()
    };
    let mut columns: Vec<Column> = axis.revisions.iter().map(column).collect();
    for bar in bars.iter().filter(|bar| bar.record.is_some()) {
        for (revision, line) in bar.lines(limits) {
            if let Ok(column) = axis.revisions.binary_search(&revision) {
                columns[column].lines.push(line);
            }
        }
    }
    let mut data = Data { columns, ..Data::default() };
    versions.fill(&mut data, keys, limits);
    data
}

fn axis_groups(axis: &Axis, height: i32) -> Vec<Group> {
    let mut group = Group::new("axis", "");
    let text = "revision".to_owned();
    group.shapes.push(Shape::Text { x: 12, y: AXIS_HEIGHT - 12, text, class: "lane-name" });
    for &revision in &axis.revisions {
        let x = axis.x(revision);
        let text = revision.to_string();
        group.shapes.push(Shape::Text { x, y: AXIS_HEIGHT - 12, text, class: "tick" });
        let path = format!("M{x} {}V{}", AXIS_HEIGHT - 6, height - 8);
        group.shapes.push(Shape::Path { path, class: "grid" });
    }
    vec![group]
}

/// Adds the faults of the history. Each is drawn behind the newest revision that a transaction had
/// committed or read before it.
fn add_faults(scene: &mut Scene, history: &History, axis: &Axis, limits: &Limits) {
    let mut newest = 0;
    let mut count = 0;
    for event in &history.0 {
        let text = match &event.kind {
            EventKind::Attempt(attempt) => {
                let drawn = Drawn { process: "", attempt, record: None };
                newest = newest.max(drawn.span(None).1);
                continue;
            }
            EventKind::Fault(text) => text.clone(),
            EventKind::Restored { .. } => event.kind.to_string(),
            _ => continue,
        };
        count += 1;
        if scene.marks.len() >= limits.faults {
            continue;
        }
        let process = event.process.as_deref().unwrap_or("store");
        let process = printable(process.as_bytes(), limits.text);
        let text = format!("{process}: {}", printable(text.as_bytes(), 2 * limits.text));
        let number = scene.marks.len() + 1;
        let column = column_of(&scene.data.columns, newest);
        let after = scene.data.columns.get(column).map_or(newest, |column| column.revision);
        let x = axis.x(after) + 17 + 8 * (to_i32(number) % 3 - 1);
        let mut group = Group::new("fault", format!("fault {number}: {text}"));
        let path = format!("M{x} 16V{}", scene.height - 8);
        group.shapes.push(Shape::Path { path, class: "fault-line" });
        group.shapes.push(Shape::Circle { x, y: 12, radius: 9, class: "fault-dot" });
        let text_shape = Shape::Text { x, y: 16, text: number.to_string(), class: "number" };
        group.shapes.push(text_shape);
        scene.groups.push(group);
        scene.marks.push((column, text));
    }
    if count > scene.marks.len() {
        scene.left_out.push(format!("{} faults", count - scene.marks.len()));
    }
}
