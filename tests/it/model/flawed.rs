//! Backends with one fault each, to see that the comparison finds it.
//!
//! A comparison that can never fail proves nothing. Each flaw is one that a real store might have,
//! small enough to be overlooked by tests of single calls.

use coord_core::layer::Layer;
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
};
use coord_mem::MemBackend;
use futures_util::{Stream, StreamExt};

/// What is wrong with a [`Flawed`] backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A filter by creation revision is off by one.
    FilterOffByOne,
    /// A put that replaces a key with a lease does not return it.
    ForgetsPrevKv,
    /// A step's header shows the revision after the transaction's.
    WrongNestedHeader,
    /// A put that lacks its lease is refused for lack of its key.
    WrongKind,
    /// Leases live a second longer than they say.
    LateExpiry,
    /// A watch splits the events of a revision over several batches.
    SplitsBatches,
    /// An empty interval meets every condition.
    EmptyRangeHolds,
    /// Compacting at the current revision is ignored.
    IgnoresCompaction,
}

impl Flaw {
    pub(crate) const ALL: [Self; 8] = [
        Self::FilterOffByOne,
        Self::ForgetsPrevKv,
        Self::WrongNestedHeader,
        Self::WrongKind,
        Self::LateExpiry,
        Self::SplitsBatches,
        Self::EmptyRangeHolds,
        Self::IgnoresCompaction,
    ];
}

/// A store that is right but for one flaw.
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
            let can_hold = |compare: &Compare| !compare.keys.is_empty();
            request.compares.retain(can_hold);
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
        Ok(Watcher::new(watch.header(), Splitting { watch, rest: Vec::new() }))
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
            if self.has(Flaw::WrongKind) && error.kind() == ErrorKind::LeaseNotFound {
                return Error::KeyNotFound { key: Some(key) };
            }
            error
        })?;
        if self.has(Flaw::ForgetsPrevKv) {
            response.prev_kv.take_if(|kv| kv.lease.is_some());
        }
        Ok(response)
    }
}

/// A watch that delivers every event by itself.
#[derive(Debug)]
struct Splitting {
    watch: Watcher,
    /// What is left of a batch, last event first.
    rest: Vec<WatchBatch>,
}

impl Stream for Splitting {
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

impl WatchStream for Splitting {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}
