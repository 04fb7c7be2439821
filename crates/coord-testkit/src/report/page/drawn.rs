//! An attempt to draw, and what all lanes share.

use crate::history::{Attempt, AttemptEnd};
use crate::isolation::Participant;

/// The height of the axis, above all lanes.
pub(super) const AXIS_HEIGHT: i32 = 46;
/// The height of the lane of the store.
pub(super) const STORE_HEIGHT: i32 = 34;

/// An attempt to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn<'a> {
    pub(super) process: &'a str,
    pub(super) attempt: &'a Attempt,
    /// The number of the participant, if it takes part in the anomaly.
    pub(super) record: Option<usize>,
}

impl Drawn<'_> {
    /// The oldest and the newest version that it has read.
    fn reads(&self) -> Option<(i64, i64)> {
        let reads = self.attempt.reads.iter().filter_map(|read| read.found.as_ref());
        let revisions = reads.map(|(revision, _)| revision.0);
        Some((revisions.clone().min()?, revisions.max()?))
    }

    /// The first and the last revision of its bar.
    pub(super) fn span(&self, commit: Option<i64>) -> (i64, i64) {
        let committed = match self.attempt.end {
            AttemptEnd::Committed { revision } => Some(revision.0),
            _ => commit,
        };
        let (oldest, newest) = self.reads().unwrap_or((i64::MAX, 0));
        let last = committed.unwrap_or(newest).max(newest);
        (oldest.min(last), last)
    }
}

/// The name of a participant for a drawing.
pub(super) fn participant_name(participant: Participant) -> String {
    match participant {
        Participant::Transaction(number) => format!("T{number}"),
        Participant::Change(revision) => format!("change {revision}"),
    }
}
