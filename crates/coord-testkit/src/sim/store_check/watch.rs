//! The check of one watch: what it delivers to its process, in comparison with a second watch of
//! the same keys, directly at the store.
//!
//! ```text
//! at the store    5    7    9                the batches that must be delivered
//! delivered       5    7    (7)  9           correct; (7) is a progress notification after 7
//! delivered       5    9                     7 was skipped
//! delivered       5    5                     5 was repeated
//! delivered       5    (7)                   wrong unless 7 was delivered before
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use coord_core::Result;
use coord_core::kv::{Event, EventKind, KeyValue, Revision, WatchBatch, WatchStream, Watcher};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::task::coop::unconstrained;

use super::{StoreCheck, WATCH};

/// A watch of a process, which checks each batch.
pub(super) struct CheckedWatch {
    watch: Watcher,
    /// The same watch directly at the store; `None` when there is nothing to compare with any more.
    expected: Option<Watcher>,
    /// The next batch that must be delivered, if it was read already.
    next: Option<WatchBatch>,
    /// The revision up to which everything was delivered.
    delivered: Revision,
    check: Arc<StoreCheck>,
    process: Arc<str>,
}

impl CheckedWatch {
    pub(super) fn new(
        watch: Watcher,
        expected: Option<Watcher>,
        check: Arc<StoreCheck>,
        process: Arc<str>,
    ) -> Self {
        Self { watch, expected, next: None, delivered: Revision::ZERO, check, process }
    }

    /// Reads the next batch that must be delivered, if there is one.
    fn read_expected(&mut self) {
        if self.next.is_some() {
            return;
        }
        let Some(expected) = &mut self.expected else { return };
        // The store adds the events of a revision before any response shows that revision.
        match unconstrained(expected.next()).now_or_never() {
            Some(Some(Ok(batch))) => self.next = Some(batch),
            Some(Some(Err(_)) | None) => self.expected = None,
            None => {}
        }
    }

    /// Compares a batch that was delivered with the next one that must be.
    fn check(&mut self, batch: &WatchBatch) {
        self.read_expected();
        if self.expected.is_none() && self.next.is_none() {
            return;
        }
        let WatchBatch { revision, events } = batch;
        let expected = self.next.as_ref().map(|next| next.revision);
        let is_progress = events.is_empty();
        let skipped =
            expected.filter(|next| *next < *revision || (is_progress && *next == *revision));
        let text = match (skipped, &self.next) {
            (Some(skipped), _) => Some(format!("skipped the events of revision {skipped}")),
            (None, _) if is_progress => None,
            (None, _) if *revision <= self.delivered => Some("repeated it".to_owned()),
            (None, Some(next)) if next.revision == *revision => describe_difference(next, events),
            (None, _) => Some("the store has no such events".to_owned()),
        };
        if let Some(text) = text {
            let (process, delivered) = (&self.process, self.delivered);
            let text = format!(
                "a watch of {process} delivered {} event(s) of revision {revision} after revision \
                 {delivered}: {text}",
                events.len()
            );
            self.check.fail(WATCH, text);
            (self.expected, self.next) = (None, None);
            return;
        }
        self.delivered = self.delivered.max(*revision);
        if !is_progress {
            self.next = None;
        }
    }
}

/// What makes an event the same: previous keys depend on what is compacted.
fn identity(event: &Event) -> (EventKind, &KeyValue) {
    (event.kind, &event.kv)
}

/// How the events of one revision differ from those that must be delivered.
fn describe_difference(expected: &WatchBatch, events: &[Event]) -> Option<String> {
    let is_equal = expected.events.iter().map(identity).eq(events.iter().map(identity));
    (!is_equal).then(|| format!("the store has {} other event(s)", expected.events.len()))
}

impl Stream for CheckedWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let batch = ready!(self.watch.poll_next_unpin(cx));
        match &batch {
            Some(Ok(batch)) => self.check(batch),
            // Events between an error and the next watch are a gap that the process knows of.
            Some(Err(_)) | None => (self.expected, self.next) = (None, None),
        }
        Poll::Ready(batch)
    }
}

impl WatchStream for CheckedWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}
