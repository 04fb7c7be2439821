//! A client that stops waiting for an answer, while its request is still on its way.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_core::{
    Compact, CompactResponse, Error, KvBackend, LeaseGrant, LeaseGrantResponse, LeaseId,
    LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
    LeasesResponse, Limits, Range, RangeResponse, Result, Txn, TxnResponse, Watch, WatchRequest,
};
use coord_mem::MemBackend;
use coord_testkit::Rule;
use tokio::time::timeout;

use crate::support::behind;

/// A client that waits so long for reads and transactions.
pub(super) struct Impatient {
    inner: Arc<dyn KvBackend>,
    patience: Duration,
}

impl Impatient {
    /// A client of `store` that waits for a second, with `rule` in between.
    pub(super) fn client(store: &MemBackend, rule: impl Rule) -> Arc<dyn KvBackend> {
        Arc::new(Self { inner: behind(store, rule), patience: Duration::from_secs(1) })
    }

    async fn wait<T>(&self, answer: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let after = self.patience;
        timeout(after, answer).await.unwrap_or(Err(Error::Timeout { after }))
    }
}

#[async_trait]
impl KvBackend for Impatient {
    async fn range(&self, request: Range) -> Result<RangeResponse> {
        self.wait(self.inner.range(request)).await
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        self.wait(self.inner.txn(request)).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        self.inner.watch(request).await
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        self.inner.lease_grant(request).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        self.inner.lease_time_to_live(request).await
    }

    async fn leases(&self) -> Result<LeasesResponse> {
        self.inner.leases().await
    }

    async fn compact(&self, request: Compact) -> Result<CompactResponse> {
        self.inner.compact(request).await
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}
