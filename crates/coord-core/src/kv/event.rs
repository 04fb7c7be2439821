//! Changes as they happen, or as they happened.
//!
//! A [`Watcher`] is a stream of batches, **one per revision**: all changes of one transaction
//! arrive together, in the order in which it made them, and revisions arrive in order, none missing
//! and none twice. A batch without events is a bookmark: everything up to its revision has been
//! seen.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::StreamExt;

use super::{Header, IntoBytes, KeyRange, KeyValue, Revision};
use crate::error::Result;

/// Asks for the changes of a range of keys.
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
    /// The first revision to deliver: a past one replays, a future one waits. `None` is from the
    /// registration on, as is zero in etcd; a negative one is refused.
    pub start_revision: Option<Revision>,
    /// Deliver with each change the key as it was before the revision: [`Event::prev_kv`].
    pub prev_kv: bool,
    /// Changes to leave out.
    pub filters: Vec<WatchFilter>,
    /// Deliver a bookmark from time to time while nothing happens.
    pub progress_notify: bool,
}

/// Changes that a watch leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum WatchFilter {
    /// Leave puts out.
    NoPut,
    /// Leave deletions out.
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

    /// Starts with the changes of `revision`.
    #[must_use]
    pub fn start_at(mut self, revision: impl Into<Option<Revision>>) -> Self {
        self.start_revision = revision.into();
        self
    }

    /// Delivers with each change the key as it was before.
    #[must_use]
    pub const fn with_prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }

    /// Leaves some changes out.
    #[must_use]
    pub fn filter(mut self, filter: WatchFilter) -> Self {
        self.filters.push(filter);
        self
    }

    /// Delivers a bookmark from time to time while nothing happens.
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

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and callers match on it")]
pub enum EventKind {
    /// It was put.
    Put,
    /// It was deleted, or its lease ended.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key as the change left it. Of a deleted key only the key itself and the revision of
    /// the deletion, as `mod_revision`, are set.
    pub kv: KeyValue,
    /// The key as it was before the *revision* of the event, if the watch requested it.
    ///
    /// It is the key at `kv.mod_revision` - 1, not the key before the single operation: where one
    /// transaction puts a key and then deletes it, both events carry the same key, and the value
    /// that was put is in neither `prev_kv`. `None` if the key did not exist at that revision, if
    /// the event [creates](Event::is_create) the key, also where the same transaction has deleted
    /// an earlier life of it, or if that revision is compacted by the time the event is delivered.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// Whether the change created the key.
    #[must_use]
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

/// The changes of one revision that a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision. When there are no events, everything up to it has been delivered.
    pub revision: Revision,
    /// The changes, in the order in which they were made; none in a bookmark.
    pub events: Vec<Event>,
}

/// What a backend hands out as a watch; callers see it as a [`Watcher`].
///
/// # Contract
/// - Batches come in the order of their revisions, one per revision, none missing and none twice.
/// - After an error the stream ends.
/// - Dropping it cancels the watch.
pub trait WatchStream: Stream<Item = Result<WatchBatch>> + Send {
    /// Asks for a bookmark as soon as everything up to now has been delivered.
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
    /// Wraps a backend's stream, with the header of its registration.
    pub fn new(header: Header, stream: impl WatchStream + 'static) -> Self {
        Self { header, stream: Box::pin(stream) }
    }

    /// At which revision the watch was registered: all later changes are delivered.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The next batch; `None` when the watch has ended.
    ///
    /// # Errors
    /// [`Error::Compacted`](crate::Error::Compacted) when changes that were still to be delivered
    /// are gone from history; whatever else ended the watch for good. A backend mends lost
    /// connections by itself.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the batch is delivered by the next call.
    pub async fn next(&mut self) -> Option<Result<WatchBatch>> {
        StreamExt::next(&mut self.stream).await
    }

    /// Asks for a bookmark as soon as everything up to now has been delivered.
    ///
    /// The bookmark is a batch without events. It may never come while the watch waits for a
    /// revision in the future.
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
