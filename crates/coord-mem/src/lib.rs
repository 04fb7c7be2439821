//! In-memory backend: an MVCC simulator of one etcd member.
//!
//! [`MemBackend`] implements [`KvBackend`] without a server. Except for the differences that
//! `docs/semantics.md` lists, it returns the same responses, to the byte, as a single member of an
//! etcd 3.5 cluster: revisions, historic reads, compaction, nested transactions, leases, and
//! watches that start at a past, the current or a future revision. Time is tokio's clock, so on a
//! paused clock a lease of one hour expires at once. With a [seed](MemBackendBuilder::seed), the
//! same calls return the same responses to the last byte; without one, each store chooses different
//! ids, as each new etcd cluster does.
//!
//! ```
//! use coord_core::{Client, kv::{LeaseGrant, Put}};
//! use coord_mem::MemBackend;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> coord_core::Result<()> {
//! let client = Client::new(MemBackend::new());
//! let lease = client.lease_grant(LeaseGrant::new(Duration::from_secs(3600))).await?.id;
//! client.put_with(Put::new("alive", "yes").lease(lease)).await?;
//!
//! tokio::time::sleep(Duration::from_secs(3601)).await; // on a paused clock: at once
//! assert_eq!(client.get("alive").await?, None);
//! # Ok(())
//! # }
//! ```
//!
//! The parts, from the outside in:
//!
//! - this file: the async methods, which check the size of a request and pass it to the store;
//! - `options`: the builder and its settings;
//! - `backup`: backups, and the restoration of a store from one;
//! - `shared`: the store's lock, the lease clock and the lease timer;
//! - `watch`: the watcher registry, and the stream of each watch;
//! - `store`: the MVCC store, synchronous and without a clock.

mod backup;
mod options;
mod shared;
mod store;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    kv::{
        Compact, CompactResponse, Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId,
        LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
        LeasesResponse, Limits, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse, Watch,
        Watcher,
    },
};
use tokio::task::coop::consume_budget;

pub use backup::Backup;
pub use options::MemBackendBuilder;
use options::Options;
use shared::Shared;
use store::{delete_size, put_size, range_size, replicated_size, txn_size, watch_size};
use watch::MemWatchStream;

/// An in-memory store that behaves as a single etcd member.
///
/// Clones share the store. The store does no I/O; its only task revokes overdue leases.
///
/// Deliberate differences from etcd: `docs/semantics.md`.
///
/// Source: `docs/etcd-contract.md` §1 to §8.
///
/// # Cancel safety
/// A call is applied when it is first polled or, if tokio's cooperative budget makes it yield, when
/// it is polled next. A future that is dropped before that changes nothing.
#[derive(Clone, Debug)]
pub struct MemBackend {
    shared: Arc<Shared>,
}

impl MemBackend {
    /// An empty store at revision 1, with the settings of a default etcd.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A builder for a backend with other settings.
    pub fn builder() -> MemBackendBuilder {
        MemBackendBuilder::new()
    }

    pub(crate) fn from_options(options: Options) -> Self {
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

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        consume_budget().await;
        self.check_message(watch_size(&request))?;
        let store = self.shared.read();
        let request = watch::normalize(request, &store)?;
        let registration = self.shared.watchers.register(request, &store);
        Ok(Watcher::new(
            store.header(),
            MemWatchStream::new(Arc::clone(&self.shared), registration),
        ))
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

    async fn put(&self, request: Put) -> Result<PutResponse> {
        consume_budget().await;
        let size = put_size(&request);
        self.check_change_message(size)?;
        request.check()?;
        self.check_replicated(size)?;
        self.shared.write(|store| store.put(request))
    }

    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        consume_budget().await;
        let size = delete_size(&request);
        self.check_change_message(size)?;
        check_key(request.keys.start())?;
        self.check_replicated(size)?;
        Ok(self.shared.write(|store| store.delete(&request)))
    }
}

/// How much larger a message may be than a change: etcd's `grpcOverheadBytes`.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

impl MemBackend {
    /// Rejects a message that etcd's gRPC transport would not accept.
    fn check_message(&self, size_bytes: usize) -> Result<()> {
        check_size(
            size_bytes,
            self.limits().max_request_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES),
        )
    }

    /// Rejects a change that etcd's gRPC transport would not accept. The error reports the lower
    /// limit of the raft log, because a change just below the transport's limit would be rejected
    /// too.
    fn check_change_message(&self, size_bytes: usize) -> Result<()> {
        self.check_message(size_bytes).or_else(|_| self.check_replicated(size_bytes))
    }

    /// Rejects a change that is too large for etcd's raft log.
    fn check_replicated(&self, size_bytes: usize) -> Result<()> {
        check_size(replicated_size(size_bytes), self.limits().max_request_bytes)
    }
}

const fn check_size(size_bytes: usize, limit_bytes: usize) -> Result<()> {
    if size_bytes > limit_bytes {
        return Err(Error::RequestTooLarge { size_bytes, limit_bytes });
    }
    Ok(())
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}
