//! Namespaces: the keys with a prefix, as a store of their own.
//!
//! Keys are sent with the prefix and returned without it. The subtle part is the translation of
//! ranges. With the prefix `p/`:
//!
//! ```text
//! request                sent                       reason
//! "a"                    "p/a"
//! ["a", "c")             ["p/a", "p/c")
//! ["a", ∞)               ["p/a", "p0")              the upper bound is the end of the prefix
//! ["\0", ∞)  all keys    ["p/\0", "p0")             "p/" itself would be the empty key
//! ""  the empty key      unchanged: refused         with the prefix it would mean the key "p/"
//! ```
//!
//! Only in a watch, the empty key means the smallest key, and is translated like "\0".
//!
//! Revisions, leases and compaction belong to the whole store and are not translated. Of a lease's
//! keys, only the keys of the namespace are returned. Two differences from a separate store remain:
//! writes outside the namespace increment the revision too, and the prefixes of a request's keys
//! count against the size limit.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_core::Stream;

use super::Layer;
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{
    Delete, DeleteResponse, IntoBytes, KeyRange, KeyValue, LeaseTimeToLive,
    LeaseTimeToLiveResponse, Op, OpResponse, Put, PutResponse, Range, RangeResponse, Txn,
    TxnResponse, Watch, WatchBatch, WatchStream, Watcher,
};

/// A backend that keeps all its keys under a prefix of another backend.
///
/// ```
/// use coord_core::{Client, layer::PrefixLayer};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let store = MemBackend::new();
/// let whole = Client::new(store.clone());
/// let namespace = Client::new(PrefixLayer::new(store, "blue/"));
/// namespace.put("a", "1").await?;
///
/// assert_eq!(namespace.get("a").await?.expect("just put").key, "a");
/// assert_eq!(whole.get("blue/a").await?.expect("the same key").value, "1");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PrefixLayer<B> {
    inner: B,
    prefix: Prefix,
}

impl<B: KvBackend> PrefixLayer<B> {
    /// A backend whose keys are the keys of `inner` with the prefix `prefix`.
    pub fn new(inner: B, prefix: impl IntoBytes) -> Self {
        Self { inner, prefix: Prefix(prefix.into_bytes()) }
    }
}

/// The prefix, and the translation of requests and responses.
#[derive(Clone, Debug)]
struct Prefix(Bytes);

impl Prefix {
    /// The key with the prefix.
    fn add(&self, key: &Bytes) -> Bytes {
        let mut prefixed = BytesMut::with_capacity(self.0.len() + key.len());
        prefixed.put_slice(&self.0);
        prefixed.put_slice(key);
        prefixed.freeze()
    }

    /// Adds the prefix to a key. An empty key stays empty, so that the inner backend refuses it.
    fn add_to_key(&self, key: &mut Bytes) {
        if !key.is_empty() {
            *key = self.add(key);
        }
    }

    /// Translates a range, by the table in the module documentation.
    fn add_to_range(&self, keys: &mut KeyRange) {
        if keys.start().is_empty() {
            return;
        }
        let range_end = match keys.upper_bound() {
            None => KeyRange::prefix(&self.0).range_end().clone(),
            Some(end) if end.is_empty() => Bytes::new(),
            Some(end) => self.add(end),
        };
        *keys = KeyRange::from_wire(self.add(keys.start()), range_end);
    }

    /// Adds the prefix to the keys of operations, also of nested transactions.
    fn add_to_ops(&self, ops: &mut [Op]) {
        for op in ops {
            match op {
                Op::Range(range) => self.add_to_range(&mut range.keys),
                Op::Put(put) => self.add_to_key(&mut put.key),
                Op::Delete(delete) => self.add_to_range(&mut delete.keys),
                Op::Txn(txn) => self.add_to_txn(txn),
            }
        }
    }

    fn add_to_txn(&self, txn: &mut Txn) {
        for compare in &mut txn.compares {
            self.add_to_range(&mut compare.keys);
        }
        self.add_to_ops(&mut txn.success);
        self.add_to_ops(&mut txn.failure);
    }

    /// Removes the prefix from a key.
    fn strip(&self, key: &mut Bytes) {
        if key.starts_with(&self.0) {
            *key = key.slice(self.0.len()..);
        }
    }

    fn strip_kvs<'a>(&self, kvs: impl IntoIterator<Item = &'a mut KeyValue>) {
        for kv in kvs {
            self.strip(&mut kv.key);
        }
    }

    fn strip_response(&self, response: &mut OpResponse) {
        match response {
            OpResponse::Range(range) => self.strip_kvs(&mut range.kvs),
            OpResponse::Put(put) => self.strip_kvs(&mut put.prev_kv),
            OpResponse::Delete(delete) => self.strip_kvs(&mut delete.prev_kvs),
            OpResponse::Txn(txn) => {
                txn.responses.iter_mut().for_each(|response| self.strip_response(response));
            }
        }
    }

    /// Removes the prefix from the key in an error.
    fn strip_error(&self, mut error: Error) -> Error {
        match &mut error {
            Error::KeyNotFound { key: Some(key) }
            | Error::ValueProvided { key }
            | Error::LeaseProvided { key }
            | Error::DuplicateKey { key } => self.strip(key),
            _ => {}
        }
        error
    }
}

#[async_trait]
impl<B: KvBackend> Layer for PrefixLayer<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn range(&self, mut request: Range) -> Result<RangeResponse> {
        self.prefix.add_to_range(&mut request.keys);
        let mut response = self.inner.range(request).await?;
        self.prefix.strip_kvs(&mut response.kvs);
        Ok(response)
    }

    async fn txn(&self, mut request: Txn) -> Result<TxnResponse> {
        self.prefix.add_to_txn(&mut request);
        let mut response =
            self.inner.txn(request).await.map_err(|error| self.prefix.strip_error(error))?;
        response.responses.iter_mut().for_each(|response| self.prefix.strip_response(response));
        Ok(response)
    }

    async fn watch(&self, mut request: Watch) -> Result<Watcher> {
        let requested = request.keys.clone();
        if request.keys.start().is_empty() {
            // A watch of the empty key is a watch of the smallest key.
            request.keys = KeyRange::from_wire("\0", request.keys.range_end());
        }
        self.prefix.add_to_range(&mut request.keys);
        let watch = self.inner.watch(request).await.map_err(|error| match error {
            Error::EmptyWatchRange { .. } => Error::EmptyWatchRange { keys: requested },
            error => error,
        })?;
        Ok(Watcher::new(watch.header(), PrefixWatch { inner: watch, prefix: self.prefix.clone() }))
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        let mut response = self.inner.lease_time_to_live(request).await?;
        if let Some(lease) = &mut response.lease {
            let prefix = &self.prefix.0;
            // Without the prefix, the key that equals it would be the empty key, which is invalid.
            lease.keys.retain(|key| key.len() > prefix.len() && key.starts_with(prefix));
            lease.keys.iter_mut().for_each(|key| self.prefix.strip(key));
        }
        Ok(response)
    }

    async fn put(&self, mut request: Put) -> Result<PutResponse> {
        self.prefix.add_to_key(&mut request.key);
        let mut response =
            self.inner.put(request).await.map_err(|error| self.prefix.strip_error(error))?;
        self.prefix.strip_kvs(&mut response.prev_kv);
        Ok(response)
    }

    async fn delete(&self, mut request: Delete) -> Result<DeleteResponse> {
        self.prefix.add_to_range(&mut request.keys);
        let mut response = self.inner.delete(request).await?;
        self.prefix.strip_kvs(&mut response.prev_kvs);
        Ok(response)
    }
}

/// A watch whose events are delivered without the prefix.
struct PrefixWatch {
    inner: Watcher,
    prefix: Prefix,
}

impl Stream for PrefixWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        Pin::new(&mut this.inner).poll_next(cx).map_ok(|mut batch| {
            for event in &mut batch.events {
                this.prefix.strip(&mut event.kv.key);
                this.prefix.strip_kvs(&mut event.prev_kv);
            }
            batch
        })
    }
}

impl WatchStream for PrefixWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.inner.request_progress();
    }
}
