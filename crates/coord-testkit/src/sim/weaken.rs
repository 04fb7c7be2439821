//! Weakened stores: stores that violate the contract deliberately, to check that a test fails.
//!
//! A sweep that passes proves something only if it fails when the store violates the contract. With
//! a weakness, the store of every run violates one rule of the contract of [`KvBackend`]. A sweep
//! that still passes does not test what depends on that rule.
//!
//! A weakness depends on nothing but the requests of the run. A run stays deterministic.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use coord_core::kv::{
    Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse,
    LeaseTimeToLive, LeaseTimeToLiveResponse, Put, PutResponse, Range, RangeResponse, Revision,
    Txn, TxnResponse, Watch, WatchBatch, WatchStream, Watcher,
};
use coord_core::layer::Layer;
use coord_core::{Client, KvBackend, Result};
use coord_mem::MemBackend;
use futures_util::{Stream, StreamExt as _};

use crate::stale_member::current_revision;

/// A rule of the contract that the store of every run violates. Set with
/// [`Sweep::weaken`](super::Sweep::weaken).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Weaken {
    /// A lease ends after half of the TTL that the store has granted. Breaks everything that
    /// relies on a deadline: two holders of a lock at the same time.
    LeaseEndsEarly,
    /// A watch does not deliver every third batch that has events. Breaks waiters that wait for
    /// one event, and caches that are kept up to date by a watch.
    WatchSkipsEvents,
    /// A watch delivers every third batch that has events twice. Breaks watchers that count or sum
    /// events.
    WatchRepeatsEvents,
    /// The last compare of a transaction is not evaluated. Breaks every transaction that depends
    /// on a compare: lost updates and write skew.
    TxnIgnoresCompare,
    /// A linearizable range request sees the store as of the revision before the current one.
    /// Breaks the reader of its own writes.
    StaleReads,
    /// Every third change is applied twice, as by a client that repeats a request whose response
    /// was lost. The response is that of the second time. Breaks every change that must not be
    /// repeated: a compare that was met is not met any more.
    ChangeAppliedTwice,
}

impl Weaken {
    /// All weaknesses.
    pub const ALL: [Self; 6] = [
        Self::LeaseEndsEarly,
        Self::WatchSkipsEvents,
        Self::WatchRepeatsEvents,
        Self::TxnIgnoresCompare,
        Self::StaleReads,
        Self::ChangeAppliedTwice,
    ];

    /// Returns a store with this weakness.
    pub(crate) fn wrap(self, store: MemBackend) -> Client {
        Client::new(WeakStore { store, weakness: self, changes: AtomicU64::new(0) })
    }
}

impl fmt::Display for Weaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LeaseEndsEarly => "a lease ends early",
            Self::WatchSkipsEvents => "a watch skips events",
            Self::WatchRepeatsEvents => "a watch repeats events",
            Self::TxnIgnoresCompare => "a transaction ignores a compare",
            Self::StaleReads => "reads are stale",
            Self::ChangeAppliedTwice => "a change is applied twice",
        })
    }
}

/// A store with one weakness.
#[derive(Debug)]
struct WeakStore {
    store: MemBackend,
    weakness: Weaken,
    /// How many changes were requested.
    changes: AtomicU64,
}

/// A weakness affects one of this many changes or batches.
const PERIOD: u64 = 3;

impl WeakStore {
    /// Counts a change. Returns whether it is applied twice.
    fn is_applied_twice(&self) -> bool {
        self.weakness == Weaken::ChangeAppliedTwice
            && (self.changes.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(PERIOD)
    }

    /// Returns the revision before the current one.
    async fn previous_revision(&self) -> Result<Revision> {
        let current = current_revision(&self.store).await?;
        Ok(Revision((current.0 - 1).max(1)))
    }
}

#[async_trait]
impl Layer for WeakStore {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        &self.store
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        let is_current = !request.serializable && request.revision.is_none_or(|r| r.0 == 0);
        if self.weakness != Weaken::StaleReads || !is_current {
            return self.store.range(request).await;
        }
        let revision = self.previous_revision().await?;
        match self.store.range(request.clone().at(revision)).await {
            Ok(mut response) => {
                response.header.revision = revision;
                Ok(response)
            }
            // The revision before the current one is compacted.
            Err(_) => self.store.range(request).await,
        }
    }

    async fn txn(&self, mut request: Txn) -> Result<TxnResponse> {
        if self.weakness == Weaken::TxnIgnoresCompare {
            request.compares.pop();
        }
        if !request.is_read_only() && self.is_applied_twice() {
            self.store.txn(request.clone()).await?;
        }
        self.store.txn(request).await
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        if self.is_applied_twice() {
            self.store.put(request.clone()).await?;
        }
        self.store.put(request).await
    }

    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        if self.is_applied_twice() {
            self.store.delete(request.clone()).await?;
        }
        self.store.delete(request).await
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        let watch = self.store.watch(request).await?;
        let weakness = self.weakness;
        if !matches!(weakness, Weaken::WatchSkipsEvents | Weaken::WatchRepeatsEvents) {
            return Ok(watch);
        }
        let header = watch.header();
        Ok(Watcher::new(header, WeakWatch { watch, weakness, batches: 0, repeated: None }))
    }

    async fn lease_grant(&self, mut request: LeaseGrant) -> Result<LeaseGrantResponse> {
        if self.weakness != Weaken::LeaseEndsEarly {
            return self.store.lease_grant(request).await;
        }
        request.check()?;
        let requested = request.ttl;
        request.ttl = Duration::from_secs((requested.as_secs() / 2).max(1));
        let response = self.store.lease_grant(request).await?;
        Ok(LeaseGrantResponse { ttl: requested.max(response.ttl), ..response })
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        let mut response = self.store.lease_keep_alive(id).await?;
        if self.weakness == Weaken::LeaseEndsEarly {
            response.ttl *= 2;
        }
        Ok(response)
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        let mut response = self.store.lease_time_to_live(request).await?;
        if let Some(lease) = &mut response.lease
            && self.weakness == Weaken::LeaseEndsEarly
        {
            lease.granted *= 2;
            lease.remaining *= 2;
        }
        Ok(response)
    }
}

/// A watch that skips or repeats batches.
struct WeakWatch {
    watch: Watcher,
    weakness: Weaken,
    /// How many batches with events the store has delivered.
    batches: u64,
    /// A batch to deliver again.
    repeated: Option<WatchBatch>,
}

impl Stream for WeakWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(batch) = self.repeated.take() {
            return Poll::Ready(Some(Ok(batch)));
        }
        loop {
            let next = ready!(self.watch.poll_next_unpin(cx));
            let Some(Ok(batch)) = &next else { return Poll::Ready(next) };
            if batch.events.is_empty() {
                return Poll::Ready(next);
            }
            self.batches += 1;
            let is_affected = self.batches.is_multiple_of(PERIOD);
            match self.weakness {
                Weaken::WatchSkipsEvents if is_affected => {}
                Weaken::WatchRepeatsEvents if is_affected => {
                    self.repeated = Some(batch.clone());
                    return Poll::Ready(next);
                }
                _ => return Poll::Ready(next),
            }
        }
    }
}

impl WatchStream for WeakWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}
