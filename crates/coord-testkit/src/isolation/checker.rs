//! The checker: takes the events of a history, and returns the verdict.

use super::base::Base;
use super::conclude::{summarize, verdict};
use super::inferred;
use super::log::Log;
use super::options::{Engine, Values};
use super::parts::Parts;
use super::resolve::resolve;
use super::verdict::Verdict;
use crate::history::{Event, EventKind, Inference};

/// Checks events as they come.
///
/// Without a [`window`](Self::window) it keeps what it needs of each attempt, some 200 bytes for
/// three keys, and drops the rest. With a window, its memory does not grow with the number of
/// attempts.
#[derive(Debug, Default)]
#[must_use = "call `finish` for the verdict"]
pub struct Checker {
    log: Log,
    values: Values,
    engine: Engine,
    parts: Option<Box<Parts>>,
    inference: Inference,
}

impl Checker {
    /// A checker without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether values are unique. [`Values::Any`] by default.
    pub const fn values(mut self, values: Values) -> Self {
        self.values = values;
        self
    }

    /// Sets how cycles are searched for. [`Engine::Intervals`] by default.
    pub const fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Bounds the memory: forgets transactions when `window` later ones have been added. Without
    /// this setting nothing is forgotten.
    ///
    /// Events are checked in parts of four windows, of which the last window is kept. Memory
    /// then grows with the number of keys, of processes, of transactions whose numbers are not
    /// consecutive, and of commits whose outcome stays unknown, but not with the number of
    /// transactions. With a window of 8192 attempts that read two keys and write one, a check takes
    /// some 15 MB.
    ///
    /// The verdict is that of a check without a window, or [`Status::Unknown`](super::Status) for
    /// levels about which something that was forgotten, or is still to come, could decide:
    ///
    /// - an attempt has read a version that was overwritten more than a window before;
    /// - an attempt, or a change of the store, comes more than a window late: call
    ///   [`ChangeRecorder::catch_up`](crate::history::ChangeRecorder::catch_up) more often;
    /// - all cycles that were found depend on the absence of a key, which a later deletion could
    ///   explain, or on the reads or times of a commit with unknown outcome;
    /// - values are [`Values::Unique`], and an attempt that was forgotten may have put a value that
    ///   no committed transaction has put.
    ///
    /// [`Coverage::beyond_window`](super::Coverage::beyond_window) counts them. If an engine is
    /// set, it applies to histories that fit into one part.
    ///
    /// ```
    /// use coord_testkit::history::History;
    /// use coord_testkit::isolation::{Checker, Level, Status};
    ///
    /// let history = History::default();
    /// let mut checker = Checker::new().window(8192);
    /// history.0.iter().for_each(|event| checker.push(event));
    /// let verdict = checker.finish();
    /// assert_eq!(verdict.coverage().beyond_window, 0);
    /// // Nothing was recorded, so nothing is known.
    /// assert_eq!(verdict.status(Level::Serializable), Status::Unknown);
    /// ```
    pub fn window(mut self, window: usize) -> Self {
        self.parts = Some(Box::new(Parts::new(window)));
        self
    }

    /// Adds an event. Only attempts, changes of the store and inferences matter. Attempts are added
    /// in the order of their ends, changes and inferences in any order.
    pub fn push(&mut self, event: &Event) {
        if let EventKind::Inferred(inference) = &event.kind {
            inferred::add(&mut self.inference, inference);
        }
        match &mut self.parts {
            None => self.log.push(event),
            Some(parts) => parts.push(&mut self.log, event, self.values),
        }
    }

    /// The verdict about all events.
    #[must_use]
    pub fn finish(self) -> Verdict {
        let mut summary = match self.parts {
            Some(parts) if parts.has_forgotten() => parts.finish(self.log, self.values),
            _ => summarize(&resolve(self.log, Base::default(), self.values), self.engine),
        };
        inferred::conclude(&self.inference, &mut summary);
        verdict(summary)
    }
}
