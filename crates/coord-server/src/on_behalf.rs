//! Standing in a line for a client, on the client's own lease.
//!
//! coord's primitives stand on a [`Session`], which keeps its lease alive and ends it. Here the
//! lease is the client's: it keeps it alive, or does not, and decides when it ends. So the session
//! is given a store in which refreshing a lease is only to look whether it is there, and when the
//! call is over, answered or not, it is orphaned: what the contender left behind is cleaned up, and
//! the lease goes on.
//!
//! ```text
//! client                server                          line
//! grant L
//! Lock(m, L)            join on L, wait                 …  m/L-0
//!                       first: orphan, answer           m/L-0
//! keep L alive
//! Unlock(m/L-0)         delete                          (empty)
//!
//! Lock(m, L), gives up  leave the line, then orphan     …
//! ```
//!
//! A lease that is in the line already has its place: whoever asks again on it gets the same key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::contender::{Contender, WaitingLine};
use coord_core::{
    Compact, CompactResponse, Delete, DeleteResponse, Error, KvBackend, LeaseGrant,
    LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive,
    LeaseTimeToLiveResponse, LeasesResponse, Limits, PrimitiveError, Put, PutResponse, Range,
    RangeResponse, Result, Session, Txn, TxnResponse, Watch, WatchRequest,
};
use futures_util::FutureExt;
use tonic::{Status, async_trait};

use crate::services::Services;
use crate::status::{of_primitive, stopped, without_code};

/// How long a lease lives that a client leaves to the server: Go's `defaultSessionTTL`.
const TTL: Duration = Duration::from_secs(60);

/// The lease a client names; if it names none, a new one, which nobody keeps alive.
pub(crate) async fn lease(services: &Services, named: i64) -> Result<LeaseId, Status> {
    if let Some(lease) = LeaseId::new(named) {
        return Ok(lease);
    }
    let granted = services.backend().lease_grant(LeaseGrant::new(TTL)).await;
    granted.map(|granted| granted.id).map_err(|error| without_code(&error))
}

/// Waits in the line `name` on `lease` until it is first there, and leaves it to the client.
pub(crate) async fn first_in_line(
    services: &Services,
    name: Bytes,
    lease: LeaseId,
    value: Bytes,
) -> Result<Contender, Status> {
    let waiting = async {
        let store = Arc::new(OnlyLooked { store: Arc::clone(services.backend()) });
        let opened = Session::builder(store).lease(lease).open().await;
        let session = Lent(opened.map_err(|error| without_code(&error))?);
        let first = wait(services, &session.0, name, value).await;
        let contender = first.map_err(|error| of_primitive(&error))?;
        // Only then can the contender be dropped and its key stay.
        let left = session.0.orphan().await;
        left.map(|_| contender).map_err(|_| Status::unknown("mutex: session is expired"))
    };
    tokio::select! {
        biased;
        () = services.stopping() => Err(stopped()),
        first = waiting => first,
    }
}

async fn wait(
    services: &Services,
    session: &Session,
    name: Bytes,
    value: Bytes,
) -> Result<Contender, PrimitiveError> {
    let line = WaitingLine::new(session, name);
    // One at a time: two calls on one lease would both find it missing.
    let entering = services.entering().lock().await;
    let mut contender = match line.resume().await? {
        Some(found) => {
            let range = Range::new(found.key().clone());
            let read = services.backend().range(range).await?;
            if read.kvs.iter().any(|kv| kv.value != value) {
                found.set_value(value).await?;
            }
            found
        }
        None => line.join(value).await?,
    };
    drop(entering);
    contender.wait_turn().await?;
    Ok(contender)
}

/// A session whose lease survives it.
struct Lent(Session);

impl Drop for Lent {
    fn drop(&mut self) {
        // What is said at the first poll is enough: the session's own task does it.
        let _ = self.0.orphan().now_or_never();
    }
}

/// A store in which nobody refreshes leases but the clients that have them.
struct OnlyLooked {
    store: Arc<dyn KvBackend>,
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

    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        self.store.lease_revoke(id).await
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
