//! Ownership of a queue key: whether the session still holds it, and what may be done while it does.
//!
//! Ownership is a session, a key, and the revision that created the key. It is shared by all that
//! use the key: the contender, proclaimers, cancellation tokens. Dropping it does not delete the
//! key; that is for the key guard (`key_guard.rs`).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::FencingToken;
use super::position::QueueEntry;
use crate::backoff::Backoff;
use crate::error::{LossReason, PrimitiveError, Result};
use crate::kv::{
    Compare, CompareOp, Header, Op, OpResponse, Put, Range, RangeResponse, Revision, Txn,
    TxnResponse, Watch, WatchFilter, Watcher,
};
use crate::retry_read::{FIRST_PAUSE, retry_read};
use crate::session::{Session, SessionState};

/// A queue key, held by a session since the revision that created the key.
#[derive(Clone)]
pub(crate) struct Ownership {
    inner: Arc<Inner>,
}

struct Inner {
    session: Session,
    key: Bytes,
    /// Set when the key is created.
    created: OnceLock<Revision>,
    /// Why the key was lost, once that was reported to any user of it.
    reported_loss: OnceLock<LossReason>,
    /// Whether the owner may have deleted the key: then it is no loss that the key is gone.
    is_released: AtomicBool,
}

impl Ownership {
    /// The ownership of a key that is not created yet.
    pub(super) fn new(session: &Session, key: Bytes) -> Self {
        let inner = Inner {
            session: session.clone(),
            key,
            created: OnceLock::new(),
            reported_loss: OnceLock::new(),
            is_released: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Notes the revision that created the key; only the first call counts.
    pub(super) fn set_created(&self, created: Revision) {
        let _ = self.inner.created.set(created);
    }

    pub(super) fn created(&self) -> Option<Revision> {
        self.inner.created.get().copied()
    }

    /// Notes whether the owner of the key may have deleted it.
    pub(super) fn set_released(&self, is_released: bool) {
        self.inner.is_released.store(is_released, Ordering::Relaxed);
    }

    /// Why the key was lost, if that was reported.
    pub(super) fn reported_loss(&self) -> Option<LossReason> {
        self.inner.reported_loss.get().copied()
    }

    pub(crate) fn session(&self) -> &Session {
        &self.inner.session
    }

    pub(crate) fn key(&self) -> &Bytes {
        &self.inner.key
    }

    /// The create revision of the key. A key that is not created compares as zero, as in the store.
    fn revision(&self) -> Revision {
        self.created().unwrap_or_default()
    }

    /// The key and its create revision, to be found in the queue.
    pub(super) fn entry(&self) -> QueueEntry {
        QueueEntry::new(self.key().clone(), self.revision(), self.session().lease_id())
    }

    pub(crate) fn fencing_token(&self) -> FencingToken {
        FencingToken(self.revision())
    }

    /// A compare that holds as long as the key is in the queue.
    pub(crate) fn held_condition(&self) -> Compare {
        Compare::create_revision(self.key(), CompareOp::Equal, self.revision())
    }

    /// Applies `txn` if the key is still in the queue, evaluated by the store in the same step.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        let TxnResponse { header, responses, .. } = self.while_in_queue([Op::Txn(txn)]).await?;
        match responses.into_iter().next() {
            Some(OpResponse::Txn(response)) => Ok(TxnResponse { header, ..response }),
            other => unreachable!("a transaction was answered with {other:?}"),
        }
    }

    /// Changes the value that other clients read under the key, if the key is still in the queue.
    pub(crate) async fn set_value(&self, value: Bytes) -> Result<Header, PrimitiveError> {
        let put = Put::new(self.key(), value).lease(self.session().lease_id());
        Ok(self.while_in_queue([Op::Put(put)]).await?.header)
    }

    /// Applies operations if the key is still in the queue; `Lost` if it is not, or if the session
    /// is lost: the store could not tell the owner from an adopter.
    pub(super) async fn while_in_queue(
        &self,
        ops: impl IntoIterator<Item = Op> + Send,
    ) -> Result<TxnResponse, PrimitiveError> {
        if let SessionState::Lost(reason) = self.session().state() {
            return Err(reason.into());
        }
        let txn = Txn::new().when([self.held_condition()]).and_then(ops);
        let response = self.session().backend().txn(txn).await?;
        if response.succeeded { Ok(response) } else { Err(self.why_evicted().await.into()) }
    }

    /// Why the key is not in the queue any more. Notes the loss, unless the owner deleted the key.
    pub(super) async fn why_evicted(&self) -> LossReason {
        let reason = self.session().why_lost().await.unwrap_or(LossReason::KeyDeleted);
        let is_released = self.inner.is_released.load(Ordering::Relaxed);
        if reason == LossReason::KeyDeleted && is_released {
            return reason;
        }
        self.session().note_loss(reason, self.key());
        *self.inner.reported_loss.get_or_init(|| reason)
    }

    /// Waits until the session is lost, or another client deletes the key.
    pub(crate) async fn lost(&self) -> LossReason {
        tokio::select! {
            biased;
            reason = self.session().lost() => reason,
            () = self.deleted() => self.why_evicted().await,
        }
    }

    /// Runs `future` until it completes or the key is lost.
    pub(crate) async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        tokio::select! {
            biased;
            reason = self.lost() => Err(reason),
            output = future => Ok(output),
        }
    }

    /// Waits until the key is surely deleted.
    ///
    /// The watch starts at the create revision and resumes where a read left off, so a deletion is
    /// not missed. A watch that delivers nothing for a whole TTL may have fallen silent: the key is
    /// read then.
    async fn deleted(&self) {
        let ttl = self.session().ttl();
        let mut from = self.revision();
        let mut watcher = None;
        let mut backoff = Backoff::new(FIRST_PAUSE, ttl);
        loop {
            if watcher.is_none() {
                let watch = Watch::new(self.key()).start_at(from.next());
                watcher = self.watch(watch).await.ok();
            }
            let delivered = match &mut watcher {
                Some(watcher) => timeout(ttl, watcher.next()).await,
                None => Ok(None),
            };
            match delivered {
                Ok(Some(Ok(batch))) if !batch.events.is_empty() => return,
                Ok(Some(Ok(_))) | Err(_) => backoff.reset(),
                Ok(Some(Err(_)) | None) => {
                    watcher = None;
                    sleep(backoff.next()).await;
                }
            }
            if let Ok(read) = self.read(Range::new(self.key()).keys_only()).await {
                if read.kvs.first().is_none_or(|kv| kv.create_revision != self.revision()) {
                    return;
                }
                from = read.header.revision;
            }
        }
    }

    pub(super) async fn read(&self, range: Range) -> Result<RangeResponse> {
        retry_read(|| self.session().backend().range(range.clone())).await
    }

    /// Watches deletions.
    pub(super) async fn watch(&self, watch: Watch) -> Result<Watcher> {
        let watch = watch.filter(WatchFilter::NoPut);
        retry_read(|| self.session().backend().watch(watch.clone())).await
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ownership")
            .field("key", self.key())
            .field("created", &self.created())
            .finish_non_exhaustive()
    }
}
