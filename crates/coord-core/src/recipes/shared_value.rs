//! A shared value: one key with a typed value, which clients read, replace, update and watch.
//!
//! Every read or change is one request, or one transaction. The value of an absent key is `None`.
//!
//! ```text
//! client A                     client B                       value
//! get: 4                                                      4
//!                              compare_and_swap 4 -> 5        5
//! compare_and_swap 4 -> 6:
//!   found 5                                                   5
//! update |n| n + 1
//!   reads 5                    set 9                          9
//!   conflict, reads 9
//!   commits 10                                                10
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::follow::{CurrentKeys, FollowedKey, Gap, Item};
use crate::kv::{
    Compare, CompareOp, Delete, IntoBytes, KeyValue, Op, OpResponse, Put, Range, Revision, Txn,
    Value,
};
use crate::session::Session;
use crate::stm::{Committed, Retry, Stm, StmError, invalid};

/// A value of one key, shared by all clients that use the key. Clones share all options.
///
/// ```
/// use coord_core::{Client, recipes::{SharedValue, ValueSwap}};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let limit = SharedValue::<i64>::new(&client, "limit");
/// assert_eq!(limit.get().await?, None);
///
/// limit.set(&100).await?;
/// assert!(limit.compare_and_swap(Some(&100), Some(&200)).await?.is_swapped());
/// assert_eq!(
///     limit.compare_and_swap(Some(&100), Some(&300)).await?,
///     ValueSwap::Found(Some(200))
/// );
///
/// let raised = limit.update(|limit| Ok::<_, coord_core::Error>(limit.map(|limit| limit + 1)));
/// assert_eq!(raised.await?.value, Some(201));
/// # Ok(())
/// # }
/// ```
///
/// The key has no lease, so the value outlives all sessions. A key that another client has put with
/// a lease keeps that lease only in [`compare_and_swap`](Self::compare_and_swap).
///
/// Source: Apache Curator's recipe `SharedValue`, with a typed value, `None` for an absent key, and
/// changes that are compared by the store.
pub struct SharedValue<V> {
    client: Client,
    stm: Stm,
    key: Bytes,
    /// A shared value holds no `V`, so it is `Send` and `Sync` for each `V`.
    value: PhantomData<fn() -> V>,
}

/// The result of [`SharedValue::compare_and_swap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third result")]
pub enum ValueSwap<V> {
    /// The value was replaced, at this revision.
    Swapped(Revision),
    /// The current value is another one, `None` if the key is absent. Nothing was changed.
    Found(Option<V>),
}

impl<V> ValueSwap<V> {
    /// Returns whether the value was replaced.
    #[must_use]
    pub const fn is_swapped(&self) -> bool {
        matches!(self, Self::Swapped(_))
    }
}

impl<V: Value> SharedValue<V> {
    /// The shared value of `key`.
    pub fn new(client: &Client, key: impl IntoBytes) -> Self {
        Self::with_stm(client, Stm::new(client), key)
    }

    /// The shared value of `key`, whose updates `stm` runs.
    pub(super) fn with_stm(client: &Client, stm: Stm, key: impl IntoBytes) -> Self {
        Self { client: client.clone(), stm, key: key.into_bytes(), value: PhantomData }
    }

    /// Applies each [`update`](Self::update) exactly once: resolves an update whose response was
    /// lost, unless the session is lost, or the store does not respond within the budget of
    /// [`retry`](Self::retry): then the error is [`StmError::OutcomeUnknown`].
    ///
    /// Create this handle once, and clone it. Each call of `exactly_once` stores idempotency keys
    /// of its own, which stay until the session ends: see [`Stm::exactly_once`].
    #[must_use]
    pub fn exactly_once(self, session: &Session) -> Self {
        Self { stm: self.stm.exactly_once(session), ..self }
    }

    /// Sets the budget for the attempts of [`update`](Self::update).
    #[must_use]
    pub fn retry(self, retry: Retry) -> Self {
        Self { stm: self.stm.retry(retry), ..self }
    }

    /// Returns the key.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        &self.key
    }

    /// Reads the value; `None` if the key is absent.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// The error of the backend. `InvalidValue` if the bytes are not a value of the type.
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn get(&self) -> Result<Option<V>> {
        let kv = self.client.get(&self.key).await?;
        self.decode(kv)
    }

    /// Sets the value, whatever it is. Returns the revision of the change.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// The error of the backend. `InvalidValue` if the value cannot be encoded: nothing was sent.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was set.
    pub async fn set(&self, value: &V) -> Result<Revision>
    where
        V: Sync,
    {
        let put = Put::new(&self.key, self.encode(value)?);
        Ok(self.client.put_with(put).await?.header.revision)
    }

    /// Deletes the key: the value is `None` afterwards.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// The error of the backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the key was deleted.
    pub async fn clear(&self) -> Result<()> {
        let delete = Delete::new(&self.key);
        self.client.delete(delete).await.map(drop)
    }

    /// Replaces the value if it is `expected`. `None` is the value of an absent key, so a swap from
    /// `None` creates the key, and a swap to `None` deletes it.
    ///
    /// The store compares the encoded bytes. So a type whose equal values can have different
    /// encodings, such as `Json` of a `HashMap`, may not be found equal: use
    /// [`update`](Self::update). If the value was changed and changed back, it is the expected
    /// value.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// The error of the backend. Another value is not an error: the result is
    /// [`ValueSwap::Found`]. `InvalidValue` if a value cannot be encoded: nothing was sent; or if
    /// the current value, another one, cannot be decoded: nothing was changed.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was replaced.
    pub async fn compare_and_swap(
        &self,
        expected: Option<&V>,
        new: Option<&V>,
    ) -> Result<ValueSwap<V>>
    where
        V: Sync,
    {
        let compare = match expected {
            Some(expected) => {
                let expected = self.encode(expected)?;
                Compare::value(&self.key, CompareOp::Equal, expected)
            }
            None => Compare::absent(&self.key),
        };
        let swap: Op = match new {
            Some(new) => {
                let put = Put::new(&self.key, self.encode(new)?);
                // An absent key has no lease to keep.
                if expected.is_some() { put.ignore_lease() } else { put }.into()
            }
            None => Delete::new(&self.key).into(),
        };
        let txn = Txn::new().when([compare]).and_then([swap]).or_else([Range::new(&self.key)]);
        let response = self.client.txn(txn).await?;
        if response.succeeded {
            return Ok(ValueSwap::Swapped(response.header.revision));
        }
        match response.responses.into_iter().next() {
            Some(OpResponse::Range(mut read)) => self.decode(read.kvs.pop()).map(ValueSwap::Found),
            other => unreachable!("the response to a range is {other:?}"),
        }
    }

    /// Updates the value: calls `closure` with the current value, and sets the value to the result,
    /// unless the key was changed meanwhile: then it calls `closure` again, within the budget of
    /// [`retry`](Self::retry). Returns the new value.
    ///
    /// `closure` may be called several times, so it must have no irreversible side effects. If it
    /// returns an error, nothing is written. To spawn the future, use a `move` closure that owns
    /// what it uses, as for [`Stm::run`].
    ///
    /// Cost: 2 requests, and 1 more for each conflict.
    ///
    /// # Errors
    /// As [`Stm::run`]. The error of `closure` is [`StmError::Aborted`], and so is an
    /// `InvalidValue`, converted into `E`, if the current value cannot be decoded or the new one
    /// cannot be encoded. A commit with an unknown outcome is [`StmError::OutcomeUnknown`], unless
    /// [`exactly_once`](Self::exactly_once) resolves it.
    ///
    /// # Cancel safety
    /// If the future is dropped during the commit, it is unknown whether the value was updated.
    /// Otherwise nothing was written.
    pub async fn update<E, F>(&self, closure: F) -> Result<Committed<Option<V>>, StmError<E>>
    where
        V: Send,
        E: From<Error> + Send,
        F: FnMut(Option<V>) -> Result<Option<V>, E> + Send,
    {
        let (key, mut closure) = (self.key.clone(), closure);
        let update = self.stm.run(async move |tx| {
            let new = closure(tx.get_as(key.clone()).await?)?;
            match &new {
                Some(new) => tx.put_as(key.clone(), new)?,
                None => tx.delete(key.clone()),
            }
            Ok(new)
        });
        update.await
    }

    /// Returns the stream of values, from now on: the current value, and then every change, in
    /// order.
    ///
    /// ```
    /// use coord_core::{Client, recipes::SharedValue};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limit = SharedValue::<i64>::new(&Client::new(MemBackend::new()), "limit");
    /// let mut values = limit.watch();
    /// assert_eq!(values.next().await.unwrap()?, None);
    ///
    /// limit.set(&1).await?;
    /// limit.set(&2).await?;
    /// assert_eq!(values.next().await.unwrap()?, Some(1));
    /// assert_eq!(values.next().await.unwrap()?, Some(2));
    /// assert_eq!(values.gap(), None, "no value is missing");
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self) -> Values<V>
    where
        V: 'static,
    {
        let followed = FollowedKey { client: self.client.clone(), key: self.key.clone() };
        // Fused, because a stream may be polled again after its end.
        let stream = CurrentKeys::stream(followed).fuse().boxed();
        Values { value: self.clone(), stream, gap: None, revision: Revision::ZERO }
    }

    fn encode(&self, value: &V) -> Result<Bytes> {
        value.encode().map_err(|error| invalid(&self.key, error))
    }

    fn decode(&self, kv: Option<KeyValue>) -> Result<Option<V>> {
        let decode = |kv: KeyValue| V::decode(kv.value).map_err(|error| invalid(&self.key, error));
        kv.map(decode).transpose()
    }
}

impl<V> Clone for SharedValue<V> {
    fn clone(&self) -> Self {
        let Self { client, stm, key, value } = self;
        Self { client: client.clone(), stm: stm.clone(), key: key.clone(), value: *value }
    }
}

impl<V> fmt::Debug for SharedValue<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedValue(\"{}\")", self.key.escape_ascii())
    }
}

/// A stream of the values of a [`SharedValue`], from now on. While the store is unavailable it
/// waits.
///
/// The first item is the current value. An item is `None` when the key is absent. A value that is
/// set again is yielded again.
///
/// The stream sends a request only while it is polled. A consumer that polls late receives all
/// changes that are not compacted; [`gap`](Self::gap) returns where changes may be missing. The
/// stream reads the key again every 55 s, because a watch can fall silent, and because the history
/// of the store can be replaced. So the last value is yielded within a minute, unless the store is
/// unavailable.
///
/// # Errors
/// `InvalidValue` if the bytes are not a value of the type: the stream continues. Any other error
/// is one of the backend that is not retryable: the stream ends with it.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Values<V> {
    value: SharedValue<V>,
    stream: BoxStream<'static, Result<Item>>,
    gap: Option<Gap>,
    revision: Revision,
}

impl<V: Value> Values<V> {
    /// Returns the gap before the last item; `None` if no value is missing.
    ///
    /// If changes that the stream had not processed yet are compacted, if the store delivered a
    /// change out of order, or if the history of the store was replaced, the stream continues with
    /// the current value. It reports a gap, unless the key is unchanged. If the key was absent
    /// before the gap and is absent after it, the next value has the gap.
    #[must_use]
    pub const fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Returns the revision of the last item: the value is current as of this revision.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Waits for the next item; `None` after the end of the stream, on every further call.
    ///
    /// # Errors
    /// `InvalidValue`: the stream continues. Any other error ends it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns the item.
    pub async fn next(&mut self) -> Option<Result<Option<V>>> {
        futures_util::StreamExt::next(self).await
    }
}

impl<V: Value> Stream for Values<V> {
    type Item = Result<Option<V>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(item) = ready!(self.stream.as_mut().poll_next(cx)) else {
            return Poll::Ready(None);
        };
        let value = item.and_then(|Item { kv, header, gap }| {
            (self.gap, self.revision) = (gap, header.revision);
            self.value.decode(kv)
        });
        Poll::Ready(Some(value))
    }
}

impl<V> fmt::Debug for Values<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("key", &self.value.key).finish_non_exhaustive()
    }
}
