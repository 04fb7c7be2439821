//! Histories: what happened in one run, one event per line.
//!
//! ```text
//!     0.001 s  a        -> #1 txn if 1 then 1 else 0
//!     0.002 s  a        == #1 applied at revision 2
//!     0.003 s  a        <- #1 ok
//!     0.003 s  -        !! b, when it sends a request: paused for 2 s
//! ```

mod changes;
pub mod formats;
mod inference;
mod recorder;
mod transactions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord_core::kv::Revision;

use crate::Call;
pub use changes::ChangeRecorder;
pub use inference::{Contradiction, ContradictionKind, Inference};
pub use recorder::{HistoryRecorder, ProcessRecorder};
pub use transactions::{Attempt, AttemptEnd, KeyRead, KeyWrite, RangeRead, StoreChange};

/// The kind of an event, with its details.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// A process sent a request.
    Sent {
        /// The number of the request in the run, from 1.
        request: u64,
        /// The request.
        call: Call,
    },
    /// The store processed a request.
    Applied {
        /// The number of the request.
        request: u64,
        /// The revision in the header of the response, or the error.
        result: Result<Revision, String>,
    },
    /// A process received the response to a request.
    Received {
        /// The number of the request.
        request: u64,
        /// The error, if the response is one.
        error: Option<String>,
    },
    /// A process received a batch of a watch.
    Watched {
        /// The revision of the batch.
        revision: Revision,
        /// The number of its events; 0 in a progress notification.
        events: usize,
    },
    /// An attempt of a transaction has ended.
    Attempt(Box<Attempt>),
    /// The store has changed keys. The time of the event is when that was recorded, not when it
    /// happened.
    Changed(StoreChange),
    /// What the reader of a history without revisions has inferred about all its transactions.
    Inferred(Inference),
    /// The test restored the store from a backup.
    Restored {
        /// The revision of the store before.
        newest: Revision,
        /// The revision of the backup.
        found: Revision,
    },
    /// A fault was injected.
    Fault(String),
    /// A note of the test, of an oracle, or of the simulator.
    Note(String),
}

/// One event of a history.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The time since the start of the run or of the recording.
    pub at: Duration,
    /// The process; `None` for changes of the store, its faults and its restoration, for
    /// deviations, for inferences, and for all notes except on a timeout, on the end of a process
    /// or of its watch, and, in a history from a file, on a request.
    pub process: Option<Arc<str>>,
    /// What happened.
    pub kind: EventKind,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.process.as_deref().unwrap_or("-");
        write!(f, "{:9.3} s  {process:8} {}", self.at.as_secs_f64(), self.kind)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { request, call } => write!(f, "-> #{request} {call}"),
            Self::Applied { request, result: Ok(revision) } => {
                write!(f, "== #{request} applied at revision {revision}")
            }
            Self::Applied { request, result: Err(error) } => {
                write!(f, "== #{request} rejected: {error}")
            }
            Self::Received { request, error: None } => write!(f, "<- #{request} ok"),
            Self::Received { request, error: Some(error) } => {
                write!(f, "<- #{request} {error}")
            }
            Self::Watched { revision, events: 0 } => {
                write!(f, "<~ progress to revision {revision}")
            }
            Self::Watched { revision, events } => {
                write!(f, "<~ {events} event(s) of revision {revision}")
            }
            Self::Restored { newest, found } => {
                write!(
                    f,
                    "!! the store was at revision {newest}, restored from a backup at {found}"
                )
            }
            Self::Attempt(attempt) => write!(f, "tx {attempt}"),
            Self::Changed(change) => write!(f, "## {change}"),
            Self::Inferred(inference) => write!(f, "?? {inference}"),
            Self::Fault(text) => write!(f, "!! {text}"),
            Self::Note(text) => write!(f, "   {text}"),
        }
    }
}

/// The events of one run, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(pub Vec<Event>);

impl History {
    /// Returns the first event that differs between two histories: its number, counted from 0, and
    /// the event on each side, `None` where a history has ended. `None` if the histories are equal.
    #[must_use]
    pub fn first_difference<'a>(
        &'a self,
        other: &'a Self,
    ) -> Option<(usize, Option<&'a Event>, Option<&'a Event>)> {
        let longest = self.0.len().max(other.0.len());
        let mut pairs = (0..longest).map(|i| (i, self.0.get(i), other.0.get(i)));
        pairs.find(|(_, ours, theirs)| ours != theirs)
    }

    /// Describes how two histories differ: how many events are equal, then up to `lines` events of
    /// each history from the first difference on, marked `<` for `self` and `>` for `other`.
    #[must_use]
    pub fn diff(&self, other: &Self, lines: usize) -> String {
        let Some((first, ..)) = self.first_difference(other) else {
            return format!("the histories are equal: {} events", self.0.len());
        };
        let mut text = format!("{first} equal events, then:\n");
        for (mark, history) in [('<', self), ('>', other)] {
            for event in history.0.iter().skip(first).take(lines) {
                text.push_str(&format!("{mark} {event}\n"));
            }
        }
        text
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}
