//! A member that has stopped following the others.
//!
//! A serializable read is answered by the member that is asked, from what it knows. [`Lagging`]
//! knows nothing of what was done since it [fell behind](Lagging::fall_behind): such a read is
//! answered as of then, and one as of a later revision is refused. So is a transaction of such
//! reads, conditions and all. All else needs a majority, and is as on any other member.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    kv::{
        Compact, CompactResponse, Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId,
        LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
        LeasesResponse, Limits, Op, OpResponse, Put, PutResponse, Range, RangeResponse, Revision,
        Txn, TxnResponse, Watch, Watcher,
    },
};

/// A backend whose serializable reads can be made to lag behind. Clones share the lag.
///
/// ```
/// use coord_core::{Client, KvBackend, kv::Range};
/// use coord_mem::MemBackend;
/// use coord_testkit::Lagging;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let store = MemBackend::new();
/// let member = Lagging::new(store.clone());
/// let put = store.put("a", "1").await?;
/// member.fall_behind(put.header.revision);
/// store.put("a", "2").await?;
///
/// let anywhere = member.range(Range::new("a").serializable()).await?;
/// assert_eq!(anywhere.kvs[0].value, "1");
/// let majority = member.range(Range::new("a")).await?;
/// assert_eq!(majority.kvs[0].value, "2");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Lagging<B> {
    inner: B,
    /// The newest revision that the member knows; zero if it has caught up.
    newest: Arc<AtomicI64>,
}

impl<B: KvBackend> Lagging<B> {
    /// A member that does not lag behind yet.
    pub fn new(inner: B) -> Self {
        Self { inner, newest: Arc::default() }
    }

    /// From now on it knows nothing newer than `revision`.
    pub fn fall_behind(&self, revision: Revision) {
        self.newest.store(revision.0, Ordering::Relaxed);
    }

    /// It knows everything again.
    pub fn catch_up(&self) {
        self.newest.store(0, Ordering::Relaxed);
    }

    /// What it knows last, if it lags behind.
    fn newest(&self) -> Option<Revision> {
        let newest = self.newest.load(Ordering::Relaxed);
        (newest > 0).then_some(Revision(newest))
    }

    /// The answer of a member that knows nothing newer than `newest`.
    async fn range_behind(&self, range: Range, newest: Revision) -> Result<RangeResponse> {
        let requested = range.revision.filter(|revision| *revision > Revision::ZERO);
        if requested.is_some_and(|revision| revision > newest) {
            return Err(Error::FutureRevision { requested, current: Some(newest) });
        }
        let as_of = requested.unwrap_or(newest);
        let mut read = self.inner.range(range.at(as_of)).await?;
        read.header.revision = newest;
        Ok(read)
    }

    async fn txn_behind(&self, txn: Txn, newest: Revision) -> Result<TxnResponse> {
        let mut succeeded = true;
        for compare in &txn.compares {
            let compared = Range::new(&compare.keys);
            let kvs = self.range_behind(compared, newest).await?.kvs;
            succeeded &= kvs.iter().all(|kv| compare.is_met_by(Some(kv)))
                && (!kvs.is_empty() || compare.is_met_by(None));
        }
        let mut responses = Vec::new();
        for op in if succeeded { txn.success } else { txn.failure } {
            if let Op::Range(range) = op {
                responses.push(OpResponse::Range(self.range_behind(range, newest).await?));
            }
        }
        // Nothing is written, so this is the header of any read.
        let mut header = self.inner.txn(Txn::new()).await?.header;
        header.revision = newest;
        Ok(TxnResponse { header, succeeded, responses })
    }
}

/// Whether the member that is asked answers a transaction alone: all it does is to read so.
fn is_serializable(txn: &Txn) -> bool {
    let serializable = |op: &Op| matches!(op, Op::Range(range) if range.serializable);
    txn.success.iter().chain(&txn.failure).all(serializable)
}

#[async_trait]
impl<B: KvBackend> Layer for Lagging<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        match self.newest() {
            Some(newest) if request.serializable => self.range_behind(request, newest).await,
            _ => self.inner.range(request).await,
        }
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        match self.newest() {
            Some(newest) if is_serializable(&request) => self.txn_behind(request, newest).await,
            _ => self.inner.txn(request).await,
        }
    }
}
