//! The drawing of a run over an axis of events: the timeline of the simulator.
//!
//! ```text
//! event            1      2      3      4
//! store            .      ●      .      .        event 2 creates revision 5
//! a                ●─────────────●               sent, applied at the store, received
//! b                .      .      .      ◆        a fault
//! ```
//!
//! Each event has a column, in the order of the history. A request is two lines, from its process
//! to the store and back. A line that ends half-way with a cross is a request that was lost or
//! rejected, or a response that was lost, and the process received an error. Without a cross, the
//! process received nothing: the message was lost or dropped by a crash, or is on its way at the
//! end.

use std::collections::{BTreeMap, BTreeSet};

use super::messages::{self, Request};
use super::scene::{Column, Group, LEFT, RIGHT, Scene, Shape, column_step, to_i32};
use super::state::ShownVersions;
use super::{Limits, printable};
use crate::history::{AttemptEnd, Event, EventKind, History};

/// The height of the axis, above all lanes.
const AXIS_HEIGHT: i32 = 46;
/// The height of a lane.
const LANE_HEIGHT: i32 = 64;

/// A drawing in progress.
struct Timeline<'a> {
    scene: Scene,
    lanes: Vec<&'a str>,
    step: i32,
    limits: &'a Limits,
    /// The newest revision so far.
    newest: i64,
    requests: BTreeMap<u64, Request>,
    /// The last column with a time above it.
    last_time: Option<usize>,
    marks_left_out: usize,
}

/// Draws the last events of a history.
pub(super) fn draw(history: &History, limits: &Limits) -> Scene {
    let first = history.0.len().saturating_sub(limits.events);
    let events = &history.0[first..];
    let names: BTreeSet<&str> =
        events.iter().filter_map(|event| event.process.as_deref()).collect();
    let lanes: Vec<&str> = names.iter().copied().take(limits.lanes).collect();
    let step = column_step(events.len(), 15, 90);
    let mut timeline = Timeline {
        scene: Scene { description: "a timeline of a run".to_owned(), ..Scene::default() },
        step,
        limits,
        newest: 0,
        requests: BTreeMap::new(),
        last_time: None,
        marks_left_out: 0,
        lanes,
    };
    if first > 0 {
        timeline.scene.left_out.push(format!("{first} earlier events"));
    }
    if names.len() > timeline.lanes.len() {
        let count = names.len() - timeline.lanes.len();
        timeline.scene.left_out.push(format!("the lanes of {count} processes"));
    }
    timeline.scene.width = timeline.x(events.len().saturating_sub(1)) + RIGHT / 3;
    timeline.scene.height = AXIS_HEIGHT + LANE_HEIGHT * (to_i32(timeline.lanes.len()) + 1) + 8;
    timeline.scene.data.first = events.len().saturating_sub(1);
    timeline.draw_lanes();
    for (column, event) in events.iter().enumerate() {
        timeline.add_column(first + column, column, event);
        timeline.draw_event(column, event, events);
    }
    let requests = std::mem::take(&mut timeline.requests);
    let drawn = requests.values().map(|request| messages::draw(request, step));
    timeline.scene.groups.extend(drawn);
    let mut scene = timeline.scene;
    if timeline.marks_left_out > 0 {
        scene.left_out.push(format!("{} faults and notes", timeline.marks_left_out));
    }
    let versions = ShownVersions::new(history, &[]);
    versions.fill(&mut scene.data, &BTreeSet::new(), limits);
    scene
}

impl Timeline<'_> {
    fn x(&self, column: usize) -> i32 {
        LEFT + to_i32(column) * self.step
    }

    /// The middle of a lane; the store is above all processes.
    fn y(&self, lane: Option<usize>) -> i32 {
        let lane = lane.map_or(0, |lane| lane + 1);
        AXIS_HEIGHT + LANE_HEIGHT * to_i32(lane) + LANE_HEIGHT / 2
    }

    /// The lane of a process; `None` for the store, and for a process without a lane.
    fn lane(&self, process: Option<&str>) -> Option<usize> {
        self.lanes.iter().position(|lane| Some(*lane) == process)
    }

    fn draw_lanes(&mut self) {
        let mut group = Group::new("axis", "");
        for (y, text) in [(18, "time"), (AXIS_HEIGHT - 12, "revision")] {
            let text = text.to_owned();
            group.shapes.push(Shape::Text { x: 12, y, text, class: "lane-name" });
        }
        self.scene.groups.push(group);
        let names = std::iter::once("store").chain(self.lanes.iter().copied());
        for (lane, name) in names.enumerate() {
            let top = AXIS_HEIGHT + LANE_HEIGHT * to_i32(lane);
            let mut group = Group::new("lane", "");
            let width = self.scene.width;
            group
                .shapes
                .push(Shape::Path { path: format!("M0 {top}H{width}"), class: "lane-line" });
            let y = top + LANE_HEIGHT / 2;
            let path = format!("M{} {y}H{width}", LEFT - 20);
            group.shapes.push(Shape::Path { path, class: "grid" });
            let text = printable(name.as_bytes(), 16);
            group.shapes.push(Shape::Text { x: 12, y: y + 5, text, class: "lane-name" });
            self.scene.groups.push(group);
        }
    }

    fn add_column(&mut self, number: usize, column: usize, event: &Event) {
        let x = self.x(column);
        let revision = match &event.kind {
            EventKind::Applied { result: Ok(revision), .. } => Some(revision.0),
            EventKind::Watched { revision, .. } => Some(revision.0),
            EventKind::Changed(change) => Some(change.revision.0),
            EventKind::Restored { found, .. } => {
                // The store goes back.
                self.newest = found.0;
                None
            }
            _ => None,
        };
        self.draw_time(column, event);
        let is_response = matches!(event.kind, EventKind::Applied { .. });
        if let Some(revision) = revision.filter(|revision| *revision > self.newest) {
            let mut group = Group::new("axis", "");
            let text = revision.to_string();
            group.shapes.push(Shape::Text { x, y: AXIS_HEIGHT - 12, text, class: "tick" });
            self.scene.groups.push(group);
            if is_response && self.newest > 0 && revision > self.newest + 1 {
                self.mark_other_changes(column, revision - 1);
            }
            self.newest = revision;
        }
        self.scene.data.columns.push(Column {
            x,
            title: format!("event {}, {:?}, revision {}", number + 1, event.at, self.newest),
            hash: format!("event={}", number + 1),
            revision: self.newest,
            lines: vec![printable(event.to_string().trim().as_bytes(), 4 * self.limits.text)],
            ..Column::default()
        });
    }

    /// Writes the time above a column, unless the last one is too near.
    fn draw_time(&mut self, column: usize, event: &Event) {
        let is_near = |last: usize| self.x(column) - self.x(last) < 76;
        if self.last_time.is_some_and(is_near) {
            return;
        }
        self.last_time = Some(column);
        let text = format!("{:.3} s", event.at.as_secs_f64());
        let mut group = Group::new("axis", "");
        group.shapes.push(Shape::Text { x: self.x(column), y: 18, text, class: "tick" });
        self.scene.groups.push(group);
    }

    /// Marks revisions that no request of the run has made.
    fn mark_other_changes(&mut self, column: usize, last: i64) {
        let first = self.newest + 1;
        let revisions = if first == last {
            format!("revision {last}")
        } else {
            format!("revisions {first} to {last}")
        };
        let title = format!("{revisions}: the end of a lease, or a client outside the run");
        let mut group = Group::new("other-change", title);
        let (x, y) = (self.x(column) - 7, self.y(None));
        let path = format!("M{} {y}l6 -6l6 6l-6 6z", x - 6);
        group.shapes.push(Shape::Path { path, class: "change" });
        self.scene.groups.push(group);
    }

    fn draw_event(&mut self, column: usize, event: &Event, events: &[Event]) {
        let lane = self.lane(event.process.as_deref());
        match &event.kind {
            EventKind::Sent { request, call } => {
                let Some(lane) = lane else { return };
                let lines =
                    vec![printable(event.to_string().trim().as_bytes(), 2 * self.limits.text)];
                let name = call.name();
                let sent = (self.x(column), self.y(Some(lane)));
                let store = self.y(None);
                let (process, applied, received) = (lane, None, None);
                let sent = Request { name, process, sent, store, applied, received, lines };
                self.requests.insert(*request, sent);
            }
            EventKind::Applied { request, result } => {
                let words = printable(event.kind.to_string().as_bytes(), 2 * self.limits.text);
                let x = self.x(column);
                if let Some(request) = self.requests.get_mut(request) {
                    request.applied = Some((x, result.is_ok()));
                    request.lines.push(words);
                }
            }
            EventKind::Received { request, error } => {
                let words = printable(event.kind.to_string().as_bytes(), 2 * self.limits.text);
                let x = self.x(column);
                if let Some(request) = self.requests.get_mut(request) {
                    request.received = Some((x, error.is_none()));
                    request.lines.push(words);
                }
            }
            EventKind::Watched { .. } => self.draw_watched(column, event, lane),
            EventKind::Attempt(attempt) => {
                let began = events.partition_point(|event| event.at < attempt.began).min(column);
                self.draw_attempt(began, column, event, lane);
            }
            EventKind::Fault(_)
            | EventKind::Restored { .. }
            | EventKind::Inferred(_)
            | EventKind::Note(_) => {
                self.draw_mark(column, event, lane);
            }
            EventKind::Changed(_) => {
                let mut group = Group::new("other-change", self.title(event));
                let (x, y) = (self.x(column) - 4, self.y(lane) - 4);
                group.shapes.push(Shape::Rect { x, y, width: 8, height: 8, class: "note-dot" });
                self.scene.groups.push(group);
            }
        }
    }

    fn title(&self, event: &Event) -> String {
        printable(event.to_string().trim().as_bytes(), 4 * self.limits.text)
    }

    fn draw_watched(&mut self, column: usize, event: &Event, lane: Option<usize>) {
        let Some(lane) = lane else { return };
        let mut group = Group::new("watch", self.title(event));
        let (x, top, y) = (self.x(column), self.y(None), self.y(Some(lane)));
        group
            .shapes
            .push(Shape::Path { path: format!("M{x} {top}V{}", y - 7), class: "watch-line" });
        let path = format!("M{} {}h10l-5 7z", x - 5, y - 8);
        group.shapes.push(Shape::Path { path, class: "watch-dot" });
        self.scene.groups.push(group);
    }

    fn draw_attempt(&mut self, began: usize, column: usize, event: &Event, lane: Option<usize>) {
        let EventKind::Attempt(attempt) = &event.kind else { return };
        let is_committed = matches!(attempt.end, AttemptEnd::Committed { .. });
        let class = if is_committed { "attempt" } else { "attempt failed" };
        let mut group = Group::new(class, self.title(event));
        let (left, right) = (self.x(began), self.x(column));
        let y = self.y(lane) + 12;
        let width = (right - left).max(10);
        group.shapes.push(Shape::Rect { x: left, y, width, height: 12, class: "span" });
        let text = format!("T{}", attempt.transaction);
        group.shapes.push(Shape::Text { x: left + 4, y: y + 10, text, class: "strip-label" });
        self.scene.groups.push(group);
    }

    /// Draws a fault or a note with a number, up to the limit.
    fn draw_mark(&mut self, column: usize, event: &Event, lane: Option<usize>) {
        if self.scene.marks.len() >= self.limits.faults {
            self.marks_left_out += 1;
            return;
        }
        let class = match &event.kind {
            EventKind::Note(text) if text.starts_with("FAILURE") => "failure",
            EventKind::Note(_) => "note-mark",
            _ => "fault",
        };
        let number = self.scene.marks.len() + 1;
        let title = self.title(event);
        let mut group = Group::new(class, format!("{number}: {title}"));
        let (x, y) = (self.x(column), self.y(lane));
        if class != "note-mark" {
            let path = format!("M{x} 44V{}", self.scene.height - 8);
            group.shapes.push(Shape::Path { path, class: "fault-line" });
        }
        group.shapes.push(Shape::Circle { x, y, radius: 9, class: "fault-dot" });
        let text = number.to_string();
        group.shapes.push(Shape::Text { x, y: y + 4, text, class: "number" });
        self.scene.groups.push(group);
        self.scene.marks.push((column, title));
        if class == "failure" {
            self.scene.data.first = column;
        }
    }
}
