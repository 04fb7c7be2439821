//! Read-only leases: a backend for sessions on leases that belong to another process.
//!
//! Keep-alive only checks that the lease exists, and revoke is a no-op; everything else is
//! forwarded.

use std::sync::Arc;

use coord_core::{
    Error, KvBackend, Result,
    kv::{LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive},
    layer::Layer,
};
use tonic::async_trait;

/// A backend whose leases are kept alive and revoked only by the clients that own them.
#[derive(Debug)]
pub(crate) struct ReadOnlyLeases {
    store: Arc<dyn KvBackend>,
}

impl ReadOnlyLeases {
    pub(crate) fn new(store: &Arc<dyn KvBackend>) -> Self {
        Self { store: Arc::clone(store) }
    }
}

#[async_trait]
impl Layer for ReadOnlyLeases {
    type Inner = dyn KvBackend;

    fn inner(&self) -> &dyn KvBackend {
        &*self.store
    }

    /// Reports the full TTL while the lease exists. The session notices the end of the lease by its
    /// contender's key, which the store then deletes.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        let response = self.store.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
        let lease = response.lease.ok_or(Error::LeaseNotFound { lease: Some(id) })?;
        Ok(LeaseKeepAliveResponse { header: response.header, id, ttl: lease.granted })
    }

    /// Does nothing to the lease, so that it outlives the session.
    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        let response = self.store.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
        Ok(LeaseRevokeResponse { header: response.header })
    }
}
