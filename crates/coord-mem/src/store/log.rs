//! What happened, by revision: for watches that start in the past or have fallen behind.

use std::collections::VecDeque;

use coord_core::{Event, Revision};

/// The changes of every revision since the last compaction, that of the compaction included.
#[derive(Debug)]
pub(crate) struct Log {
    /// The revision of the first entry. Invariant: the entries are those of consecutive revisions,
    /// the last of them the store's.
    first: Revision,
    entries: VecDeque<Vec<Event>>,
}

impl Log {
    /// The log of a store that is at `revision` and has no history.
    pub(crate) const fn new(revision: Revision) -> Self {
        Self { first: revision.next(), entries: VecDeque::new() }
    }

    /// Adds the changes of the next revision.
    pub(crate) fn push(&mut self, events: Vec<Event>) {
        self.entries.push_back(events);
    }

    /// The changes of a revision; none if it is not in the log.
    pub(crate) fn events(&self, revision: Revision) -> &[Event] {
        usize::try_from(revision.0 - self.first.0)
            .ok()
            .and_then(|entry| self.entries.get(entry))
            .map_or(&[], Vec::as_slice)
    }

    /// Forgets the revisions before `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while self.first < revision && self.entries.pop_front().is_some() {
            self.first = self.first.next();
        }
    }

    /// The first revision from `revision` on that the log may hold.
    pub(crate) fn clamp(&self, revision: Revision) -> Revision {
        revision.max(self.first)
    }
}
