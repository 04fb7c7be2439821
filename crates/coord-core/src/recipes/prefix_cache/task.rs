//! The task of a prefix cache: follows the prefix, and publishes each change.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PrefixCacheError;
use super::snapshot::{Keys, differences};
use super::state::{Publication, Shared};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::follow::{Followed, Follower, Gap, Reread, Verified, Wanted};
use crate::kv::{
    Event, Header, KeyRange, KeyValue, Range, RangeResponse, Revision, SortOrder, SortTarget,
};
use crate::retry_request::retry_request;
use crate::telemetry::cache as events;

/// How many keys are read in one request.
const PAGE_SIZE: u64 = 1_000;

/// The keys of the prefix, for the follower.
struct FollowedPrefix(Arc<Shared>);

/// Ends the cache if its task is dropped, because the runtime is shut down.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs until all handles are dropped, or until an error that is not retryable.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let stopping = StopOnDrop(Arc::clone(&shared));
    if let Some(Err(error)) = stop.run_until_cancelled(follow(&shared)).await {
        events::failed(&shared.prefix, &error);
        shared.fail(error);
    }
    drop(stopping);
}

async fn follow(shared: &Arc<Shared>) -> Result<std::convert::Infallible, PrefixCacheError> {
    let mut follower = Follower::new(FollowedPrefix(Arc::clone(shared)));
    loop {
        let started = Instant::now();
        let reread = follower.step().await?;
        let (revision, awaits_progress) = (follower.header().revision, follower.awaits_progress());
        let keys = follower.state_mut();
        if keys.bytes > shared.bytes_max {
            let (prefix, bytes_max) = (shared.prefix.clone(), shared.bytes_max);
            return Err(PrefixCacheError::TooLarge { prefix, bytes_max });
        }
        let (changes, gap) = match &reread {
            None => (keys.take_changes(), None),
            Some(Reread { cause: None, .. }) => (Vec::new(), None),
            Some(Reread { before, revision: after, cause: Some(cause) }) => {
                let gap = Gap { after: *after, until: revision, cause: *cause };
                (differences(&before.map, &keys.map), Some(gap))
            }
        };
        if let Some(gap) = gap {
            events::read_again(&shared.prefix, gap, changes.len());
        }
        let read_at = reread.map(|_| started);
        let publication = Publication { keys, revision, changes, gap, read_at, awaits_progress };
        shared.publish(publication);
    }
}

impl FollowedPrefix {
    fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.0.prefix)
    }

    /// Reads the first keys of a range. Each page has the time limit of a request, so the number of
    /// keys does not matter.
    async fn read_page(&self, range: Range) -> Result<RangeResponse> {
        let page = range.limit(PAGE_SIZE);
        retry_request(|| self.0.client.range(page.clone())).await
    }

    /// Reads the key that was changed last, as of a revision; `None` if the store has not reached
    /// the revision, because its history was replaced. It retries.
    async fn read_last_changed(&self, at: Revision) -> Result<Option<(Header, LastChanged)>> {
        let newest = Range::new(self.range()).at(at).limit(1);
        let newest = newest.sorted(SortTarget::ModRevision, SortOrder::Descending);
        let request = || async {
            match self.0.client.range(newest.clone()).await {
                Ok(mut read) => {
                    let last = LastChanged { count: read.count, kv: read.kvs.pop() };
                    Ok(Some((read.header, last)))
                }
                Err(Error::FutureRevision { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        retry_request(request).await
    }
}

/// The number of keys as of a revision, and a key with the greatest mod revision.
struct LastChanged {
    count: i64,
    kv: Option<KeyValue>,
}

impl LastChanged {
    /// Whether `keys` has this count and this last change.
    fn is_of(&self, keys: &Keys) -> bool {
        let last = keys.map.into_iter().map(|(_, kv)| kv.mod_revision).max();
        usize::try_from(self.count) == Ok(keys.map.len())
            && self.kv.as_ref().map(|kv| kv.mod_revision) == last
            && self.kv.as_ref().is_none_or(|kv| keys.map.get(&kv.key) == Some(kv))
    }
}

impl Followed for FollowedPrefix {
    type State = Keys;

    fn client(&self) -> &Client {
        &self.0.client
    }

    fn range(&self) -> KeyRange {
        self.range()
    }

    /// Reads page by page, and stops when the keys are more than the limit.
    async fn read(&self, at: Option<Revision>) -> Result<(Header, Keys)> {
        let all = self.range();
        let mut page = self.read_page(Range::new(&all).at(at)).await?;
        let (header, mut keys) = (page.header, Keys::default());
        let at = at.unwrap_or(header.revision);
        loop {
            let last = page.kvs.last().map(|kv| kv.key.clone());
            for kv in page.kvs {
                keys.insert(kv);
            }
            let is_full = keys.bytes > self.0.bytes_max;
            let Some(last) = last.filter(|_| page.more && !is_full) else {
                return Ok((header, keys));
            };
            page = self.read_page(Range::new(all.after(&last)).at(at)).await?;
        }
    }

    fn apply(&self, keys: &mut Keys, events: Vec<Event>) {
        keys.apply(events);
    }

    /// Compares the number of keys, and the key that was changed last, as of the revision that the
    /// follower has reached. After a history was replaced, one of them differs in most cases: a put
    /// that only one of the two histories has is newer than all puts that they share. Deletions
    /// leave no key to compare, so two histories that differ by equally many deletions of different
    /// keys, and by nothing else, are taken for one.
    async fn verify(&self, keys: &Keys, revision: Revision) -> Result<Verified> {
        let sent = Instant::now();
        let (header, is_same) = match self.read_last_changed(revision).await {
            Ok(Some((header, last))) => (header, last.is_of(keys)),
            Ok(None) => return Ok(Verified::Replaced),
            // The history at that revision can no longer be compared.
            Err(Error::Compacted { .. }) => {
                let first = Range::new(self.range().start()).count_only();
                (retry_request(|| self.0.client.range(first.clone())).await?.header, true)
            }
            Err(error) => return Err(error),
        };
        if !is_same || header.revision < revision {
            return Ok(Verified::Replaced);
        }
        self.0.confirm_when(header.revision, sent);
        Ok(match header.revision == revision {
            true => Verified::Current(header),
            false => Verified::SameHistory,
        })
    }

    async fn wanted(&self) -> Wanted {
        self.0.wanted().await
    }
}
