//! The weakest store that the contract permits: reads that any member may serve return
//! old data.
//!
//! ```text
//! revision            4         5         6 (current)
//! x                   on duty             off duty
//! serializable read   any of them: the seed decides
//! linearizable read                       6
//! read as of 5        served, or refused by a member that is at 4
//! ```

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use coord_core::kv::{
    Delete, DeleteResponse, Put, PutResponse, Range, RangeResponse, Revision, Txn, TxnResponse,
};
use coord_core::layer::Layer;
use coord_core::{Error, KvBackend, Result, sync};

use crate::StaleMember;
use crate::stale_member::{current_revision, is_serializable};

/// A layer that serves each read that any member may serve as the worst member would: as of the
/// current or an earlier revision, which a seed chooses. So an invariant that needs a stronger
/// isolation level breaks in a handful of runs, without concurrency.
///
/// Half of these reads are current; of the others, half are one revision behind, a quarter two, and
/// so on. Each read chooses anew, so that two reads of one transaction can be from different
/// revisions. No read is older than the state in which the layer sent its first read or change of a
/// key, or than the newest compaction. Everything else is forwarded.
///
/// What transactions see of it:
///
/// - at `SerializableSnapshot` and `Serializable`, one snapshot, as always: a member that has not
///   reached its revision refuses a read, which is sent again. Nothing breaks;
/// - at `RepeatableReads`, old data in the first attempt. The commit validates them, unless the
///   transaction reads a single key and writes nothing. So such a transaction sees old data, a
///   range may lack keys, and an attempt that does not commit may see read skew;
/// - at `ReadCommitted`, old data in the first attempt, each key as of another revision: lost
///   update, write skew, read skew, and stale reads, also if transactions run one after the other.
///
/// ```
/// use coord_core::{Client, Error, Stm, stm::Isolation};
/// use coord_mem::MemBackend;
/// use coord_testkit::Weakest;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut lost = 0;
/// for seed in 0..10 {
///     let client = Client::new(Weakest::new(MemBackend::new(), seed));
///     let stm = Stm::new(&client).isolation(Isolation::ReadCommitted);
///     for _ in 0..2 {
///         let add = stm.run(async |tx| {
///             let n: u32 = tx.get_as::<String>("n").await?.map_or(0, |n| n.parse().unwrap_or(0));
///             tx.put("n", (n + 1).to_string());
///             Ok::<_, Error>(())
///         });
///         add.await?;
///     }
///     lost += u32::from(client.get("n").await?.expect("it was put").value != "2");
/// }
/// assert!(lost > 0, "an update is lost");
/// # Ok(())
/// # }
/// ```
///
/// Source: the idea of a store that returns any value its level permits is from Biswas, Kakwani,
/// Vedurada, Enea and Lal, "MonkeyDB: Effectively Testing Correctness under Weak Isolation Levels",
/// OOPSLA 2021.
#[derive(Clone)]
pub struct Weakest<B> {
    inner: B,
    state: Arc<Mutex<ReadAges>>,
}

#[derive(Debug)]
struct ReadAges {
    rng: fastrand::Rng,
    /// The revision of the store before the first read or change of a key.
    oldest: Option<Revision>,
}

impl<B: KvBackend + Clone> Weakest<B> {
    /// Wraps a store. The seed decides how old each read is; clones share it.
    pub fn new(inner: B, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { inner, state: Arc::new(Mutex::new(ReadAges { rng, oldest: None })) }
    }

    /// Lets reads go back to the state as of `revision`. By default they go back to the state in
    /// which the layer sent its first read or change of a key.
    #[must_use]
    pub fn oldest(self, revision: Revision) -> Self {
        sync::lock(&self.state).oldest = Some(revision);
        self
    }

    /// A member that is as far behind as the seed decides.
    async fn member(&self) -> Result<StaleMember<B>> {
        let newest = current_revision(&self.inner).await?;
        let mut state = sync::lock(&self.state);
        let oldest = *state.oldest.get_or_insert(newest);
        let mut behind = 0;
        while state.rng.bool() {
            behind += 1;
        }
        let member = StaleMember::new(self.inner.clone());
        let revision = Revision(newest.0 - behind).max(oldest);
        if revision < newest {
            member.fall_behind(revision);
        }
        Ok(member)
    }

    /// Notes the state in which the layer starts.
    async fn note_start(&self) -> Result<()> {
        if sync::lock(&self.state).oldest.is_none() {
            let newest = current_revision(&self.inner).await?;
            sync::lock(&self.state).oldest.get_or_insert(newest);
        }
        Ok(())
    }
}

impl<B> fmt::Debug for Weakest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weakest").field("state", &self.state).finish_non_exhaustive()
    }
}

#[async_trait]
impl<B: KvBackend + Clone> Layer for Weakest<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.inner
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        if !request.serializable {
            self.note_start().await?;
            return self.inner.range(request).await;
        }
        match KvBackend::range(&self.member().await?, request.clone()).await {
            // The revision is gone in the whole cluster.
            Err(Error::Compacted { .. }) => self.inner.range(request).await,
            response => response,
        }
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        self.note_start().await?;
        self.inner.put(request).await
    }

    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        self.note_start().await?;
        self.inner.delete(request).await
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        if !is_serializable(&request) {
            self.note_start().await?;
            return self.inner.txn(request).await;
        }
        match KvBackend::txn(&self.member().await?, request.clone()).await {
            Err(Error::Compacted { .. }) => self.inner.txn(request).await,
            response => response,
        }
    }
}
