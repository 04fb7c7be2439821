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

/// A layer whose leases only the clients that own them keep alive and revoke.
#[derive(Debug)]
pub(crate) struct ReadOnlyLeases {
    backend: Arc<dyn KvBackend>,
}

impl ReadOnlyLeases {
    pub(crate) fn new(backend: &Arc<dyn KvBackend>) -> Self {
        Self { backend: Arc::clone(backend) }
    }
}

#[async_trait]
impl Layer for ReadOnlyLeases {
    type Inner = dyn KvBackend;

    fn inner(&self) -> &dyn KvBackend {
        &*self.backend
    }

    /// Returns the full TTL while the lease exists. When the lease ends, the store deletes the key
    /// of the contender, which ends the contender.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        let response = self.backend.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
        let lease = response.lease.ok_or(Error::LeaseNotFound { lease: Some(id) })?;
        Ok(LeaseKeepAliveResponse { header: response.header, id, ttl: lease.granted })
    }

    /// Returns a header without revoking the lease, so that the lease outlives the session.
    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        let response = self.backend.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
        Ok(LeaseRevokeResponse { header: response.header })
    }
}
