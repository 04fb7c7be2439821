//! An etcd member in memory.
//!
//! [`MemBackend`] keeps the contract of [`KvBackend`] as a single member of
//! an etcd 3.5 cluster does, to the byte, and without a server: revisions, historic reads,
//! compaction, nested transactions, watches from the past, now or the future, leases. Its time is
//! tokio's, so a test on a paused clock sees a lease of an hour expire in no time. With a
//! [seed](MemBackendBuilder::seed) the same calls give the same answers to the last byte; without
//! one each store chooses other ids, as each life of an etcd cluster does.
//!
//! ```
//! use coord_core::{KvBackend, KvBackendExt, LeaseGrant, Put};
//! use coord_mem::MemBackend;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> coord_core::Result<()> {
//! let kv = MemBackend::new();
//! let lease = kv.lease_grant(LeaseGrant::new(Duration::from_secs(3600))).await?.id;
//! kv.put_with(Put::new("alive", "yes").lease(lease)).await?;
//!
//! tokio::time::sleep(Duration::from_secs(3601)).await; // on a paused clock: at once
//! assert_eq!(kv.get("alive").await?, None);
//! # Ok(())
//! # }
//! ```
//!
//! The parts, from the outside in:
//!
//! - this file: the async shell, which is thin;
//! - `options`: what can be chosen;
//! - `shared`: the lock, the lease clock and the lease timer;
//! - `watch`: who is told of which change;
//! - `store`: the state machine, synchronous and without a clock.

mod options;
mod shared;
mod store;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use coord_core::{
    Compact, CompactResponse, Delete, DeleteResponse, Error, KvBackend, LeaseGrant,
    LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive,
    LeaseTimeToLiveResponse, LeasesResponse, Limits, Put, PutResponse, Range, RangeResponse,
    Result, Txn, TxnResponse, Watch, WatchRequest,
};
use tokio::task::coop::consume_budget;

pub use options::MemBackendBuilder;
use options::Options;
use shared::Shared;
use store::{delete_size, put_size, range_size, replicated_size, txn_size, watch_size};
use watch::MemWatch;

/// An in-memory store that behaves as a single etcd member.
///
/// Clones share the store. It does no I/O; its one task ends leases that are overdue. Every call
/// is applied at the moment it is first polled, or the moment after; a future that was never
/// polled, or dropped while it had yielded, changed nothing.
///
/// Where it differs from etcd, on purpose: `docs/semantics.md`.
///
/// Source: `docs/etcd-contract.md` §1 to §8.
#[derive(Clone, Debug)]
pub struct MemBackend {
    shared: Arc<Shared>,
}

impl MemBackend {
    /// An empty store at revision 1, as a default etcd would be.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Chooses what the store is like.
    pub fn builder() -> MemBackendBuilder {
        MemBackendBuilder::new()
    }

    pub(crate) fn with(options: Options) -> Self {
        Self { shared: Arc::new(Shared::new(options)) }
    }
}

impl Default for MemBackend {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl KvBackend for MemBackend {
    async fn range(&self, request: Range) -> Result<RangeResponse> {
        consume_budget().await;
        self.check_message(range_size(&request))?;
        check_key(request.keys.start())?;
        self.shared.read().range(&request)
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        consume_budget().await;
        let (size, is_read_only) = (txn_size(&request), request.is_read_only());
        if is_read_only {
            self.check_message(size)?
        } else {
            self.check_change_message(size)?
        }
        request.check(&self.limits())?;
        if is_read_only {
            return self.shared.read().read_only_txn(&request);
        }
        self.check_replicated(size)?;
        self.shared.write(|store| store.txn(&request))
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        consume_budget().await;
        self.check_message(watch_size(&request))?;
        let store = self.shared.read();
        let request = watch::normalize(request, &store)?;
        let slot = self.shared.hub.register(request, &store);
        Ok(Watch::new(store.header(), MemWatch::new(Arc::clone(&self.shared), slot)))
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        consume_budget().await;
        self.shared.write_leases(|store, now| {
            let (id, ttl) = store.grant(request, now)?;
            Ok(LeaseGrantResponse { header: store.header(), id, ttl })
        })
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        consume_budget().await;
        self.shared.write_leases(|store, now| {
            let ttl = store.keep_alive(id, now)?;
            Ok(LeaseKeepAliveResponse { header: store.header(), id, ttl })
        })
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        consume_budget().await;
        self.shared.write_leases(|store, _| {
            store.revoke(id)?;
            Ok(LeaseRevokeResponse { header: store.header() })
        })
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        consume_budget().await;
        let store = self.shared.read();
        let lease = store.lease_status(request, self.shared.now());
        Ok(LeaseTimeToLiveResponse { header: store.header(), lease })
    }

    async fn leases(&self) -> Result<LeasesResponse> {
        consume_budget().await;
        let store = self.shared.read();
        Ok(LeasesResponse { header: store.header(), leases: store.leases() })
    }

    async fn compact(&self, request: Compact) -> Result<CompactResponse> {
        consume_budget().await;
        self.shared.write(|store| {
            store.compact(request)?;
            Ok(CompactResponse { header: store.header() })
        })
    }

    fn limits(&self) -> Limits {
        self.shared.options.limits
    }

    async fn put_with(&self, request: Put) -> Result<PutResponse> {
        consume_budget().await;
        let size = put_size(&request);
        self.check_change_message(size)?;
        request.check()?;
        self.check_replicated(size)?;
        self.shared.write(|store| store.put(request))
    }

    async fn delete_with(&self, request: Delete) -> Result<DeleteResponse> {
        consume_budget().await;
        let size = delete_size(&request);
        self.check_change_message(size)?;
        check_key(request.keys.start())?;
        self.check_replicated(size)?;
        Ok(self.shared.write(|store| store.delete(&request)))
    }
}

/// How much larger than a change a message may be: etcd's `grpcOverheadBytes`.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

impl MemBackend {
    /// Refuses what etcd's transport would not let in, whatever it is.
    fn check_message(&self, size_bytes: usize) -> Result<()> {
        within(size_bytes, self.limits().max_request_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES))
    }

    /// Refuses a change that etcd's transport would not let in, whatever it is. The error reports
    /// the lower limit, that of the log: a change that obeys the transport's limit may fail again.
    fn check_change_message(&self, size_bytes: usize) -> Result<()> {
        self.check_message(size_bytes).or_else(|_| self.check_replicated(size_bytes))
    }

    /// Refuses a change that is too large for etcd's log.
    fn check_replicated(&self, size_bytes: usize) -> Result<()> {
        within(replicated_size(size_bytes), self.limits().max_request_bytes)
    }
}

const fn within(size_bytes: usize, limit_bytes: usize) -> Result<()> {
    if size_bytes > limit_bytes {
        return Err(Error::RequestTooLarge { size_bytes, limit_bytes });
    }
    Ok(())
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}
