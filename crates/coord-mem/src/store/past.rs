//! What a key was, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use coord_core::kv::{KeyValue, Revision};

/// What a key became at some revision.
#[derive(Debug)]
enum Version {
    Put(Arc<KeyValue>),
    Deleted(Revision),
}

impl Version {
    fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Deleted(revision) => *revision,
        }
    }

    fn kv(&self) -> Option<&KeyValue> {
        match self {
            Self::Put(kv) => Some(kv),
            Self::Deleted(_) => None,
        }
    }
}

/// All that a key was since the last compaction, but for what it is. Compaction takes from the
/// front, with each put where history is bounded, and must not move the rest.
#[derive(Debug, Default)]
pub(super) struct Past(VecDeque<Version>);

impl Past {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key as it was at `revision`.
    pub(super) fn at(&self, revision: Revision) -> Option<&KeyValue> {
        let later = self.0.partition_point(|version| version.revision() <= revision);
        self.0.get(later.checked_sub(1)?)?.kv()
    }

    pub(super) fn push(&mut self, kv: Arc<KeyValue>) {
        if self.0.is_empty() {
            // Most keys have little past, where history is bounded.
            self.0.reserve_exact(1);
        }
        self.0.push_back(Version::Put(kv));
    }

    pub(super) fn push_deletion(&mut self, revision: Revision) {
        self.0.push_back(Version::Deleted(revision));
    }

    /// Drops what no revision from `revision` on can see.
    pub(super) fn forget(&mut self, revision: Revision) {
        // From the front, for there is little to drop, and perhaps much to keep.
        while self.0.get(1).is_some_and(|version| version.revision() <= revision) {
            self.0.pop_front();
        }
        if matches!(self.0.front(), Some(Version::Deleted(deleted)) if *deleted <= revision) {
            self.0.pop_front();
        }
    }
}
