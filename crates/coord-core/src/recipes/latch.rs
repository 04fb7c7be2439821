//! The count-down latch: closed until a number of participants have counted down.
//!
//! Each participant has a persistent key, whose value is the number that opens the latch. Counting
//! down creates the key if it does not exist, so a request whose response was lost can be repeated,
//! also by a participant that has crashed and started again. The latch is open when as many keys
//! exist. There is no counter that participants would have to change one after the other.
//!
//! ```text
//! latch `loaded` of 2        keys
//! shard-1 counts down        loaded/shard-1=2
//! shard-1 counts down again  loaded/shard-1=2
//! shard-2 counts down        loaded/shard-1=2 loaded/shard-2=2       open
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::client::Client;
use crate::error::{Error, Outcome, PrimitiveError, Result};
use crate::key_watch::{next_batch, range_with_retry};
use crate::kv::{
    Compare, CompareOp, EventKind, IntoBytes, KeyRange, KeyValue, Op, OpResponse, Put, Range, Txn,
    Watch, Watcher,
};
use crate::retry_request::{RETRY_PAUSE_MIN, retry_request};

/// A watch that delivers nothing for this time may have fallen silent: the waiter reads the keys.
const READ_AFTER: Duration = Duration::from_secs(30);

/// A count-down latch by name: [`wait`](Self::wait) returns when `count` participants have called
/// [`count_down`](Self::count_down). It opens once, and stays open.
///
/// ```
/// use coord_core::Client;
/// use coord_core::recipes::Latch;
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let loaded = Latch::new(&client, "loaded", 2)?;
///
/// assert_eq!(loaded.count_down("shard-1").await?, 1, "one is missing");
/// assert_eq!(loaded.count_down("shard-1").await?, 1, "a participant counts once");
/// assert_eq!(loaded.count_down("shard-2").await?, 0);
/// loaded.wait().await?;
/// # Ok(())
/// # }
/// ```
///
/// Source: Java's `CountDownLatch` for the idea; the keys are coord's own.
#[derive(Clone, Debug)]
pub struct Latch {
    client: Client,
    /// Ends with a slash.
    prefix: Bytes,
    count: usize,
}

/// The error of a [`Latch`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LatchError {
    /// The count is zero. Nothing was sent.
    #[error("a latch with the count 0 is always open: give the number of participants, at least 1")]
    NoCount,
    /// Another count was given before. Nothing was written.
    #[error(
        "the count {given} was given, but the key {} has {stored}: give the same count everywhere, \
         or use another name",
        key.escape_ascii()
    )]
    CountsDisagree {
        /// The count given to this handle.
        given: usize,
        /// The value of the key.
        stored: String,
        /// The key of the participant that has given another count.
        key: Bytes,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] Error),
}

impl LatchError {
    /// Returns whether the participant has surely not counted down.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Backend(error) => error.outcome(),
            Self::NoCount | Self::CountsDisagree { .. } => Outcome::NotApplied,
        }
    }

    /// Returns whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Backend(error) => error.is_retryable(),
            // The caller must change the count, or the name.
            Self::NoCount | Self::CountsDisagree { .. } => false,
        }
    }
}

impl From<LatchError> for PrimitiveError {
    fn from(error: LatchError) -> Self {
        match error {
            LatchError::Backend(error) => error.into(),
            error => Self::of_recipe(error),
        }
    }
}

impl Latch {
    /// The latch `name`, which opens when `count` participants have counted down. All handles give
    /// the same count. The latch owns all keys below `name/`. They persist: delete them to use the
    /// name again.
    ///
    /// # Errors
    /// `NoCount` if `count` is zero.
    pub fn new(client: &Client, name: impl IntoBytes, count: usize) -> Result<Self, LatchError> {
        if count == 0 {
            return Err(LatchError::NoCount);
        }
        let prefix = [&name.into_bytes()[..], b"/"].concat().into();
        Ok(Self { client: client.clone(), prefix, count })
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.prefix.slice(..self.prefix.len() - 1)
    }

    /// Counts down for a participant, and returns how many are missing. A participant counts once,
    /// however often it calls this. When no participant is missing any more, others may still count
    /// down, which has no effect.
    ///
    /// While the store is unavailable, the request is repeated. To bound that, wrap it in
    /// `tokio::time::timeout`.
    ///
    /// # Errors
    /// - `CountsDisagree` if another count was given before: nothing was applied.
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the participant has counted down. Call it
    /// again: it counts once.
    pub async fn count_down(
        &self,
        participant: impl IntoBytes + Send,
    ) -> Result<usize, LatchError> {
        let key: Bytes = [&self.prefix[..], &participant.into_bytes()].concat().into();
        let all = KeyRange::prefix(&self.prefix);
        let put = Op::Put(Put::new(&key, self.count.to_string()));
        let read = Op::Range(Range::new(all.clone()));
        // A compare of values does not hold for a range without keys.
        let agrees = Compare::value(all.clone(), CompareOp::Equal, self.count.to_string());
        let add = Txn::new()
            .when([Compare::absent(&key), agrees])
            .and_then([put.clone(), read.clone()])
            .or_else([read.clone()]);
        let count_down =
            Txn::new().when([Compare::absent(all)]).and_then([put, read]).or_else([Op::Txn(add)]);
        let backend = self.client.backend();
        // Safe to repeat: once it is applied, the key exists.
        let response = retry_request(|| backend.txn(count_down.clone())).await?;
        let last = match response.responses.last() {
            Some(OpResponse::Txn(nested)) => nested.responses.last(),
            last => last,
        };
        let Some(OpResponse::Range(read)) = last else {
            unreachable!("each branch ends with a read: {response:?}");
        };
        Ok(self.missing(&self.participants(&read.kvs)?))
    }

    /// Waits until the latch is open.
    ///
    /// While the store is unavailable, it keeps waiting. To bound the wait, wrap it in
    /// `tokio::time::timeout`.
    ///
    /// # Errors
    /// - `CountsDisagree` if a participant has given another count.
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn wait(&self) -> Result<(), LatchError> {
        let backend = self.client.backend();
        let all = KeyRange::prefix(&self.prefix);
        let mut watcher: Option<Watcher> = None;
        loop {
            let read = range_with_retry(&**backend, Range::new(all.clone())).await?;
            let mut participants = self.participants(&read.kvs)?;
            if self.missing(&participants) == 0 {
                return Ok(());
            }
            if watcher.is_none() {
                let watch = Watch::new(all.clone());
                let watch = retry_request(|| backend.watch(watch.clone())).await?;
                let may_have_missed = watch.header().revision > read.header.revision;
                watcher = Some(watch);
                if may_have_missed {
                    continue;
                }
            }
            let Some(events) = &mut watcher else { continue };
            if !self.follow(events, &mut participants).await? {
                watcher = None;
                sleep(RETRY_PAUSE_MIN).await;
            } else if self.missing(&participants) == 0 {
                return Ok(());
            }
        }
    }

    /// Follows the events of the participants' keys until the latch is open or the keys must be
    /// read again. Returns whether the watch is still open.
    async fn follow(
        &self,
        watcher: &mut Watcher,
        participants: &mut BTreeSet<Bytes>,
    ) -> Result<bool, LatchError> {
        while self.missing(participants) > 0 {
            let batch = tokio::select! {
                biased;
                batch = next_batch(watcher) => batch?,
                () = sleep(READ_AFTER) => return Ok(true),
            };
            let Some(batch) = batch else { return Ok(false) };
            for event in batch.events {
                if event.kind == EventKind::Delete {
                    participants.remove(&event.kv.key);
                } else {
                    participants.extend(self.participants(&[event.kv])?);
                }
            }
        }
        Ok(true)
    }

    /// The keys of the participants that have counted down.
    fn participants(&self, kvs: &[KeyValue]) -> Result<BTreeSet<Bytes>, LatchError> {
        let given = self.count;
        match kvs.iter().find(|kv| kv.value != given.to_string()) {
            Some(kv) => {
                let (stored, key) = (kv.value.escape_ascii().to_string(), kv.key.clone());
                Err(LatchError::CountsDisagree { given, stored, key })
            }
            None => Ok(kvs.iter().map(|kv| kv.key.clone()).collect()),
        }
    }

    fn missing(&self, participants: &BTreeSet<Bytes>) -> usize {
        self.count.saturating_sub(participants.len())
    }
}
