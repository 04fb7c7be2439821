//! Watches that nobody needs for the moment, kept for the next who wants the same.
//!
//! Where many contend for one lock, everybody waits for the same neighbour again and again. To
//! register a watch each time and cancel it afterwards would be more than half of the work, and
//! whatever is written before the registration would cost a look besides. So a waiter that has been
//! served leaves its watch here, and if it is back within a moment, it finds it standing.
//!
//! Events pile up in a watch that nobody reads, hence *a moment*: the session's keeper clears away
//! what has lain here for longer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::kv::Watch;

/// How long a watch is kept.
const KEPT: Duration = Duration::from_millis(250);

/// Watches of the deletion of single keys.
#[derive(Default)]
pub(super) struct Shelf {
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    watches: BTreeMap<Bytes, (Instant, Watch)>,
    /// Whether the keeper comes by.
    attended: bool,
}

impl Shelf {
    /// Takes the watch of a key, if there is one.
    pub(super) fn take(&self, key: &Bytes) -> Option<Watch> {
        let (_, watch) = self.content().watches.remove(key)?;
        Some(watch)
    }

    /// Keeps a watch for a moment. Whether the keeper has to be told.
    pub(super) fn put(&self, key: Bytes, watch: Watch) -> bool {
        let mut content = self.content();
        content.watches.insert(key, (Instant::now(), watch));
        !std::mem::replace(&mut content.attended, true)
    }

    /// Clears away what has been here for too long. When to come by again; `None` if nothing is
    /// left, and then the keeper has to be told of the next.
    pub(super) fn clear(&self) -> Option<Instant> {
        let mut content = self.content();
        content.watches.retain(|_, (since, _)| since.elapsed() < KEPT);
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
