//! What happened, by revision: for watches that start in the past or have fallen behind.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use coord_core::kv::{EventKind, KeyValue, Revision};
use smallvec::SmallVec;

/// A change of a key, as the index and all who watch share it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: EventKind,
    /// What the key became; of a deleted key, the key and the revision alone.
    pub(crate) kv: Arc<KeyValue>,
}

/// The changes of a revision. Most have one, and all of them stay in the log.
pub(crate) type Changed = SmallVec<[Change; 1]>;

/// The changes of every revision since the last compaction, that of the compaction included.
#[derive(Debug)]
pub(crate) struct Log {
    /// The revision of the first entry. Invariant: the entries are those of consecutive revisions,
    /// the last of them the store's.
    first: Revision,
    entries: VecDeque<Changed>,
}

impl Log {
    /// The log of a store that is at `revision` and has no history.
    pub(crate) const fn new(revision: Revision) -> Self {
        Self { first: revision.next(), entries: VecDeque::new() }
    }

    /// Adds the changes of the next revision.
    pub(crate) fn push(&mut self, changes: Changed) {
        self.entries.push_back(changes);
    }

    /// The changes of a revision; none if it is not in the log.
    pub(crate) fn changes(&self, revision: Revision) -> &[Change] {
        usize::try_from(revision.0 - self.first.0)
            .ok()
            .and_then(|entry| self.entries.get(entry))
            .map_or(&[], SmallVec::as_slice)
    }

    /// Forgets the revisions before `revision`, and of that one all but the last change of a key.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while self.first < revision && self.entries.pop_front().is_some() {
            self.first = self.first.next();
        }
        if self.first == revision
            && let Some(changes) = self.entries.front_mut()
        {
            let mut seen = BTreeSet::new();
            changes.reverse();
            changes.retain(|change| seen.insert(change.kv.key.clone()));
            changes.reverse();
        }
    }

    /// The first revision from `revision` on that the log may hold.
    pub(crate) fn clamp(&self, revision: Revision) -> Revision {
        revision.max(self.first)
    }
}
