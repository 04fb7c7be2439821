//! Drawings: shapes in groups, which the template writes as SVG.
//!
//! ```text
//! scene   columns    1        4        5       (places on the axis: revisions, or events)
//!         groups     bar of T1, with its title and its shapes
//!                    edge 1, with its number
//! ```
//!
//! A group has a title, which a browser shows as a tooltip, and which a screen reader speaks. All
//! texts are escaped by the template. Coordinates are pixels.

use std::ops::RangeInclusive;

use serde::Serialize;

/// The width that a drawing takes if it can.
const WIDTH: i32 = 1180;
/// Where the first column is: to the right of the names of the lanes.
pub(super) const LEFT: i32 = 150;
/// The space behind the last column, for what its commits have written.
pub(super) const RIGHT: i32 = 220;

/// The least distance of two columns of revisions.
const STEP_MIN: i32 = 34;
/// The least distance in the part of the axis that the anomaly is about.
const STEP_FOCUSED: i32 = 130;
/// How many columns can be that far apart.
const FOCUSED_MAX: usize = 24;

/// A shape.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Rect { x: i32, y: i32, width: i32, height: i32, class: &'static str },
    Circle { x: i32, y: i32, radius: i32, class: &'static str },
    Path { path: String, class: &'static str },
    Text { x: i32, y: i32, text: String, class: &'static str },
}

/// Shapes that belong together.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// The classes, such as `bar participant-1`.
    pub(super) class: String,
    /// What the group shows.
    pub(super) title: String,
    pub(super) shapes: Vec<Shape>,
}

impl Group {
    pub(super) fn new(class: impl Into<String>, title: impl Into<String>) -> Self {
        Self { class: class.into(), title: title.into(), shapes: Vec::new() }
    }
}

/// The version of a key in a column: its number in [`Data::keys`], its mod revision, and its value;
/// `None` if the key was deleted.
pub(super) type ShownVersion = (usize, i64, Option<String>);

/// A place on the axis, as the script of the page reads it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Column {
    pub(super) x: i32,
    /// What the column is called above the state of the store.
    pub(super) title: String,
    /// The part of the address that leads to the column, such as `rev=4`.
    pub(super) hash: String,
    /// The revision of the store.
    pub(super) revision: i64,
    /// What happened here.
    pub(super) lines: Vec<String>,
    /// The keys that have changed since the column before.
    pub(super) changes: Vec<ShownVersion>,
}

/// What the script of the page reads.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Data {
    pub(super) columns: Vec<Column>,
    pub(super) keys: Vec<String>,
    /// How many keys are left out.
    pub(super) keys_left_out: usize,
    /// The column that is shown first.
    pub(super) first: usize,
}

/// A drawing.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    pub(super) width: i32,
    pub(super) height: i32,
    /// What the drawing shows, for readers who do not see it.
    pub(super) description: String,
    pub(super) groups: Vec<Group>,
    /// Faults and notes with numbers, as they are listed below the drawing: the column and the
    /// text.
    pub(super) marks: Vec<(usize, String)>,
    /// What is counted instead of drawn.
    pub(super) left_out: Vec<String>,
    pub(super) data: Data,
}

/// The places of revisions on the axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// The revisions that have a column, in order.
    pub(super) revisions: Vec<i64>,
    /// The place of each of them.
    places: Vec<i32>,
}

impl Axis {
    /// An axis with these revisions, in order and without duplicates. Those in `focus` have columns
    /// wide enough for texts, unless there are many.
    pub(super) fn new(revisions: Vec<i64>, focus: &RangeInclusive<i64>) -> Self {
        let step = column_step(revisions.len(), STEP_MIN, 270);
        let focused = revisions.iter().filter(|revision| focus.contains(revision)).count();
        let wide = if focused <= FOCUSED_MAX { step.max(STEP_FOCUSED) } else { step };
        let mut next = LEFT;
        let places = revisions.iter().map(|revision| {
            let place = next;
            next += if focus.contains(revision) { wide } else { step };
            place
        });
        let places = places.collect();
        Self { revisions, places }
    }

    /// The place of a revision. One without a column is shortly before the next column.
    pub(super) fn x(&self, revision: i64) -> i32 {
        match self.revisions.binary_search(&revision) {
            Ok(column) => self.places[column],
            Err(next) => {
                self.places.get(next).map_or_else(|| self.last(), |place| *place) - STEP_MIN / 2
            }
        }
    }

    fn last(&self) -> i32 {
        self.places.last().copied().unwrap_or(LEFT) + STEP_MIN
    }

    /// The width of a drawing with this axis.
    pub(super) fn width(&self) -> i32 {
        self.end() + RIGHT - 36
    }

    /// The end of the axis. A strip without an end stops shortly after it.
    pub(super) fn end(&self) -> i32 {
        self.last() + 2
    }
}

/// The distance of two columns, if there are `count`.
pub(super) fn column_step(count: usize, min: i32, max: i32) -> i32 {
    let between = to_i32(count.saturating_sub(1)).max(1);
    ((WIDTH - LEFT - RIGHT) / between).clamp(min, max)
}

/// A number of pixels. The limits of a page keep it small.
pub(super) fn to_i32(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX / 1024)
}

/// An arrow between two points, bowed so that vertical arrows of one column stay apart. Returns the
/// path and the middle of the arrow.
pub(super) fn arrow(from: (i32, i32), to: (i32, i32), bow: i32) -> (String, (i32, i32)) {
    let middle = (i32::midpoint(from.0, to.0) + bow, i32::midpoint(from.1, to.1));
    let path = format!("M{} {}Q{} {} {} {}", from.0, from.1, middle.0, middle.1, to.0, to.1);
    // The middle of a quadratic curve is half-way between its chord and its control point.
    (path, (middle.0 - bow / 2, middle.1))
}
