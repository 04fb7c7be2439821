//! RAII guard for a queue key: deletes the key if its owner is dropped while the key may exist.
//!
//! [`Ownership`] is a session, a key, and the revision that created the key: whether the session
//! still holds the key, and what may be done while it does. All users of the key share it: the
//! contender, proclaimers, cancellation tokens. [`KeyGuard`] is the one owner. It is armed *before*
//! the transaction that creates the key is sent, so a dropped future, an error or an unknown
//! outcome never leaves a key in the queue while the session lives: the session task deletes it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, LossReason, Outcome, PrimitiveError, Result};
use crate::key_watch::wait_deleted;
use crate::kv::{
    Compare, CompareOp, FencingToken, Header, IntoBytes, Op, OpResponse, Put, Revision, Txn,
    TxnResponse,
};
use crate::session::{KeySuffix, OrphanedKey, Session, SessionState};
use crate::shared::QueueEntry;

/// A queue key, held by a session since the revision that created the key. Dropping it does not
/// release the key; clones are handles to the same key.
#[derive(Clone)]
pub struct Ownership(Arc<Inner>);

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
    /// Notes whether the owner of the key may have deleted it.
    pub(super) fn set_released(&self, is_released: bool) {
        self.0.is_released.store(is_released, Ordering::Relaxed);
    }

    /// Why the key was lost, if that was reported.
    pub(super) fn reported_loss(&self) -> Option<LossReason> {
        self.0.reported_loss.get().copied()
    }

    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.0.session
    }

    /// Returns the key in the queue.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.0.key
    }

    /// The create revision of the key. A key that is not created compares as zero, as in the store.
    pub(super) fn created(&self) -> Revision {
        self.0.created.get().copied().unwrap_or_default()
    }

    /// The key and its create revision, to be found in the queue.
    pub(super) fn entry(&self) -> QueueEntry {
        QueueEntry { key: self.key().clone(), created: self.created() }
    }

    /// Returns the fencing token: the create revision of the key.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        FencingToken(self.created())
    }

    /// Returns a compare that holds as long as the key is in the queue. A contender that was first
    /// once stays first as long as it holds.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        Compare::create_revision(self.key(), CompareOp::Equal, self.created())
    }

    /// Applies `txn` if the key is still held, evaluated by the store in the same step.
    ///
    /// It is sent as a transaction nested in one with the [condition](Self::held_condition) that
    /// the key is held, so its own conditions keep their meaning. It may have one operation less
    /// than the limit of the backend.
    ///
    /// # Errors
    /// `Lost` if the key is lost: nothing was applied. Otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        let TxnResponse { header, responses, .. } = self.while_in_queue([Op::Txn(txn)]).await?;
        match responses.into_iter().next() {
            Some(OpResponse::Txn(response)) => Ok(TxnResponse { header, ..response }),
            other => unreachable!("a transaction was answered with {other:?}"),
        }
    }

    /// Changes the value that other clients read under the key. The position stays the same.
    ///
    /// # Errors
    /// `Lost` if the key is lost: nothing was applied. Otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn set_value(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        let put = Put::new(self.key(), value.into_bytes()).lease(self.session().lease_id());
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
        if reason == LossReason::KeyDeleted && self.0.is_released.load(Ordering::Relaxed) {
            return reason;
        }
        self.session().note_loss(reason, self.key());
        *self.0.reported_loss.get_or_init(|| reason)
    }

    /// Waits until the key is lost, and returns why: the session was lost, or another client
    /// deleted the key. It reads the key once in each TTL of the session, so that a watch that has
    /// fallen silent delays the report and no more.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        tokio::select! {
            biased;
            reason = self.session().lost() => reason,
            () = self.deleted(self.session().ttl()) => self.why_evicted().await,
        }
    }

    /// Waits until another client deletes the key. A watch that has fallen silent is not noticed.
    pub(super) async fn evicted(&self) -> LossReason {
        self.deleted(Duration::MAX).await;
        self.why_evicted().await
    }

    async fn deleted(&self, silent_after: Duration) {
        let (session, created) = (self.session(), self.created());
        wait_deleted(session.backend(), self.key(), created, silent_after, session.ttl()).await;
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, created) = (self.key(), self.created());
        write!(f, "Ownership(\"{}\" created at {created})", key.escape_ascii())
    }
}

/// A queue key that is deleted when the guard is dropped, as long as the session lives.
#[derive(Debug)]
pub(super) struct KeyGuard {
    ownership: Ownership,
    /// Whether the key may exist.
    is_armed: bool,
    /// The suffix in the key, if the session made it: free again when the key surely does not
    /// exist.
    suffix: Option<KeySuffix>,
}

impl KeyGuard {
    /// The guard of a key that does not exist yet.
    pub(super) fn new(session: &Session, key: Bytes, suffix: impl Into<Option<KeySuffix>>) -> Self {
        let ownership = Ownership(Arc::new(Inner {
            session: session.clone(),
            key,
            created: OnceLock::new(),
            reported_loss: OnceLock::new(),
            is_released: AtomicBool::new(false),
        }));
        Self { ownership, is_armed: false, suffix: suffix.into() }
    }

    /// The guard of a key on the session's lease that exists already. It deletes nothing until it
    /// is [armed](Self::set_armed).
    pub(super) fn existing(session: &Session, key: Bytes, created: Revision) -> Self {
        let guard = Self::new(session, key, None);
        guard.ownership.0.created.get_or_init(|| created);
        guard
    }

    pub(super) const fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// The put that creates the key.
    pub(super) fn put(&self, value: &Bytes) -> Put {
        Put::new(self.ownership.key(), value).lease(self.ownership.session().lease_id())
    }

    /// Sends the transaction that creates the key if it succeeds, and notes its outcome.
    pub(super) async fn create(&mut self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        let session = self.ownership.session().clone();
        self.is_armed = true;
        let sent = async { Ok(session.backend().txn(txn).await?) };
        match session.while_held(sent).await {
            Ok(response) => {
                self.is_armed = response.succeeded;
                if response.succeeded {
                    self.ownership.0.created.get_or_init(|| response.header.revision);
                }
                Ok(response)
            }
            Err(PrimitiveError::Backend(error)) => {
                self.is_armed = error.outcome() == Outcome::Unknown;
                if !matches!(error, Error::LeaseNotFound { .. }) {
                    return Err(error.into());
                }
                let reason = session.why_lost().await.unwrap_or(LossReason::Revoked);
                session.note_loss(reason, self.ownership.key());
                Err(reason.into())
            }
            Err(lost) => Err(lost),
        }
    }

    /// Gives up a key of another owner of the lease: its suffix is not used again.
    pub(super) fn retire_suffix(mut self) {
        if let Some(suffix) = &mut self.suffix {
            suffix.retire();
        }
    }

    /// Sets whether dropping the guard deletes the key: not before the key is to be handed out, and
    /// not after it surely does not exist any more.
    pub(super) const fn set_armed(&mut self, is_armed: bool) {
        self.is_armed = is_armed;
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        if self.is_armed {
            let created = self.ownership.0.created.get().copied();
            let mut suffix = self.suffix.take();
            if let (Some(suffix), None) = (&mut suffix, created) {
                // A late request to delete the key must not meet a later contender of that name.
                suffix.retire();
            }
            let key = self.ownership.key().clone();
            self.ownership.session().clean_up(OrphanedKey { key, created, suffix });
        }
    }
}
