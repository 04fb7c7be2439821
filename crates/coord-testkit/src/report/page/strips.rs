//! The strips below a bar: how long what a transaction has read was valid.
//!
//! ```text
//! revision     2         4         5
//! T2           ├───────────────────●
//! x @2 = yes   └─────────✕                 broken: overwritten before the commit
//! y @2 = yes   └─────────────────────      open: nothing has overwritten it
//! ```

use std::collections::BTreeSet;

use bytes::Bytes;

use super::super::participants::ParticipantRecord;
use super::bar::Strip;
use super::drawn::Drawn;
use super::printable;
use super::rows::Rows;
use super::scene::{Group, LEFT, Shape};
use crate::isolation::{Anomaly, EdgeKind};

/// The height of a strip, with the space below it.
const STRIP_HEIGHT: i32 = 19;

impl<'a> Rows<'a> {
    /// Draws the validity of what a participant has read.
    pub(super) fn strips(
        &mut self,
        drawn: &Drawn<'a>,
        record: &ParticipantRecord<'a>,
        anomaly: Option<&'a Anomaly>,
        last: i64,
        group: &mut Group,
    ) -> Vec<Strip<'a>> {
        let mut strips = Vec::new();
        let steps = anomaly.map_or(&[][..], |anomaly| &anomaly.steps[..]);
        let in_steps: BTreeSet<&Bytes> =
            steps.iter().filter_map(|step| step.key.as_ref()).collect();
        let mut reads: Vec<_> = drawn.attempt.reads.iter().collect();
        reads.sort_by_key(|read| !in_steps.contains(&read.key));
        let more = reads.len().saturating_sub(self.limits.reads);
        for read in reads.into_iter().take(self.limits.reads) {
            let key = printable(&read.key, self.limits.text);
            let (start, end, label) = match &read.found {
                Some((revision, value)) => {
                    let value = printable(value, self.limits.text);
                    let end = self.versions.end_of(&read.key, revision.0);
                    (revision.0, end, format!("{key} @{revision} = {value}"))
                }
                None => {
                    let (start, end) = self.versions.gap(&read.key, last - 1);
                    (start, end, format!("no {key}"))
                }
            };
            strips.push(self.strip(&read.key, start, end, label, last, group));
        }
        for step in steps {
            let is_reader = match step.kind {
                EdgeKind::PredicateReadWrite => step.from == record.participant,
                EdgeKind::PredicateWriteRead => step.to == record.participant,
                _ => false,
            };
            let Some(key) = step.key.as_ref().filter(|_| is_reader) else { continue };
            if strips.iter().any(|strip: &Strip<'_>| strip.key == key) {
                continue;
            }
            let (start, end) = match (step.before, step.after) {
                (Some(before), after) => (before.0, after.map(|after| after.0)),
                (None, Some(after)) => {
                    let (start, _) = self.versions.gap(key, after.0 - 1);
                    (start, Some(after.0))
                }
                (None, None) => self.versions.gap(key, last - 1),
            };
            let label = format!("no {} in a range", printable(key, self.limits.text));
            strips.push(self.strip(key, start, end, label, last, group));
        }
        if more > 0 {
            let text = format!("and {more} more reads");
            group.shapes.push(Shape::Text { x: LEFT, y: self.bottom + 12, text, class: "note" });
            self.bottom += STRIP_HEIGHT;
        }
        strips
    }

    fn strip(
        &mut self,
        key: &'a Bytes,
        start: i64,
        end: Option<i64>,
        label: String,
        last: i64,
        group: &mut Group,
    ) -> Strip<'a> {
        let y = self.bottom;
        // The label is readable where a strip is short, because nothing is drawn to its right.
        let left = if start == 0 { LEFT - 24 } else { self.axis.x(start) };
        let right = end.map_or_else(|| self.axis.end() + 24, |end| self.axis.x(end));
        let is_broken = end.is_some_and(|end| end < last);
        let class = match (is_broken, end) {
            (true, _) => "strip broken",
            (false, Some(_)) => "strip",
            (false, None) => "strip open",
        };
        let width = (right - left).max(6);
        group.shapes.push(Shape::Rect { x: left, y, width, height: STRIP_HEIGHT - 4, class });
        if is_broken {
            let path = format!("M{} {}l8 8m0 -8l-8 8", right - 4, y + 3);
            group.shapes.push(Shape::Path { path, class: "cross" });
        }
        let shape =
            Shape::Text { x: left + 6, y: y + 12, text: label.clone(), class: "strip-label" };
        group.shapes.push(shape);
        self.bottom += STRIP_HEIGHT;
        Strip { key, start, end, y: y + (STRIP_HEIGHT - 4) / 2, label }
    }
}
