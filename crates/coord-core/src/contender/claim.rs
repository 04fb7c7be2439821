//! What is judged by a key's create revision: whether it is held, and what may be done while it is.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::FencingToken;
use super::standing::Place;
use crate::error::Result;
use crate::kv::{
    Compare, CompareOp, Header, Op, OpResponse, Put, Range, RangeResponse, Txn, TxnResponse, Watch,
    WatchFilter, WatchRequest,
};
use crate::loss::{LossReason, PrimitiveError};
use crate::retry::{PAUSE, patiently};
use crate::session::{Session, SessionState};

/// A key in a line, held by a session since the revision that created it.
///
/// It knows, and owns nothing: whoever drops it leaves the key where it is.
#[derive(Clone)]
pub(crate) struct Claim {
    session: Session,
    place: Place,
    /// Why the key was lost, once that was reported to any of its users.
    lost: Arc<OnceLock<LossReason>>,
    /// Whether its owner may have deleted the key: that it is gone is no loss then.
    is_released: Arc<AtomicBool>,
}

impl Claim {
    pub(super) fn new(session: Session, place: Place) -> Self {
        Self { session, place, lost: Arc::default(), is_released: Arc::default() }
    }

    /// Notes whether the owner of the key may have deleted it.
    pub(super) fn set_released(&self, is_released: bool) {
        self.is_released.store(is_released, Ordering::Relaxed);
    }

    /// Why the key was lost, if that was reported.
    pub(super) fn reported_loss(&self) -> Option<LossReason> {
        self.lost.get().copied()
    }

    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) const fn key(&self) -> &Bytes {
        &self.place.key
    }

    pub(crate) const fn fencing_token(&self) -> FencingToken {
        FencingToken(self.place.created)
    }

    /// Holds in a transaction as long as this key is in the line.
    pub(crate) fn is_held(&self) -> Compare {
        Compare::create_revision(self.key(), CompareOp::Equal, self.place.created)
    }

    /// Applies `txn` if the key is still in the line, judged by the store in the same step.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        let TxnResponse { header, responses, .. } = self.guarded([Op::Txn(txn)]).await?;
        match responses.into_iter().next() {
            Some(OpResponse::Txn(response)) => Ok(TxnResponse { header, ..response }),
            answer => unreachable!("a transaction was answered with {answer:?}"),
        }
    }

    /// Changes the value that others read under the key, if the key is still in the line.
    pub(crate) async fn set_value(&self, value: Bytes) -> Result<Header, PrimitiveError> {
        let put = Put::new(self.key(), value).lease(self.session.lease_id());
        Ok(self.guarded([Op::Put(put)]).await?.header)
    }

    /// Takes steps if the key is still in the line; `Lost` if it is not, or if the session is: the
    /// store could not tell its owner from an heir.
    pub(super) async fn guarded(
        &self,
        steps: impl IntoIterator<Item = Op> + Send,
    ) -> Result<TxnResponse, PrimitiveError> {
        if let SessionState::Lost(reason) = self.session.state() {
            return Err(reason.into());
        }
        let txn = Txn::new().when([self.is_held()]).and_then(steps);
        let answer = self.session.backend().txn(txn).await?;
        if answer.succeeded { Ok(answer) } else { Err(self.why_gone().await.into()) }
    }

    /// Why the key is not in the line any more.
    pub(super) async fn why_gone(&self) -> LossReason {
        let reason = self.session.why_lost().await.unwrap_or(LossReason::KeyDeleted);
        if reason == LossReason::KeyDeleted && self.is_released.load(Ordering::Relaxed) {
            return reason;
        }
        self.session.note_loss(reason, self.key());
        *self.lost.get_or_init(|| reason)
    }

    /// Waits until the session is lost, or the key is deleted by somebody else.
    pub(crate) async fn lost(&self) -> LossReason {
        tokio::select! {
            biased;
            reason = self.session.lost() => reason,
            () = self.deleted() => self.why_gone().await,
        }
    }

    /// Runs `future` until it is done or the key is lost.
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
    async fn deleted(&self) {
        let mut from = self.place.created;
        let mut watch = None;
        let mut pause = PAUSE;
        loop {
            if watch.is_none() {
                let request = WatchRequest::new(self.key()).start_at(from.next());
                watch = self.watch(request).await.ok();
            }
            let told = match &mut watch {
                Some(watch) => timeout(self.session.ttl(), watch.next()).await,
                None => Ok(None),
            };
            match told {
                Ok(Some(Ok(batch))) if !batch.events.is_empty() => return,
                // Nothing was told for long: all is well, or the watch has fallen silent.
                Ok(Some(Ok(_))) | Err(_) => pause = PAUSE,
                // The watch could not be had, or ended: go on where the look leaves off.
                Ok(Some(Err(_)) | None) => {
                    watch = None;
                    sleep(pause).await;
                    pause = (pause * 2).min(self.session.ttl());
                }
            }
            if let Ok(read) = self.read(Range::new(self.key()).keys_only()).await {
                if read.kvs.first().is_none_or(|kv| kv.create_revision != self.place.created) {
                    return;
                }
                from = read.header.revision;
            }
        }
    }

    pub(super) async fn read(&self, range: Range) -> Result<RangeResponse> {
        patiently(|| self.session.backend().range(range.clone())).await
    }

    /// Watches deletions.
    pub(super) async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        let request = request.filter(WatchFilter::NoPut);
        patiently(|| self.session.backend().watch(request.clone())).await
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("key", &self.place.key)
            .field("created", &self.place.created)
            .finish_non_exhaustive()
    }
}
