//! The lanes of a drawing: the store, and one lane per process, with a row for each transaction of
//! the anomaly and some rows for the others.

use super::super::participants::{ParticipantRecord, WriteEffect};
use super::super::text;
use super::bar::{Bar, action};
use super::drawn::{AXIS_HEIGHT, Drawn, STORE_HEIGHT, participant_name};
use super::scene::{Axis, Group, LEFT, Shape};
use super::state::ShownVersions;
use super::{Limits, printable};
use crate::history::AttemptEnd;
use crate::isolation::Anomaly;

/// The height of the bar of a participant.
const BAR_HEIGHT: i32 = 24;
/// The height of the row of a transaction that is no participant.
const OTHER_HEIGHT: i32 = 13;
/// How many rows the transactions that are no participants have in one lane.
const OTHER_ROWS_MAX: usize = 8;

/// The lanes, as far as they are drawn.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) axis: &'a Axis,
    pub(super) versions: &'a ShownVersions<'a>,
    pub(super) limits: &'a Limits,
    pub(super) groups: Vec<Group>,
    pub(super) bars: Vec<Bar<'a>>,
    pub(super) bottom: i32,
    pub(super) left_out: Vec<String>,
}

impl<'a> Rows<'a> {
    pub(super) const fn new(
        axis: &'a Axis,
        versions: &'a ShownVersions<'a>,
        limits: &'a Limits,
    ) -> Self {
        let bottom = AXIS_HEIGHT;
        Self {
            axis,
            versions,
            limits,
            groups: Vec::new(),
            bars: Vec::new(),
            bottom,
            left_out: Vec::new(),
        }
    }

    /// Draws the lane of the store, with the changes by clients that are not recorded.
    pub(super) fn store(&mut self, records: &[ParticipantRecord<'a>]) {
        let y = self.bottom + STORE_HEIGHT / 2;
        self.lane_name("store", self.bottom, STORE_HEIGHT);
        let mut dots = Group::new("store", "");
        for &revision in &self.axis.revisions {
            let x = self.axis.x(revision);
            dots.shapes.push(Shape::Circle { x, y, radius: 3, class: "revision" });
        }
        self.groups.push(dots);
        let changes = records.iter().enumerate().filter(|(_, record)| record.attempt.is_none());
        for (number, record) in changes {
            let Some(commit) = record.commit else { continue };
            let only_deletes =
                record.writes.iter().all(|write| write.effect == WriteEffect::Delete);
            let by = if only_deletes {
                "the end of a lease, or another client"
            } else {
                "another client"
            };
            let name = participant_name(record.participant);
            let title = format!("{name}, by {by}: {}", text::writes(&record.writes));
            let mut group = Group::new(format!("bar participant-{}", number % 6), title);
            let x = self.axis.x(commit.0);
            group.shapes.push(Shape::Circle { x, y, radius: 8, class: "change" });
            let shape = Shape::Text {
                x: x + 26,
                y: y + 4,
                text: format!("{name}, by {by}"),
                class: "note",
            };
            group.shapes.push(shape);
            self.groups.push(group);
            self.bars.push(Bar {
                record: Some(number),
                name,
                first: commit.0,
                last: commit.0,
                y,
                strips: Vec::new(),
                writes: record.writes.clone(),
                end: format!("by {by}"),
            });
        }
        self.bottom += STORE_HEIGHT;
    }

    /// Draws the lane of a process.
    pub(super) fn lane(
        &mut self,
        process: &str,
        drawn: &[&Drawn<'a>],
        records: &[ParticipantRecord<'a>],
        anomaly: Option<&'a Anomaly>,
    ) {
        let top = self.bottom;
        self.bottom += 7;
        for drawn in drawn {
            if let Some(number) = drawn.record {
                self.record(drawn, number, &records[number], anomaly);
            }
        }
        self.others(process, drawn);
        self.bottom = (self.bottom + 7).max(top + 30);
        let height = self.bottom - top;
        self.lane_name(process, top, height);
    }

    fn lane_name(&mut self, name: &str, top: i32, height: i32) {
        let mut group = Group::new("lane", "");
        let path = format!("M0 {top}H{}", self.axis.width());
        group.shapes.push(Shape::Path { path, class: "lane-line" });
        let text = printable(name.as_bytes(), 16);
        let y = top + height.min(BAR_HEIGHT + 14) / 2 + 5;
        group.shapes.push(Shape::Text { x: 12, y, text, class: "lane-name" });
        self.groups.push(group);
    }

    /// Draws a transaction of the anomaly, with the validity of what it has read.
    fn record(
        &mut self,
        drawn: &Drawn<'a>,
        number: usize,
        record: &ParticipantRecord<'a>,
        anomaly: Option<&'a Anomaly>,
    ) {
        let (first, last) = drawn.span(record.commit.map(|commit| commit.0));
        let y = self.bottom + BAR_HEIGHT / 2;
        let name = participant_name(record.participant);
        let title = format!(
            "{name}: {}; {}; {}",
            text::origin(record),
            text::reads(drawn.attempt),
            text::writes(&record.writes)
        );
        let mut group = Group::new(format!("bar participant-{}", number % 6), title);
        let (left, right) = (self.axis.x(first), self.axis.x(last));
        let left = if left == right { left - 46 } else { left };
        group.shapes.push(Shape::Rect {
            x: left,
            y: self.bottom,
            width: right - left,
            height: BAR_HEIGHT,
            class: "span",
        });
        group.shapes.push(Shape::Text { x: left + 7, y: y + 5, text: name.clone(), class: "name" });
        let end = end_shape(drawn.attempt.end, right, y);
        group.shapes.push(end);
        let writes = record.writes.iter().take(3).map(|write| action(write, self.limits));
        let mut writes = writes.collect::<Vec<_>>().join(", ");
        if record.writes.len() > 3 {
            writes.push_str(&format!(", and {} more", record.writes.len() - 3));
        }
        let is_committed = matches!(drawn.attempt.end, AttemptEnd::Committed { .. });
        if !is_committed {
            writes = format!("{}: {writes}", drawn.attempt.end);
        } else if writes.is_empty() {
            "read only".clone_into(&mut writes);
        }
        group.shapes.push(Shape::Text { x: right + 26, y: y + 5, text: writes, class: "note" });
        self.bottom += BAR_HEIGHT + 4;
        let strips = self.strips(drawn, record, anomaly, last, &mut group);
        self.groups.push(group);
        self.bars.push(Bar {
            record: Some(number),
            name,
            first,
            last,
            y,
            strips,
            writes: record.writes.clone(),
            end: drawn.attempt.end.to_string(),
        });
        self.bottom += 6;
    }

    /// Draws the transactions that are no participants, as many beside each other as fit.
    fn others(&mut self, process: &str, drawn: &[&Drawn<'a>]) {
        let mut ends: Vec<i32> = Vec::new();
        let mut left_out = 0;
        for drawn in drawn.iter().filter(|drawn| drawn.record.is_none()) {
            let (first, last) = drawn.span(None);
            let (left, right) = (self.axis.x(first).max(LEFT - 24), self.axis.x(last));
            let left = left.min(right - 8);
            let row = ends.iter().position(|end| *end < left).unwrap_or(ends.len());
            if row >= OTHER_ROWS_MAX {
                left_out += 1;
                continue;
            }
            if row == ends.len() {
                ends.push(0);
            }
            ends[row] = right + 8;
            let y = self.bottom + i32::try_from(row).unwrap_or(0) * OTHER_HEIGHT;
            let title = printable(drawn.attempt.to_string().as_bytes(), 4 * self.limits.text);
            let mut group = Group::new("other", title);
            let width = right - left;
            group.shapes.push(Shape::Rect { x: left, y: y + 2, width, height: 6, class: "span" });
            group.shapes.push(end_shape(drawn.attempt.end, right, y + 5));
            self.groups.push(group);
        }
        self.bottom += i32::try_from(ends.len()).unwrap_or(0) * OTHER_HEIGHT;
        if left_out > 0 {
            let process = printable(process.as_bytes(), 16);
            self.left_out.push(format!("{left_out} attempts of other transactions of {process}"));
        }
    }
}

/// The mark at the end of a bar: a dot for a commit, a cross for any other end.
fn end_shape(end: AttemptEnd, x: i32, y: i32) -> Shape {
    match end {
        AttemptEnd::Committed { .. } => Shape::Circle { x, y, radius: 5, class: "commit" },
        _ => Shape::Path { path: format!("M{} {}l8 8m0 -8l-8 8", x - 4, y - 4), class: "cross" },
    }
}
