//! Detection of a replaced history.
//!
//! A cluster that was restored from an older snapshot, or an in-memory server that was restarted,
//! continues at a lower revision. Watches of the old history would wait for revisions that have
//! another meaning now. A linearizable response is never older than one that was received before
//! its request was sent. If its revision is lower, it comes from another history.
//!
//! ```text
//! newest seen        request            response
//!         900        put                at 901
//!         901        range              at 17      replaced: watches end, newest is 17
//!          17        range              at 18
//! ```
//!
//! A history that has already grown beyond the old one is not detected here.

use std::sync::atomic::{AtomicI64, Ordering};

use coord_core::{Error, kv::Revision};

/// The newest revision of any linearizable response.
#[derive(Debug, Default)]
pub(crate) struct History {
    newest: AtomicI64,
}

impl History {
    /// The newest revision seen, to be read before a linearizable request is sent.
    pub(crate) fn newest(&self) -> Revision {
        Revision(self.newest.load(Ordering::Acquire))
    }

    /// Notes the revision of a linearizable response to a request that was sent when `newest` was
    /// the newest. Returns the error for all watches if it shows that the history was replaced.
    pub(crate) fn note(&self, newest: Revision, found: Revision) -> Option<Error> {
        if !self.is_replaced(newest, found) {
            return None;
        }
        tracing::warn!(%newest, %found, next = "watches end, to be registered anew",
            "the history of the store was replaced");
        Some(Error::HistoryReplaced { newest, found })
    }

    /// Whether a response at `found`, to a request that was sent when `newest` was the newest
    /// revision, is the first one that shows another history.
    fn is_replaced(&self, newest: Revision, found: Revision) -> bool {
        if found >= newest {
            self.newest.fetch_max(found.0, Ordering::AcqRel);
            return false;
        }
        // Of several concurrent responses, one reports it.
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
        assert!(!at(5, 7), "sent before 9 was seen");
        assert!(at(9, 3));
        assert!(!at(9, 4), "reported already");
        assert!(!at(3, 6));
        assert!(at(6, 1), "replaced again");
    }
}
