//! Backends with one flaw each, which the comparison with the model must find.
//!
//! A comparison that cannot fail proves nothing. A real store might have each of these flaws, and
//! tests of single calls might not find it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    error::ErrorKind,
    kv::{
        Compact, CompactResponse, Compare, LeaseGrant, LeaseGrantResponse, OpResponse, Put,
        PutResponse, Range, RangeResponse, Revision, Txn, TxnResponse, Watch, WatchBatch,
        WatchStream, Watcher,
    },
    layer::Layer,
};
use coord_mem::MemBackend;
use futures_util::{Stream, StreamExt};

/// The flaw of a [`Flawed`] backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The filter by minimum create revision is off by one.
    FilterOffByOne,
    /// A put that replaces a key with a lease does not return `prev_kv`.
    OmitsPrevKv,
    /// The revision in the header of a delete in a transaction is too high by one.
    WrongNestedHeader,
    /// A put on a missing lease fails with `KeyNotFound`.
    WrongErrorKind,
    /// A lease that is requested for 2 s or longer expires a second after its TTL.
    LateExpiry,
    /// A watch delivers the events of one revision in several batches.
    SplitsBatches,
    /// A compare of an empty range is always true.
    EmptyRangeHolds,
    /// A compaction at the current revision is ignored.
    IgnoresCompaction,
}

impl Flaw {
    pub(crate) const ALL: [Self; 8] = [
        Self::FilterOffByOne,
        Self::OmitsPrevKv,
        Self::WrongNestedHeader,
        Self::WrongErrorKind,
        Self::LateExpiry,
        Self::SplitsBatches,
        Self::EmptyRangeHolds,
        Self::IgnoresCompaction,
    ];
}

/// A `MemBackend` with one flaw.
#[derive(Debug)]
pub(crate) struct Flawed {
    pub(crate) inner: MemBackend,
    pub(crate) flaw: Flaw,
}

impl Flawed {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }
}

#[async_trait]
impl Layer for Flawed {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        &self.inner
    }

    async fn range(&self, mut request: Range) -> Result<RangeResponse> {
        if self.has(Flaw::FilterOffByOne) {
            request.min_create_revision = request.min_create_revision.map(Revision::next);
        }
        self.inner.range(request).await
    }

    async fn txn(&self, mut request: Txn) -> Result<TxnResponse> {
        if self.has(Flaw::EmptyRangeHolds) {
            request.compares.retain(|compare: &Compare| !compare.keys.is_empty());
        }
        let mut response = self.inner.txn(request).await?;
        if self.has(Flaw::WrongNestedHeader) {
            for response in &mut response.responses {
                if let OpResponse::Delete(delete) = response {
                    delete.header.revision = delete.header.revision.next();
                }
            }
        }
        Ok(response)
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        let watch = self.inner.watch(request).await?;
        if !self.has(Flaw::SplitsBatches) {
            return Ok(watch);
        }
        Ok(Watcher::new(watch.header(), SplitWatch { watch, rest: Vec::new() }))
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        if !self.has(Flaw::LateExpiry) || request.ttl < Duration::from_secs(2) {
            return self.inner.lease_grant(request).await;
        }
        let longer = request.ttl.saturating_add(Duration::from_secs(1));
        let response = self.inner.lease_grant(LeaseGrant { ttl: longer, ..request }).await?;
        Ok(LeaseGrantResponse { ttl: request.ttl, ..response })
    }

    async fn compact(&self, request: Compact) -> Result<CompactResponse> {
        let header = self.inner.leases().await?.header;
        if self.has(Flaw::IgnoresCompaction) && request.revision == header.revision {
            return Ok(CompactResponse { header });
        }
        self.inner.compact(request).await
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        let key = request.key.clone();
        let mut response = self.inner.put(request).await.map_err(|error| {
            if self.has(Flaw::WrongErrorKind) && error.kind() == ErrorKind::LeaseNotFound {
                return Error::KeyNotFound { key: Some(key) };
            }
            error
        })?;
        if self.has(Flaw::OmitsPrevKv) {
            response.prev_kv.take_if(|kv| kv.lease.is_some());
        }
        Ok(response)
    }
}

/// A watch that delivers each event in its own batch.
#[derive(Debug)]
struct SplitWatch {
    watch: Watcher,
    /// The remaining events of a batch, last event first.
    rest: Vec<WatchBatch>,
}

impl Stream for SplitWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(batch) = self.rest.pop() {
            return Poll::Ready(Some(Ok(batch)));
        }
        let Some(item) = ready!(self.watch.poll_next_unpin(cx)) else { return Poll::Ready(None) };
        let WatchBatch { revision, mut events } = match item {
            Ok(batch) => batch,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        let later = events.split_off(events.len().min(1));
        let alone = later.into_iter().map(|event| WatchBatch { revision, events: vec![event] });
        self.rest = alone.rev().collect();
        Poll::Ready(Some(Ok(WatchBatch { revision, events })))
    }
}

impl WatchStream for SplitWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}
