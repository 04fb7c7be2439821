//! Watches: requests, events, and the stream of batches.
//!
//! A [`Watcher`] is a stream of batches, **one per revision**: all changes of one transaction
//! arrive together, in the order in which it made them, and revisions arrive in order, none missing
//! and none twice. A batch without events is a *progress notification*: all events up to its
//! revision have been delivered.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::StreamExt;

use super::{Header, IntoBytes, KeyRange, KeyValue, Revision};
use crate::error::Result;

/// A request to watch the changes of a range of keys.
///
/// ```
/// use coord_core::kv::{Revision, Watch, WatchFilter};
///
/// let deletions = Watch::prefix("jobs/").start_at(Revision(7)).filter(WatchFilter::NoPut);
/// assert_eq!(deletions.start_revision, Some(Revision(7)));
/// ```
///
/// Source: `docs/etcd-contract.md` §6.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watch {
    /// The keys to watch. An empty single key means the key `\0`; a range that can hold no key is
    /// refused.
    pub keys: KeyRange,
    /// The first revision to deliver. From a past revision on, the history is delivered first; a
    /// future revision is awaited. `None`, and in etcd zero, starts at the registration; a negative
    /// revision is refused.
    pub start_revision: Option<Revision>,
    /// Whether each event carries the key as of the revision before it: [`Event::prev_kv`].
    pub prev_kv: bool,
    /// The kinds of changes that are not delivered.
    pub filters: Vec<WatchFilter>,
    /// Whether to deliver a progress notification at intervals while no key changes.
    pub progress_notify: bool,
}

/// A kind of change that a watch does not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum WatchFilter {
    /// Puts are not delivered.
    NoPut,
    /// Deletions are not delivered.
    NoDelete,
}

impl Watch {
    /// Watches `keys`, from the registration on.
    pub fn new(keys: impl Into<KeyRange>) -> Self {
        Self {
            keys: keys.into(),
            start_revision: None,
            prev_kv: false,
            filters: Vec::new(),
            progress_notify: false,
        }
    }

    /// Watches every key that starts with `prefix`, from the registration on.
    pub fn prefix(prefix: impl IntoBytes) -> Self {
        Self::new(KeyRange::prefix(prefix))
    }

    /// Starts at `revision`.
    #[must_use]
    pub fn start_at(mut self, revision: impl Into<Option<Revision>>) -> Self {
        self.start_revision = revision.into();
        self
    }

    /// Delivers with each event the key as of the revision before it.
    #[must_use]
    pub const fn with_prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }

    /// Does not deliver one kind of change.
    #[must_use]
    pub fn filter(mut self, filter: WatchFilter) -> Self {
        self.filters.push(filter);
        self
    }

    /// Delivers a progress notification at intervals while no key changes.
    #[must_use]
    pub const fn with_progress_notify(mut self) -> Self {
        self.progress_notify = true;
        self
    }
}

impl<K: Into<KeyRange>> From<K> for Watch {
    /// Watches `keys` from the registration on, without options.
    fn from(keys: K) -> Self {
        Self::new(keys)
    }
}

/// The kind of a change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and callers match on it")]
pub enum EventKind {
    /// The key was put.
    Put,
    /// The key was deleted, by a request or with its lease.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The kind of change.
    pub kind: EventKind,
    /// The key after the change. For a deletion, only the key itself and `mod_revision`, the
    /// revision of the deletion, are set.
    pub kv: KeyValue,
    /// The key as of the *revision* before the event, if the watch requested it.
    ///
    /// It is the key at `kv.mod_revision` - 1, not the key before the single operation: if one
    /// transaction puts a key and then deletes it, both events carry the same key, and the value
    /// that was put is in neither `prev_kv`. `None` if
    ///
    /// - the key did not exist at that revision;
    /// - the event [creates](Event::is_create) the key, also if the same transaction has deleted
    ///   the key before;
    /// - that revision is compacted when the event is delivered.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// Returns whether the change created the key.
    #[must_use]
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

/// The events of one revision that match a watch, or a progress notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision. In a progress notification: all events up to it have been delivered.
    pub revision: Revision,
    /// The events, in the order of the changes; empty in a progress notification.
    pub events: Vec<Event>,
}

/// The stream of a watch, for implementors of a backend; callers use a [`Watcher`].
///
/// # Contract
/// - Batches are yielded in the order of their revisions, one per revision, none missing and none
///   twice.
/// - After an error the stream ends.
/// - Dropping the stream cancels the watch.
pub trait WatchStream: Stream<Item = Result<WatchBatch>> + Send {
    /// Requests a progress notification, to be yielded when all events up to now have been.
    fn request_progress(self: Pin<&mut Self>);
}

/// A registered watch: a stream of [`WatchBatch`]es that ends with an error or when it is dropped.
///
/// Source: `docs/etcd-contract.md` §6.
#[must_use = "dropping a watch cancels it"]
pub struct Watcher {
    header: Header,
    stream: Pin<Box<dyn WatchStream>>,
}

impl Watcher {
    /// A watch of the stream `stream` that was registered with the response header `header`.
    pub fn new(header: Header, stream: impl WatchStream + 'static) -> Self {
        Self { header, stream: Box::pin(stream) }
    }

    /// Returns the header of the registration. Without a start revision, the watch delivers all
    /// changes after its revision.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// Waits for the next batch; `None` when the watch has ended.
    ///
    /// # Errors
    /// - [`Error::Compacted`](crate::Error::Compacted): events that were not delivered yet are
    ///   compacted.
    /// - [`Error::HistoryReplaced`](crate::Error::HistoryReplaced): the history of the store was
    ///   replaced.
    /// - Any other error that the backend cannot recover from. After a lost connection the backend
    ///   resumes the watch by itself.
    ///
    /// The watch ends with the error.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns the batch.
    pub async fn next(&mut self) -> Option<Result<WatchBatch>> {
        StreamExt::next(&mut self.stream).await
    }

    /// Requests a progress notification: a batch without events, which is delivered when all events
    /// up to now have been delivered.
    ///
    /// While the watch waits for a future start revision, the notification may never be delivered.
    pub fn request_progress(&mut self) {
        self.stream.as_mut().request_progress();
    }
}

impl Stream for Watcher {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("header", &self.header).finish_non_exhaustive()
    }
}
