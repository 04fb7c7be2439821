//! Watches that nobody needs for the moment, kept for the next who wants the same.
//!
//! Where many contend for one lock, everybody waits for the same neighbour again and again. To
//! register a watch each time and cancel it afterwards would be more than half of the work, and
//! whatever is written before the registration would cost a look besides. So a waiter that has been
//! served leaves its watch here, and if it is back within a moment, it finds it standing.
//!
//! What lies here also tells a newcomer who is probably the last in the line, which in a long line
//! is cheaper to ask than to find.
//!
//! Events pile up in a watch that nobody reads, hence *a moment*: the session's keeper clears away
//! what has lain here for longer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::kv::{KeyRange, Revision, Watch};

/// How long a watch is kept.
const KEPT: Duration = Duration::from_millis(250);

/// Watches of the deletion of single keys.
#[derive(Default)]
pub(super) struct Shelf {
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    watches: BTreeMap<Bytes, Shelved>,
    /// Whether the keeper comes by.
    attended: bool,
}

struct Shelved {
    since: Instant,
    watch: Watch,
    /// What happened up to then it may have told already.
    told: Revision,
    in_crowd: bool,
}

impl Shelf {
    /// Takes the watch of a key, if there is one that still tells all that comes after `looked`.
    pub(super) fn take(&self, key: &Bytes, looked: Revision) -> Option<Watch> {
        let mut content = self.content();
        let tells_all = content.watches.get(key)?.told <= looked;
        tells_all.then(|| content.watches.remove(key))?.map(|shelved| shelved.watch)
    }

    /// Keeps the watch of a key for a moment, which has told nothing newer than `told`, and whether
    /// many were before that key. Whether the keeper has to be told.
    pub(super) fn put(&self, key: Bytes, watch: Watch, told: Revision, in_crowd: bool) -> bool {
        let mut content = self.content();
        content.watches.insert(key, Shelved { since: Instant::now(), watch, told, in_crowd });
        !std::mem::replace(&mut content.attended, true)
    }

    /// The key whose watch was put here last, of those in a range that had many before them.
    pub(super) fn last_in_crowd(&self, keys: &KeyRange) -> Option<Bytes> {
        let content = self.content();
        let from_start = content.watches.range::<Bytes, _>(keys.start()..);
        let in_range = from_start.take_while(|(key, _)| keys.contains(key));
        let in_crowd = in_range.filter(|(_, shelved)| shelved.in_crowd);
        in_crowd.max_by_key(|(_, shelved)| shelved.since).map(|(key, _)| key.clone())
    }

    /// Clears away what has been here for too long. When to come by again; `None` if nothing is
    /// left, and then the keeper has to be told of the next.
    pub(super) fn clear(&self) -> Option<Instant> {
        let mut content = self.content();
        content.watches.retain(|_, shelved| shelved.since.elapsed() < KEPT);
        content.attended = !content.watches.is_empty();
        content.attended.then(|| Instant::now() + KEPT)
    }

    /// Throws everything away.
    pub(super) fn empty(&self) {
        self.content().watches.clear();
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = self.content();
        f.debug_struct("Shelf").field("keys", &content.watches.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures_core::Stream;

    use super::*;
    use crate::error::Result;
    use crate::kv::{Header, WatchBatch, WatchStream};

    /// A watch to which nothing is told.
    struct Silence;

    impl Stream for Silence {
        type Item = Result<WatchBatch>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Pending
        }
    }

    impl WatchStream for Silence {
        fn request_progress(self: Pin<&mut Self>) {}
    }

    #[tokio::test(start_paused = true)]
    async fn last_in_crowd_is_the_newest_of_the_range_that_had_many_before_it() {
        let shelf = Shelf::default();
        let last = || shelf.last_in_crowd(&KeyRange::prefix("m/"));
        assert_eq!(last(), None);
        for (key, in_crowd) in
            [("l/0", true), ("m/2", true), ("m/1", true), ("m/3", false), ("n/4", true)]
        {
            let watch = Watch::new(Header::default(), Silence);
            shelf.put(Bytes::from_static(key.as_bytes()), watch, Revision(7), in_crowd);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(last(), Some("m/1".into()));
        assert!(shelf.take(&"m/1".into(), Revision(6)).is_none(), "it has told what I missed");
        assert!(shelf.take(&"m/1".into(), Revision(7)).is_some());
        assert_eq!(last(), Some("m/2".into()));
    }
}
