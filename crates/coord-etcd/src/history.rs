//! Detection of a replaced history: a store that came back with other data under the same
//! endpoints.
//!
//! A cluster that was restored from an older snapshot, or an in-memory server that was restarted,
//! continues at a lower revision. Watches of the old history would wait for revisions that now
//! belong to other changes. In one history, a linearizable response is never older than a response
//! that was received before its request was sent. If its revision is lower, the history was
//! replaced.
//!
//! ```text
//! newest revision    request            response
//!         900        put                at 901
//!         901        range              at 17      replaced: watches end, newest is 17
//!          17        range              at 18
//! ```
//!
//! A new history that has already reached the newest revision of the old one is not detected.

use std::sync::atomic::{AtomicI64, Ordering};

use coord_core::{Error, kv::Revision};

/// The newest revision of all linearizable responses to reads, writes and transactions.
#[derive(Debug, Default)]
pub(crate) struct History {
    newest: AtomicI64,
}

impl History {
    /// The newest revision received, to be read before a linearizable request is sent.
    pub(crate) fn newest(&self) -> Revision {
        Revision(self.newest.load(Ordering::Acquire))
    }

    /// Notes the revision of a linearizable response to a request that was sent when `newest` was
    /// the newest. Returns the error for all watches if it shows that the history was replaced.
    pub(crate) fn note(&self, newest: Revision, found: Revision) -> Option<Error> {
        if !self.is_replaced(newest, found) {
            return None;
        }
        tracing::warn!(%newest, %found, next = "all watches end: register them again",
            "the history of the store was replaced");
        Some(Error::HistoryReplaced { newest, found })
    }

    /// Whether a response at `found` is the first that shows another history. Its request was sent
    /// when `newest` was the newest revision.
    fn is_replaced(&self, newest: Revision, found: Revision) -> bool {
        if found >= newest {
            self.newest.fetch_max(found.0, Ordering::AcqRel);
            return false;
        }
        // Only one of several concurrent responses reports the replacement.
        let reset = |now: i64| (now >= newest.0).then_some(found.0);
        self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, reset).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_below_the_newest_is_reported_once() {
        let history = History::default();
        let at = |newest, found| history.is_replaced(Revision(newest), Revision(found));
        assert!(!at(0, 5) && !at(5, 9));
        assert!(!at(5, 7), "the request was sent before the response at 9");
        assert!(at(9, 3));
        assert!(!at(9, 4), "reported already");
        assert!(!at(3, 6));
        assert!(at(6, 1), "replaced again");
    }
}
