//! The state of one watch of a stream: the client's request, and the progress of its delivery.

use std::task::{Context, Poll};

use coord_core::kv::{Header, Revision, WatchBatch, Watcher};
use futures_util::StreamExt;

use super::backlog::Backlog;
use super::ready_queue::ReadyHandle;
use crate::gauges::GaugeGuard;

/// One watch of a stream.
pub(super) struct StreamWatch {
    pub(super) _gauge: GaugeGuard,
    /// The backend's watch; `None` after it was cancelled because events that were not delivered
    /// are compacted.
    pub(super) source: Option<Watcher>,
    /// Events from before the creation of the watch; `None` after they were sent.
    pub(super) backlog: Option<Backlog>,
    /// The future revision that the watch starts at; `None` if the watch starts earlier, or after a
    /// progress request has found that the store has reached the revision.
    pub(super) future_start: Option<Revision>,
    /// Wakes the stream when the watch has something to deliver.
    pub(super) ready_handle: ReadyHandle,
    /// Whether to split large responses.
    pub(super) fragment: bool,
    /// Whether to send periodic progress notifications.
    pub(super) progress_notify: bool,
    /// Whether events were sent since the progress timer last fired.
    pub(super) had_events: bool,
    /// Whether a periodic progress notification is due.
    pub(super) progress_due: bool,
}

impl StreamWatch {
    /// Polls the backend's watch. `None` if there is nothing to deliver yet; `Some(None)` is the
    /// end of the watch. A watch that was ready enters the ready queue again, behind the others.
    pub(super) fn poll(&mut self) -> Option<Option<coord_core::Result<WatchBatch>>> {
        self.ready_handle.clear();
        let source = self.source.as_mut()?;
        match source.poll_next_unpin(&mut Context::from_waker(self.ready_handle.waker())) {
            Poll::Ready(item) => {
                self.ready_handle.enqueue();
                Some(item)
            }
            Poll::Pending => None,
        }
    }

    /// The header of a response at this revision.
    pub(super) fn header(&self, revision: Revision) -> Header {
        let header = self.source.as_ref().map(Watcher::header).unwrap_or_default();
        Header { revision, ..header }
    }

    pub(super) fn request_progress(&mut self) {
        if let Some(source) = &mut self.source {
            source.request_progress();
        }
    }
}
