//! Tracing of requests: counts, times and logs each request to a backend.
//!
//! It shows which requests a slow or failing program sends, how long they take, and how they end.
//! The requests and their results are unchanged.

use async_trait::async_trait;
use tokio::time::Instant;

use super::Layer;
use crate::backend::KvBackend;
use crate::error::Result;
use crate::kv::{
    Compact, CompactResponse, Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId,
    LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
    LeasesResponse, Limits, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse, Watch,
    Watcher,
};
use crate::telemetry::request as events;

/// A backend whose requests are counted, timed and logged.
///
/// With the feature `metrics` it counts requests by operation and result (`coord_requests_total`),
/// and records their durations (`coord_request_seconds`). It logs to the target `coord::request`: a
/// failed request at the debug level, any other at the trace level. A request whose future was
/// dropped counts as `dropped`. The events of a watch are not counted.
///
/// ```
/// use coord_core::{Client, layer::TraceLayer};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let client = Client::new(TraceLayer::new(MemBackend::new()));
/// client.put("a", "1").await?; // TRACE coord::request put: elapsed=…
/// assert_eq!(client.get("a").await?.expect("just put").value, "1");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TraceLayer<B> {
    inner: B,
}

impl<B: KvBackend> TraceLayer<B> {
    /// A backend that records its requests and forwards them to `inner`.
    pub const fn new(inner: B) -> Self {
        Self { inner }
    }
}

/// A request in flight. If its future is dropped before the request has ended, it counts as
/// dropped.
struct InFlight {
    operation: &'static str,
    began: Instant,
    has_ended: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.has_ended {
            events::dropped(self.operation, self.began.elapsed());
        }
    }
}

/// Sends a request and records its result.
async fn trace_request<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    let mut in_flight = InFlight { operation, began: Instant::now(), has_ended: false };
    let result = request.await;
    in_flight.has_ended = true;
    events::ended(operation, result.as_ref().err(), in_flight.began.elapsed());
    result
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "every request is recorded")]
impl<B: KvBackend> Layer for TraceLayer<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        trace_request("range", self.inner.range(request)).await
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        trace_request("txn", self.inner.txn(request)).await
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        trace_request("watch", self.inner.watch(request)).await
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        trace_request("lease_grant", self.inner.lease_grant(request)).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        trace_request("lease_keep_alive", self.inner.lease_keep_alive(id)).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        trace_request("lease_revoke", self.inner.lease_revoke(id)).await
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        trace_request("lease_time_to_live", self.inner.lease_time_to_live(request)).await
    }

    async fn leases(&self) -> Result<LeasesResponse> {
        trace_request("leases", self.inner.leases()).await
    }

    async fn compact(&self, request: Compact) -> Result<CompactResponse> {
        trace_request("compact", self.inner.compact(request)).await
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        trace_request("put", self.inner.put(request)).await
    }

    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        trace_request("delete", self.inner.delete(request)).await
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}
