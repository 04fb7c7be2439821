//! A store for sessions on leases that are somebody else's.
//!
//! To refresh a lease is only to look whether it is there, and to revoke one is nothing; all else
//! is as in the store beneath.

use std::sync::Arc;

use coord_core::{
    Compact, CompactResponse, Delete, DeleteResponse, Error, KvBackend, LeaseGrant,
    LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive,
    LeaseTimeToLiveResponse, LeasesResponse, Limits, Put, PutResponse, Range, RangeResponse,
    Result, Txn, TxnResponse, Watch, WatchRequest,
};
use tonic::async_trait;

/// A store in which nobody refreshes or ends leases but the clients that have them.
pub(crate) struct OnlyLooked {
    store: Arc<dyn KvBackend>,
}

impl OnlyLooked {
    pub(crate) fn new(store: &Arc<dyn KvBackend>) -> Self {
        Self { store: Arc::clone(store) }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a provided method must not hide an override")]
impl KvBackend for OnlyLooked {
    /// As long as the lease is there it is taken to have its whole time: that it ends is told by
    /// the store, which deletes the contender's key.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        let answer = self.store.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
        let lease = answer.lease.ok_or(Error::LeaseNotFound { lease: Some(id) })?;
        Ok(LeaseKeepAliveResponse { header: answer.header, id, ttl: lease.granted })
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        self.store.range(request).await
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        self.store.txn(request).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        self.store.watch(request).await
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        self.store.lease_grant(request).await
    }

    /// The session ends, and the lease goes on.
    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        let answer = self.store.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
        Ok(LeaseRevokeResponse { header: answer.header })
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        self.store.lease_time_to_live(request).await
    }

    async fn leases(&self) -> Result<LeasesResponse> {
        self.store.leases().await
    }

    async fn compact(&self, request: Compact) -> Result<CompactResponse> {
        self.store.compact(request).await
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn put_with(&self, request: Put) -> Result<PutResponse> {
        self.store.put_with(request).await
    }

    async fn delete_with(&self, request: Delete) -> Result<DeleteResponse> {
        self.store.delete_with(request).await
    }
}
