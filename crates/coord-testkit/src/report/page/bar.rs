//! The bar of a participant, with its strips: what is drawn of it, and the lines about it.

use bytes::Bytes;

use super::super::participants::{Write, WriteEffect};
use super::{Limits, printable};

/// A participant of the anomaly that is drawn.
#[derive(Clone, Debug)]
pub(super) struct Bar<'a> {
    pub(super) record: Option<usize>,
    pub(super) name: String,
    pub(super) first: i64,
    pub(super) last: i64,
    /// The middle of the bar.
    pub(super) y: i32,
    pub(super) strips: Vec<Strip<'a>>,
    pub(super) writes: Vec<Write<'a>>,
    pub(super) end: String,
}

impl Bar<'_> {
    /// What happens in the columns, by revision.
    pub(super) fn lines(&self, limits: &Limits) -> Vec<(i64, String)> {
        let mut lines = Vec::new();
        let writes: Vec<String> =
            self.writes.iter().take(limits.reads).map(|write| action(write, limits)).collect();
        let writes =
            if writes.is_empty() { String::new() } else { format!(": {}", writes.join(", ")) };
        lines.push((self.last, format!("{}, {}{writes}", self.name, self.end)));
        for strip in &self.strips {
            lines.push((strip.start, format!("{} has read {}", self.name, strip.label)));
            if let Some(end) = strip.end {
                let line = format!("overwritten: {}, which {} has read", strip.label, self.name);
                lines.push((end, line));
            }
        }
        lines
    }
}

/// The validity of something that was read.
#[derive(Clone, Debug)]
pub(super) struct Strip<'a> {
    pub(super) key: &'a Bytes,
    pub(super) start: i64,
    /// The revision that has ended it.
    pub(super) end: Option<i64>,
    pub(super) y: i32,
    pub(super) label: String,
}

/// What a write does, in short.
pub(super) fn action(write: &Write<'_>, limits: &Limits) -> String {
    let key = printable(write.key, limits.text);
    match write.effect {
        WriteEffect::Put(value) => format!("put {key} = {}", printable(value, limits.text)),
        WriteEffect::Delete => format!("delete {key}"),
        WriteEffect::Unknown => format!("change {key}"),
    }
}
