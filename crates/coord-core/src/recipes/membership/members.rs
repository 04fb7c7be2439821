//! The live list of the members of a group, and the stream of events.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;

use super::super::{
    KeyChange, PrefixCache, PrefixCacheError, PrefixChanges, PrefixSnapshot, PrefixUpdate,
};
use crate::error::Result;
use crate::follow::Gap;
use crate::kv::{KeyValue, LeaseId, Revision, Value};
use crate::stm::invalid;

/// A member of a group, as of one revision.
pub struct Member<M> {
    kv: KeyValue,
    /// How many bytes of the key precede the id.
    prefix_len: usize,
    metadata: PhantomData<fn() -> M>,
}

impl<M> Member<M> {
    fn new(kv: &KeyValue, prefix: &Bytes) -> Self {
        Self { kv: kv.clone(), prefix_len: prefix.len(), metadata: PhantomData }
    }

    /// Returns the id: see [`MemberGuard::id`](super::MemberGuard::id).
    ///
    /// A key that no member has created can have an id that is no UTF-8; it is escaped in
    /// [`Debug`](fmt::Debug), and the id is empty.
    #[must_use]
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.kv.key[self.prefix_len..]).unwrap_or_default()
    }

    /// Returns the lease of the member's session. `None` if a client has put the key without one:
    /// then the member does not leave by itself.
    #[must_use]
    pub const fn lease(&self) -> Option<LeaseId> {
        self.kv.lease
    }

    /// Returns the revision at which the member joined.
    #[must_use]
    pub const fn create_revision(&self) -> Revision {
        self.kv.create_revision
    }

    /// Returns the key with its revisions and the encoded metadata, as in the store.
    #[must_use]
    pub const fn key_value(&self) -> &KeyValue {
        &self.kv
    }
}

impl<M: Value> Member<M> {
    /// Returns the metadata.
    ///
    /// # Errors
    /// `InvalidValue` if the bytes are not a value of the type.
    pub fn metadata(&self) -> Result<M> {
        let Self { kv, .. } = self;
        M::decode(kv.value.clone()).map_err(|error| invalid(&kv.key, error))
    }
}

impl<M> Clone for Member<M> {
    fn clone(&self) -> Self {
        Self { kv: self.kv.clone(), ..*self }
    }
}

/// Two members are equal if they have the same key and the same metadata, as of the same change.
impl<M> PartialEq for Member<M> {
    fn eq(&self, other: &Self) -> bool {
        self.kv == other.kv
    }
}

impl<M> Eq for Member<M> {}

impl<M> fmt::Debug for Member<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, joined) = (self.kv.key.escape_ascii(), self.kv.create_revision);
        write!(f, "Member(\"{key}\" joined at {joined})")
    }
}

/// The live list of the members of a group: a [`PrefixCache`] of their keys. Clones share it; when
/// the last clone and the last stream of events are dropped, it is closed.
pub struct Members<M> {
    cache: PrefixCache,
    metadata: PhantomData<fn() -> M>,
}

impl<M> Members<M> {
    pub(super) const fn new(cache: PrefixCache) -> Self {
        Self { cache, metadata: PhantomData }
    }

    /// Returns the members as of [`revision`](Self::revision), in the order in which they joined.
    /// It sends no request. The list may be older than the store: see [`read`](Self::read).
    #[must_use]
    pub fn list(&self) -> Vec<Member<M>> {
        self.members_of(&self.cache.snapshot())
    }

    /// Returns a member by its id; `None` if it is not in the group. It sends no request.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Member<M>> {
        let prefix = self.cache.prefix();
        let kv = self.cache.get([prefix, id.as_bytes()].concat())?;
        is_member(&kv.key, prefix).then(|| Member::new(&kv, prefix))
    }

    /// Returns the revision of the list.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cache.revision()
    }

    /// Returns a bound on how old the list is: see [`PrefixCache::staleness`].
    #[must_use]
    pub fn staleness(&self) -> Duration {
        self.cache.staleness()
    }

    /// Reads the members consistently: the list contains every change that was confirmed before the
    /// call, for example a member whose `join` has returned.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// As [`PrefixCache::read`].
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn read(&self) -> Result<Vec<Member<M>>, PrefixCacheError> {
        Ok(self.members_of(&self.cache.read().await?))
    }

    /// Waits until the list has every change up to `revision`, and returns it.
    ///
    /// # Errors
    /// As [`PrefixCache::wait_for`].
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn wait_for(&self, revision: Revision) -> Result<Vec<Member<M>>, PrefixCacheError> {
        Ok(self.members_of(&self.cache.wait_for(revision).await?))
    }

    /// Returns the stream of events from now on. Any number of streams share the one watch.
    pub fn events(&self) -> MemberEvents<M> {
        let changes = self.cache.changes();
        let (gap, next_gap, events) = (None, None, VecDeque::new());
        let (prefix, metadata) = (self.cache.prefix().clone(), PhantomData);
        let revision = changes.snapshot().revision();
        MemberEvents { changes, prefix, events, revision, gap, next_gap, metadata }
    }

    /// Returns the cache of the members' keys.
    #[must_use]
    pub const fn cache(&self) -> &PrefixCache {
        &self.cache
    }

    fn members_of(&self, snapshot: &PrefixSnapshot) -> Vec<Member<M>> {
        members_of(snapshot, self.cache.prefix())
    }
}

/// Whether a key is that of a member, and not that of another group, whose name is a child name.
fn is_member(key: &[u8], prefix: &Bytes) -> bool {
    !key[prefix.len()..].contains(&b'/')
}

fn members_of<M>(snapshot: &PrefixSnapshot, prefix: &Bytes) -> Vec<Member<M>> {
    let keys = snapshot.iter().filter(|kv| is_member(&kv.key, prefix));
    let mut members: Vec<_> = keys.map(|kv| Member::new(kv, prefix)).collect();
    // Keys of one create revision stay in key order.
    members.sort_by_key(Member::create_revision);
    members
}

impl<M> Clone for Members<M> {
    fn clone(&self) -> Self {
        Self::new(self.cache.clone())
    }
}

impl<M> fmt::Debug for Members<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Members").field(&self.cache).finish()
    }
}

/// An event of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a member joins, changes and leaves")]
pub enum MemberEvent<M> {
    /// A member has joined.
    Joined(Member<M>),
    /// A member has replaced its metadata.
    Updated {
        /// The member before.
        before: Member<M>,
        /// The member after.
        after: Member<M>,
    },
    /// A member has left, or its session has ended. This is its last state.
    Left(Member<M>),
}

impl<M> MemberEvent<M> {
    /// Returns the member, after the event unless it has left.
    #[must_use]
    pub const fn member(&self) -> &Member<M> {
        match self {
            Self::Joined(member) | Self::Updated { after: member, .. } | Self::Left(member) => {
                member
            }
        }
    }
}

/// The stream of the events of a group, from the call of [`Members::events`] on, in order, none
/// missing and none repeated. It ends with the error with which the list of members ends.
///
/// If [`gap`](Self::gap) returns a gap, the events are the difference between two states: a member
/// that joined and left in between is not among them, and several updates are one event.
#[must_use = "a stream does nothing unless it is polled"]
pub struct MemberEvents<M> {
    changes: PrefixChanges,
    prefix: Bytes,
    /// The events of the last update that were not yielded yet.
    events: VecDeque<MemberEvent<M>>,
    revision: Revision,
    gap: Option<Gap>,
    /// The gap before the next event: of updates without an event.
    next_gap: Option<Gap>,
    metadata: PhantomData<fn() -> M>,
}

impl<M> MemberEvents<M> {
    /// Returns the members after all events of the [`revision`](Self::revision) of the last event,
    /// in the order in which they joined. Before the first event, these are the members from which
    /// the stream has started.
    #[must_use]
    pub fn members(&self) -> Vec<Member<M>> {
        members_of(self.changes.snapshot(), &self.prefix)
    }

    /// Returns the revision of the last event.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the gap before the last event; `None` if no event is missing. If the members are the
    /// same before a gap and after it, the next event has the gap.
    #[must_use]
    pub const fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Waits for the next event; `None` after the end of the stream, on every further call.
    ///
    /// # Errors
    /// The error with which the list of members has ended. The stream ends with it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns the event.
    pub async fn next(&mut self) -> Option<Result<MemberEvent<M>, PrefixCacheError>> {
        futures_util::StreamExt::next(self).await
    }

    /// The events of an update. A member that left in the revision in which another one joined
    /// comes first.
    fn add(&mut self, update: &PrefixUpdate) {
        let gap = update.gap().map(|gap| gap.with_earlier(self.next_gap)).or(self.next_gap);
        let (mut left, mut others) = (VecDeque::new(), VecDeque::new());
        let member = |kv| Member::new(kv, &self.prefix);
        let changes = update.changes().iter();
        for KeyChange { before, after, .. } in changes.filter(|c| is_member(&c.key, &self.prefix)) {
            match (before, after) {
                (Some(before), Some(after)) if before.create_revision == after.create_revision => {
                    let (before, after) = (member(before), member(after));
                    others.push_back(MemberEvent::Updated { before, after });
                }
                (before, after) => {
                    left.extend(before.as_ref().map(|kv| MemberEvent::Left(member(kv))));
                    others.extend(after.as_ref().map(|kv| MemberEvent::Joined(member(kv))));
                }
            }
        }
        self.events.extend(left.into_iter().chain(others));
        if self.events.is_empty() {
            self.next_gap = gap;
        } else {
            (self.revision, self.gap, self.next_gap) = (update.revision(), gap, None);
        }
    }
}

impl<M> Stream for MemberEvents<M> {
    type Item = Result<MemberEvent<M>, PrefixCacheError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(Pin::new(&mut self.changes).poll_next(cx)) {
                Some(Ok(update)) => self.add(&update),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<M> fmt::Debug for MemberEvents<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberEvents").field("changes", &self.changes).finish_non_exhaustive()
    }
}
