//! Gaps: where a stream may have missed changes.

use std::fmt;

use crate::kv::Revision;

/// An interval of revisions in which a stream, such as [`Leaders`](crate::election::Leaders), may
/// have missed changes, and the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Up to this revision every change was yielded.
    pub after: Revision,
    /// From this revision on every change is yielded again.
    pub until: Revision,
    /// The cause.
    pub cause: GapCause,
}

impl Gap {
    /// This gap together with an earlier one that was not reported yet.
    pub(crate) fn with_earlier(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        // The revisions belong to two histories if one of the gaps is between two histories.
        let cause = match earlier.cause {
            GapCause::HistoryReplaced => earlier.cause,
            _ => self.cause,
        };
        Self { after: earlier.after, until: self.until, cause }
    }
}

/// The reason why a stream may have missed changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapCause {
    /// Events that the stream had not processed yet are compacted.
    Compacted,
    /// The history of the store was replaced: an older backup was restored, or an empty store took
    /// its place. The two revisions of the gap belong to two histories.
    HistoryReplaced,
    /// The store delivered a change after it had reported that the changes of a later revision were
    /// delivered. etcd before 3.4.25 and 3.5.8 can do that.
    OutOfOrder,
    /// The consumer of the stream has fallen behind by more changes than are kept for it. The
    /// changes are merged into one: none is missing in the result.
    Lagged,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after, until, cause } = self;
        match cause {
            GapCause::Compacted => {
                write!(f, "changes between revisions {after} and {until} may be missing: compacted")
            }
            GapCause::OutOfOrder => write!(
                f,
                "changes between revisions {after} and {until} may be missing: \
                 delivered out of order"
            ),
            GapCause::Lagged => {
                write!(f, "changes between revisions {after} and {until} are merged: read too late")
            }
            GapCause::HistoryReplaced => write!(
                f,
                "the history of the store was replaced: revision {after} of the old one, \
                 {until} of the new one"
            ),
        }
    }
}
