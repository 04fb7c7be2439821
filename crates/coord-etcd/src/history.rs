//! Noticing that the history of the store was replaced.
//!
//! A cluster that was restored from an older snapshot, or a server in memory that was started
//! again, continues at a lower revision. Watches of the old history would wait for revisions that
//! mean something else now. A linearizable response is never older than one that was received
//! before its request was sent; if its revision is lower, it comes from another history.
//!
//! ```text
//! newest seen        request            response
//!         900        put                at 901
//!         901        range              at 17      replaced: watches end, newest is 17
//!          17        range              at 18
//! ```
//!
//! A history that has already grown beyond the old one is not noticed here.

use std::sync::atomic::{AtomicI64, Ordering};

use coord_core::{
    Error, Result,
    kv::{Header, Revision},
};

/// The newest revision that a linearizable response had.
#[derive(Debug, Default)]
pub(crate) struct History {
    newest: AtomicI64,
}

impl History {
    /// Makes a linearizable call; `replaced` is called with an error if its response shows that the
    /// history was replaced.
    pub(crate) async fn follow<T>(
        &self,
        call: impl Future<Output = Result<T>> + Send,
        header: impl Fn(&T) -> Header + Send,
        replaced: impl FnOnce(Error) + Send,
    ) -> Result<T> {
        let newest = Revision(self.newest.load(Ordering::Acquire));
        let answer = call.await?;
        let found = header(&answer).revision;
        if self.is_replaced(newest, found) {
            tracing::warn!(%newest, %found, next = "watches end, to be registered anew",
                "the history of the store was replaced");
            replaced(Error::HistoryReplaced { newest, found });
        }
        Ok(answer)
    }

    /// Whether a response at `found`, to a request that was sent when `newest` had been seen, is
    /// the first one that shows another history.
    fn is_replaced(&self, newest: Revision, found: Revision) -> bool {
        if found >= newest {
            self.newest.fetch_max(found.0, Ordering::AcqRel);
            return false;
        }
        // Of several responses under way, one reports it.
        let reset = |now: i64| (now >= newest.0).then_some(found.0);
        self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, reset).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_revision_than_before_the_request_is_reported_once() {
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
