//! A store for sessions on leases that are somebody else's.
//!
//! To refresh a lease is only to look whether it is there, and to revoke one is nothing; all else
//! is as in the store beneath.

use std::sync::Arc;

use coord_core::{
    Error, KvBackend, Result,
    kv::{
        Compact, CompactResponse, Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId,
        LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
        LeasesResponse, Limits, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse, Watch,
        Watcher,
    },
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
impl Layer for OnlyLooked {
    type Inner = dyn KvBackend;

    fn inner(&self) -> &dyn KvBackend {
        &*self.store
    }

    /// As long as the lease is there it is taken to have its whole time: that it ends is told by
    /// the store, which deletes the contender's key.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        let answer = self.store.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
        let lease = answer.lease.ok_or(Error::LeaseNotFound { lease: Some(id) })?;
        Ok(LeaseKeepAliveResponse { header: answer.header, id, ttl: lease.granted })
    }

    /// The session ends, and the lease goes on.
    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        let answer = self.store.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
        Ok(LeaseRevokeResponse { header: answer.header })
    }
}
