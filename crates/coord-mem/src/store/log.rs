//! Change log: the changes of every revision, for watches that start at a past revision or have to
//! catch up.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use coord_core::kv::{EventKind, KeyValue, Revision};
use smallvec::SmallVec;

/// One change of a key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) kind: EventKind,
    /// The new version of the key, shared with the index. For a deletion: only the key and the
    /// revision.
    pub(crate) kv: Arc<KeyValue>,
}

/// The changes of one revision. Most revisions have one change, which is stored inline.
pub(crate) type RevisionChanges = SmallVec<[Change; 1]>;

/// The changes of every revision from the last compaction on, that revision included.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The revision of the first entry. Invariant: entries have consecutive revisions, and the last
    /// entry is the store's current revision.
    first: Revision,
    entries: VecDeque<RevisionChanges>,
}

impl Log {
    /// An empty log for a store at `revision`.
    pub(crate) const fn new(revision: Revision) -> Self {
        Self { first: revision.next(), entries: VecDeque::new() }
    }

    /// Appends the changes of the next revision.
    pub(crate) fn push(&mut self, changes: RevisionChanges) {
        self.entries.push_back(changes);
    }

    /// The changes of a revision; empty if the log does not contain the revision.
    pub(crate) fn changes(&self, revision: Revision) -> &[Change] {
        usize::try_from(revision.0 - self.first.0)
            .ok()
            .and_then(|entry| self.entries.get(entry))
            .map_or(&[], SmallVec::as_slice)
    }

    /// Drops all revisions before `revision`, and of `revision` itself all but each key's last
    /// change.
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

    /// The first revision at or after `revision` that the log can contain.
    pub(crate) fn clamp(&self, revision: Revision) -> Revision {
        revision.max(self.first)
    }
}
