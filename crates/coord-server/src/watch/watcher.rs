//! One watch of a stream: what the client asked for, and how far it has been told.

use std::task::{Context, Poll};

use coord_core::kv::{Header, Revision, WatchBatch, Watcher};
use futures_util::StreamExt;

use super::bells::Bell;
use super::past::Past;
use crate::counts::Counted;

/// One watch of a stream.
pub(super) struct Watcher {
    pub(super) _counted: Counted,
    /// `None` for one that was cancelled because its start is compacted.
    pub(super) watch: Option<Watcher>,
    /// What it has to tell of the time before it was created; `None` once that is told.
    pub(super) past: Option<Past>,
    /// The revision in the future that it waits for; `None` once that is known to be there.
    pub(super) ahead: Option<Revision>,
    /// Rung when it has something to deliver.
    pub(super) bell: Bell,
    /// Whether large answers are to be split.
    pub(super) fragment: bool,
    /// Whether it wants bookmarks by themselves.
    pub(super) notify: bool,
    /// Whether it had events since the last tick.
    pub(super) busy: bool,
    /// Whether a bookmark under its own id is due.
    pub(super) due: bool,
}

impl Watcher {
    /// What it has to deliver, if anything; if so it is asked again, when the others were.
    pub(super) fn poll(&mut self) -> Option<Option<coord_core::Result<WatchBatch>>> {
        self.bell.answer();
        let watch = self.watch.as_mut()?;
        match watch.poll_next_unpin(&mut Context::from_waker(self.bell.waker())) {
            Poll::Ready(item) => {
                self.bell.queue();
                Some(item)
            }
            Poll::Pending => None,
        }
    }

    /// Who sends an answer, at this revision.
    pub(super) fn header(&self, revision: Revision) -> Header {
        let header = self.watch.as_ref().map(Watch::header).unwrap_or_default();
        Header { revision, ..header }
    }

    pub(super) fn ask(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.request_progress();
        }
    }
}
