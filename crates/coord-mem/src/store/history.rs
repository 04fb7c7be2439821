//! History of one key: its earlier versions, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use coord_core::kv::{KeyValue, Revision};

/// One version of a key: a put or a deletion.
#[derive(Clone, Debug)]
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

/// The versions of a key since the last compaction, without the current one.
///
/// The versions are in a queue, because with bounded history each put compacts: a compaction drops
/// versions at the front and must not move the others.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<Version>);

impl History {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key as it was at `revision`; `None` if it did not exist then.
    pub(super) fn kv_at(&self, revision: Revision) -> Option<&KeyValue> {
        let first_later = self.0.partition_point(|version| version.revision() <= revision);
        self.0.get(first_later.checked_sub(1)?)?.kv()
    }

    pub(super) fn push(&mut self, kv: Arc<KeyValue>) {
        if self.0.is_empty() {
            // With bounded history, most keys have few earlier versions: no spare capacity.
            self.0.reserve_exact(1);
        }
        self.0.push_back(Version::Put(kv));
    }

    pub(super) fn push_deletion(&mut self, revision: Revision) {
        self.0.push_back(Version::Deleted(revision));
    }

    /// Drops the versions that cannot be read at `revision` or later.
    pub(super) fn compact(&mut self, revision: Revision) {
        // The search begins at the front, because usually few versions are dropped and many remain.
        while self.0.get(1).is_some_and(|version| version.revision() <= revision) {
            self.0.pop_front();
        }
        if matches!(self.0.front(), Some(Version::Deleted(deleted)) if *deleted <= revision) {
            self.0.pop_front();
        }
    }
}
