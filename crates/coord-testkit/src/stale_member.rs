//! A stale cluster member, which serves serializable reads from an old revision, and confirms
//! keep-alives with it.
//!
//! A member serves a serializable read from its local state, without consensus. After
//! [`fall_behind`](StaleMember::fall_behind), a [`StaleMember`] serves serializable reads, and
//! transactions that consist of serializable reads, at the given revision. It refuses such a read
//! at a later revision. A keep-alive takes effect at once, because a member forwards it to the
//! leader, but the header of its response has the given revision. All other requests are forwarded
//! unchanged.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    kv::{
        Header, LeaseId, LeaseKeepAliveResponse, Op, OpResponse, Range, RangeResponse, Revision,
        Txn, TxnResponse,
    },
    layer::Layer,
};

/// A layer whose serializable reads, and headers of keep-alives, can be made stale. Clones share
/// the state.
///
/// ```
/// use coord_core::{Client, KvBackend, kv::Range};
/// use coord_mem::MemBackend;
/// use coord_testkit::StaleMember;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let store = Client::new(MemBackend::new());
/// let member = StaleMember::new(store.clone());
/// let put = store.put("a", "1").await?;
/// member.fall_behind(put.header.revision);
/// store.put("a", "2").await?;
///
/// let serializable = member.range(Range::new("a").serializable()).await?;
/// assert_eq!(serializable.kvs[0].value, "1");
/// let linearizable = member.range(Range::new("a")).await?;
/// assert_eq!(linearizable.kvs[0].value, "2");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StaleMember<B> {
    inner: B,
    /// The newest revision that the member has applied; zero if the member is up to date.
    applied: Arc<AtomicI64>,
}

impl<B: KvBackend> StaleMember<B> {
    /// Wraps `inner` as a member that is up to date.
    pub fn new(inner: B) -> Self {
        Self { inner, applied: Arc::default() }
    }

    /// Makes the member stale: serializable reads see no change after `revision`, which is also the
    /// revision in the header of a keep-alive.
    pub fn fall_behind(&self, revision: Revision) {
        self.applied.store(revision.0, Ordering::Relaxed);
    }

    /// Brings the member up to date: serializable reads and keep-alives have the current revision
    /// again.
    pub fn catch_up(&self) {
        self.applied.store(0, Ordering::Relaxed);
    }

    /// The newest revision that serializable reads see, if the member is stale.
    fn stale_revision(&self) -> Option<Revision> {
        let applied = self.applied.load(Ordering::Relaxed);
        (applied > 0).then_some(Revision(applied))
    }

    /// Serves `range` like a member whose newest revision is `newest`.
    async fn range_at(&self, range: Range, newest: Revision) -> Result<RangeResponse> {
        let requested = range.revision.filter(|revision| *revision > Revision::ZERO);
        if requested.is_some_and(|revision| revision > newest) {
            return Err(Error::FutureRevision { requested, current: Some(newest) });
        }
        let revision = requested.unwrap_or(newest);
        let mut response = self.inner.range(range.at(revision)).await?;
        response.header.revision = newest;
        Ok(response)
    }

    /// Serves a transaction of serializable reads like a member whose newest revision is `newest`.
    async fn txn_at(&self, txn: Txn, newest: Revision) -> Result<TxnResponse> {
        let mut succeeded = true;
        for compare in &txn.compares {
            let compared = Range::new(&compare.keys);
            let kvs = self.range_at(compared, newest).await?.kvs;
            succeeded &= kvs.iter().all(|kv| compare.is_met_by(Some(kv)))
                && (!kvs.is_empty() || compare.is_met_by(None));
        }
        let mut responses = Vec::new();
        for op in if succeeded { txn.success } else { txn.failure } {
            if let Op::Range(range) = op {
                responses.push(OpResponse::Range(self.range_at(range, newest).await?));
            }
        }
        let mut header = current_header(&self.inner).await?;
        header.revision = newest;
        Ok(TxnResponse { header, succeeded, responses })
    }
}

/// The current header of a store: that of an empty transaction, which changes nothing.
async fn current_header(store: &(impl KvBackend + ?Sized)) -> Result<Header> {
    Ok(store.txn(Txn::new()).await?.header)
}

/// The current revision of a store.
pub(crate) async fn current_revision(store: &(impl KvBackend + ?Sized)) -> Result<Revision> {
    Ok(current_header(store).await?.revision)
}

/// Whether a member serves `txn` without consensus: every operation is a serializable read.
pub(crate) fn is_serializable(txn: &Txn) -> bool {
    let serializable = |op: &Op| matches!(op, Op::Range(range) if range.serializable);
    txn.success.iter().chain(&txn.failure).all(serializable)
}

#[async_trait]
impl<B: KvBackend> Layer for StaleMember<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        match self.stale_revision() {
            Some(newest) if request.serializable => self.range_at(request, newest).await,
            _ => self.inner.range(request).await,
        }
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        match self.stale_revision() {
            Some(newest) if is_serializable(&request) => self.txn_at(request, newest).await,
            _ => self.inner.txn(request).await,
        }
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        let mut response = self.inner.lease_keep_alive(id).await?;
        if let Some(newest) = self.stale_revision() {
            response.header.revision = newest;
        }
        Ok(response)
    }
}
