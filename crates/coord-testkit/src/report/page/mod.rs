//! The page of a report: one file for a browser, with everything that it needs.
//!
//! The drawing is SVG, made here and written by a template, which escapes every text. A script in
//! the page moves along the axis, shows the state of the store there, and keeps the place in the
//! address. Without the script the page still has the drawing, the lists and the text.
//!
//! # Size
//!
//! The page has at most [`BYTES_MAX`] bytes, unless an anomaly has hundreds of transactions, which
//! always stay. It is made with the limits of the first row, and as long as it is too large, with
//! those of the next:
//!
//! ```text
//! attempts   events   keys   characters of a key or value
//! 160        400      60     48
//! 80         200      30     24
//! ...
//! ```

mod bar;
mod drawn;
mod edges;
mod events;
mod messages;
mod revisions;
mod rows;
mod scene;
mod state;
mod strips;

use askama::Template;

use super::Report;
use super::orders::{missing_guards, serial_orders};
use super::participants::records;
use super::text::{STATUSES, coverage, heading};
use super::words::{edge, finding, refuted_by};
use crate::isolation::{Anomaly, Level, Status};
use scene::{Scene, Shape};

/// The size of the largest page.
const BYTES_MAX: usize = 300_000;

/// How much a page shows.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Attempts that are not of the anomaly.
    attempts: usize,
    columns: usize,
    events: usize,
    faults: usize,
    keys: usize,
    lanes: usize,
    /// Reads and writes of one attempt.
    reads: usize,
    /// Characters of a key or a value.
    text: usize,
    /// Bytes of the report as text.
    report: usize,
}

impl Limits {
    const fn new() -> Self {
        Self {
            attempts: 160,
            columns: 200,
            events: 400,
            faults: 60,
            keys: 60,
            lanes: 16,
            reads: 12,
            text: 48,
            report: 60_000,
        }
    }

    /// Half of everything.
    fn halved(self) -> Self {
        Self {
            attempts: self.attempts / 2,
            columns: (self.columns / 2).max(8),
            events: (self.events / 2).max(20),
            faults: (self.faults / 2).max(4),
            keys: (self.keys / 2).max(4),
            lanes: (self.lanes / 2).max(4),
            reads: (self.reads / 2).max(2),
            text: (self.text / 2).max(12),
            report: self.report / 2,
        }
    }
}

/// A level, as the page shows it.
#[derive(Debug)]
struct LevelMark {
    name: String,
    status: &'static str,
    class: &'static str,
}

/// An edge in the list below the drawing.
#[derive(Debug)]
struct EdgeLine {
    number: usize,
    ends: String,
    kind: String,
    words: String,
}

#[derive(Debug, Template)]
#[template(path = "report.html")]
struct Page<'a> {
    title: &'a str,
    status: &'static str,
    levels: Vec<LevelMark>,
    coverage: String,
    heading: String,
    finding: String,
    scene: &'a Scene,
    edges: Vec<EdgeLine>,
    orders: String,
    guards: String,
    others: usize,
    text: String,
    has_verdict: bool,
    /// Whether transactions that are not of the anomaly are drawn.
    has_others: bool,
    /// JSON in which no character has a meaning in HTML.
    data: String,
}

/// The page of a report.
pub(super) fn page(report: &Report<'_>) -> String {
    let mut limits = Limits::new();
    let text = report.to_string();
    loop {
        let page = render(report, &text, &limits);
        if page.len() <= BYTES_MAX || limits.report < 1000 {
            return page;
        }
        limits = limits.halved();
    }
}

fn render(report: &Report<'_>, text: &str, limits: &Limits) -> String {
    let anomaly = shown(report);
    let mut scene = match report.verdict {
        Some(_) => revisions::draw(report.history, anomaly, limits),
        None => events::draw(report.history, limits),
    };
    let heading = anomaly.zip(report.verdict).map(|(anomaly, verdict)| heading(anomaly, verdict));
    let heading = heading.unwrap_or_default();
    scene.description.push_str(&heading);
    let records = anomaly.map_or_else(Vec::new, |anomaly| records(report.history, anomaly));
    let steps = anomaly.map_or(&[][..], |anomaly| &anomaly.steps[..]);
    let edges = steps.iter().enumerate().map(|(number, step)| EdgeLine {
        number: number + 1,
        ends: format!("{} → {}", step.from, step.to),
        kind: step.kind.to_string(),
        words: edge(step, &records),
    });
    let lines = |text: String| {
        let lines = text.lines().skip(1).map(|line| line.strip_prefix("    ").unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n")
    };
    let is_finding = |anomaly: &&Anomaly| anomaly.steps.is_empty();
    let page = Page {
        title: &match report.verdict {
            Some(_) => report.headline(),
            None => format!("Timeline: {} events", report.history.0.len()),
        },
        status: match (report.verdict, report.status()) {
            (None, _) => "timeline",
            (_, Status::Not | Status::AlsoNot) => "refuted",
            (_, Status::Holds) => "holds",
            (_, Status::Unknown) => "unknown",
        },
        levels: levels(report),
        coverage: report.verdict.map_or_else(String::new, |verdict| coverage(verdict.coverage())),
        heading,
        finding: anomaly.filter(is_finding).map_or_else(String::new, finding),
        edges: edges.take(64).collect(),
        orders: anomaly.map_or_else(String::new, |anomaly| lines(serial_orders(anomaly, &records))),
        guards: anomaly.map_or_else(String::new, |anomaly| {
            lines(missing_guards(report.history, anomaly, &records))
        }),
        others: report.verdict.map_or(0, |verdict| verdict.anomalies().len().saturating_sub(1)),
        text: shortened(text, limits.report),
        has_verdict: report.verdict.is_some(),
        has_others: scene.groups.iter().any(|group| group.class == "other"),
        data: data(&scene),
        scene: &scene,
    };
    // A template of this crate can fail only where a `Display` fails, and those of strings do not.
    page.render().unwrap_or_else(|error| format!("the page cannot be written: {error}"))
}

/// The anomaly that is drawn: the first that refutes the level of the report, or else the first.
fn shown<'a>(report: &Report<'a>) -> Option<&'a Anomaly> {
    let anomalies = report.verdict?.anomalies();
    let refutes = |anomaly: &&Anomaly| {
        let level = report.level?;
        Some(refuted_by(anomaly).iter().any(|weaker| level.implies(*weaker)))
    };
    anomalies.iter().find(|anomaly| refutes(anomaly) == Some(true)).or_else(|| anomalies.first())
}

fn levels(report: &Report<'_>) -> Vec<LevelMark> {
    let levels = report.verdict.into_iter().flat_map(|verdict| verdict.levels());
    let mark = |(level, status): (Level, Status)| LevelMark {
        name: level.to_string(),
        status: STATUSES.iter().find(|(_, other)| *other == status).map_or("", |(name, _)| name),
        class: match status {
            Status::Holds => "holds",
            Status::Unknown => "unknown",
            Status::Not | Status::AlsoNot => "refuted",
        },
    };
    levels.map(mark).collect()
}

/// The first lines of a text, up to a number of bytes.
fn shortened(text: &str, bytes: usize) -> String {
    let mut shown = String::new();
    let mut lines = text.lines();
    for line in lines.by_ref() {
        let line = printable(line.as_bytes(), bytes);
        if shown.len() + line.len() > bytes {
            let left_out = 1 + lines.count();
            shown.push_str(&format!("... {left_out} more lines"));
            break;
        }
        shown.push_str(&line);
        shown.push('\n');
    }
    shown
}

/// The data of the script as JSON. The characters that could end the script are escaped.
fn data(scene: &Scene) -> String {
    let json = serde_json::to_string(&scene.data).unwrap_or_else(|error| format!("\"{error}\""));
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

/// A text of any bytes, of which at most `max` characters are shown. Letters of all scripts stay as
/// they are; characters that are not visible, or that reorder a line, are escaped.
fn printable(bytes: &[u8], max: usize) -> String {
    let visible = |character: char| match character {
        '"' | '\'' | '\\' => character.to_string(),
        _ => character.escape_debug().to_string(),
    };
    let mut pieces = bytes.utf8_chunks().flat_map(|chunk| {
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        chunk.valid().chars().map(visible).chain(invalid)
    });
    let mut text: String = pieces.by_ref().take(max).collect();
    if pieces.next().is_some() {
        text.push('…');
    }
    text
}
