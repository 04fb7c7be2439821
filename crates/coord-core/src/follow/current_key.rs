//! The stream of the current key of a followed state.

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;

use super::{Followed, Follower, Gap, Reread, Step, Verified, read_at, read_newest};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{Event, EventKind, Header, KeyRange, KeyValue, Range, Revision};
use crate::retry_request::retry_request;

/// Followed keys of which one is current, or none: a leader, or a shared value.
pub(crate) trait CurrentKey: Followed<State: PartialEq> {
    /// The key whose changes are yielded; `None` if there is none.
    fn current(state: &Self::State) -> Option<&KeyValue>;

    /// [`Followed::verify`] for a small state.
    ///
    /// If the keys are the same as before and one of them is current, it was current all the time,
    /// and no change is missing. Otherwise it compares the keys *as of the revision that the
    /// follower has reached*: in the same history they are the same as before.
    fn verify_current(
        &self,
        state: &Self::State,
        revision: Revision,
    ) -> impl Future<Output = Result<Verified>> + Send
    where
        Self: Sized,
    {
        async move {
            let (header, newest) = read_newest(self).await?;
            if header.revision < revision {
                return Ok(Verified::Replaced);
            }
            if newest == *state && Self::current(&newest).is_some() {
                return Ok(Verified::Current(header));
            }
            match read_at(self, revision).await {
                Ok(Some(then)) if then == *state => Ok(Verified::SameHistory),
                Ok(_) => Ok(Verified::Replaced),
                // The history at that revision can no longer be compared.
                Err(Error::Compacted { .. }) => Ok(Verified::SameHistory),
                Err(error) => Err(error),
            }
        }
    }
}

/// One key that is followed: a shared value, or the release requests to a holder.
pub(crate) struct FollowedKey {
    pub(crate) client: Client,
    pub(crate) key: Bytes,
}

impl Followed for FollowedKey {
    type State = Option<KeyValue>;

    fn client(&self) -> &Client {
        &self.client
    }

    fn range(&self) -> KeyRange {
        KeyRange::key(&self.key)
    }

    async fn read(&self, at: Option<Revision>) -> Result<(Header, Self::State)> {
        let mut read = retry_request(|| self.client.range(Range::new(&self.key).at(at))).await?;
        Ok((read.header, read.kvs.pop()))
    }

    fn apply(&self, state: &mut Self::State, events: Vec<Event>) {
        for event in events {
            *state = (event.kind == EventKind::Put).then_some(event.kv);
        }
    }

    async fn verify(&self, state: &Self::State, revision: Revision) -> Result<Verified> {
        self.verify_current(state, revision).await
    }
}

impl CurrentKey for FollowedKey {
    fn current(state: &Self::State) -> Option<&KeyValue> {
        state.as_ref()
    }
}

/// An item of a follower.
pub(crate) struct Item {
    /// The current key.
    pub(crate) kv: Option<KeyValue>,
    /// The header of the response or batch with that state.
    pub(crate) header: Header,
    /// The gap before the item.
    pub(crate) gap: Option<Gap>,
}

/// The stream of the current key, between two items.
pub(crate) struct CurrentKeys<F: CurrentKey> {
    follower: Follower<F>,
    /// The last current key that was yielded.
    last_item: Option<Option<KeyValue>>,
    /// The gap before the next item.
    gap: Option<Gap>,
    has_ended: bool,
}

impl<F: CurrentKey> CurrentKeys<F> {
    /// The stream of the current key, from now on. It ends with an error that is not retryable.
    pub(crate) fn stream(followed: F) -> impl Stream<Item = Result<Item>> + Send {
        let follower = Follower::new(followed);
        let keys = Self { follower, last_item: None, gap: None, has_ended: false };
        stream::unfold(keys, Self::next)
    }

    /// Waits for the next item. Returns it with the state after it.
    async fn next(mut self) -> Option<(Result<Item>, Self)> {
        if self.has_ended {
            return None;
        }
        loop {
            match self.follower.step().await {
                Ok(reread) => self.note_gap(reread),
                Err(error) => {
                    self.has_ended = true;
                    return Some((Err(error), self));
                }
            }
            let kv = F::current(&self.follower.state);
            let is_current = !matches!(self.follower.step, Step::Read(_));
            if is_current && self.last_item.as_ref().map(Option::as_ref) != Some(kv) {
                let kv = kv.cloned();
                self.last_item = Some(kv.clone());
                let item = Item { kv, header: self.follower.header, gap: self.gap.take() };
                return Some((Ok(item), self));
            }
        }
    }

    /// Notes a gap if changes may be missing, unless the current key is the same as before: then it
    /// has been the current key all the time.
    fn note_gap(&mut self, reread: Option<Reread<F::State>>) {
        let Some(Reread { before, revision, cause: Some(cause) }) = reread else { return };
        let current = F::current(&self.follower.state);
        if current.is_none() || current != F::current(&before) {
            let gap = Gap { after: revision, until: self.follower.header.revision, cause };
            self.gap = Some(gap.with_earlier(self.gap));
        }
    }
}
