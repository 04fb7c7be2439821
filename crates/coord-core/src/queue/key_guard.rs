//! Key guard: the RAII guard of a queue key, which deletes the key if the guard is dropped while
//! the key may exist.
//!
//! | type | meaning |
//! |---|---|
//! | [`KeyGuard`] | the one owner of the key; dropping it deletes the key |
//! | [`Ownership`] | a shared handle to the key, with the operations that require the key |
//!
//! The contender, proclaimers and cancellation tokens share the ownership. The guard is armed
//! *before* the transaction that creates the key is sent. So a dropped future, an error or an
//! unknown outcome never leaves a key in the queue while the session lives: the session task
//! deletes it. The exception is the key of a lease-keyed contender, whose guard is armed after the
//! response (`lease_keyed.rs`).

use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, iter};

use bytes::Bytes;

use super::release_request::ReleaseRequest;
use crate::error::{Error, LossReason, Outcome, PrimitiveError, Result};
use crate::key_watch::wait_deleted;
use crate::kv::{
    Compare, CompareOp, Delete, FencingToken, Header, IntoBytes, KeyValue, Op, OpResponse, Put,
    Revision, Txn, TxnResponse,
};
use crate::session::{KeySuffix, OrphanedKey, Session, SessionState};
use crate::shared::QueueEntry;

/// A handle to a queue key that a session holds. Clones are handles to the same key. Dropping one
/// does not release the key.
#[derive(Clone)]
pub struct Ownership(Arc<Inner>);

struct Inner {
    session: Session,
    key: Bytes,
    /// Set when the key is created.
    created: OnceLock<Revision>,
    /// The reason why the key was lost, once a user of the key was notified of it.
    reported_loss: OnceLock<LossReason>,
    /// Whether the owner may have deleted the key: then a missing key is no loss.
    is_released: AtomicBool,
    /// Whether the owner has received a release request, which the release then deletes.
    has_release_request: AtomicBool,
}

impl Ownership {
    /// Notes whether the owner of the key may have deleted it.
    pub(crate) fn set_released(&self, is_released: bool) {
        self.0.is_released.store(is_released, Ordering::Relaxed);
    }

    /// Notes that the owner has received a release request.
    pub(super) fn note_release_request(&self) {
        self.0.has_release_request.store(true, Ordering::Relaxed);
    }

    /// The operations that delete the key, and the release request that its owner has received.
    pub(super) fn delete(&self) -> impl Iterator<Item = Op> + Send {
        let has_request = self.0.has_release_request.load(Ordering::Relaxed);
        let request = has_request.then(|| ReleaseRequest::key(self.key()));
        iter::once(self.key().clone()).chain(request).map(|key| Delete::new(key).into())
    }

    /// Leaves the release request that the owner has received to the end of the session. Returns
    /// whether there was one.
    pub(super) fn forget_release_request(&self) -> bool {
        self.0.has_release_request.swap(false, Ordering::Relaxed)
    }

    /// Returns the reason why the key was lost, if a waiter or the holder was notified of it. It
    /// sends no request.
    #[must_use]
    pub fn reported_loss(&self) -> Option<LossReason> {
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

    /// The create revision of the key; zero before the key is created, as in a compare.
    pub(super) fn create_revision(&self) -> Revision {
        self.0.created.get().copied().unwrap_or_default()
    }

    /// Whether a key that was read is this key, with its create revision.
    pub(crate) fn is(&self, kv: &KeyValue) -> bool {
        kv.key == self.key() && kv.create_revision == self.create_revision()
    }

    /// The queue entry: the key with its create revision.
    pub(super) fn entry(&self) -> QueueEntry {
        QueueEntry { key: self.key().clone(), created: self.create_revision() }
    }

    /// Returns the fencing token: the create revision of the key.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        FencingToken(self.create_revision())
    }

    /// Returns a compare that holds as long as the key is in the queue. A contender that was first
    /// stays first as long as it holds.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        Compare::create_revision(self.key(), CompareOp::Equal, self.create_revision())
    }

    /// Applies `txn` if the key is still held. The store evaluates that condition in the same
    /// transaction.
    ///
    /// `txn` is nested in a transaction with the [condition](Self::held_condition) that the key is
    /// held, so its own compares keep their meaning. It may have one operation less than the limit
    /// of the backend.
    ///
    /// # Errors
    /// - `Lost` if the key is lost: nothing was applied.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        let TxnResponse { header, responses, .. } = self.while_in_queue([Op::Txn(txn)]).await?;
        match responses.into_iter().next() {
            Some(OpResponse::Txn(response)) => Ok(TxnResponse { header, ..response }),
            other => unreachable!("the response to a nested transaction is {other:?}"),
        }
    }

    /// Changes the value of the key, which other clients can read. The position stays the same.
    ///
    /// # Errors
    /// - `Lost` if the key is lost: nothing was applied.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn set_value(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        let put = Put::new(self.key(), value.into_bytes()).lease(self.session().lease_id());
        Ok(self.while_in_queue([Op::Put(put)]).await?.header)
    }

    /// Applies operations if the key is still in the queue. `Lost` if it is not, or if the session
    /// is lost: the store does not distinguish the owner from an adopter.
    pub(crate) async fn while_in_queue(
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

    /// The reason why the key is not in the queue any more. Notes the loss, unless the session
    /// lives and the owner may have deleted the key.
    pub(crate) async fn why_evicted(&self) -> LossReason {
        let reason = self.session().why_lost().await.unwrap_or(LossReason::KeyDeleted);
        if reason == LossReason::KeyDeleted && self.0.is_released.load(Ordering::Relaxed) {
            return reason;
        }
        self.session().note_loss(reason, self.key());
        *self.0.reported_loss.get_or_init(|| reason)
    }

    /// Waits until the key is lost, and returns the reason: the session was lost, or another client
    /// deleted the key. It reads the key once in each TTL of the session, so that a watch that has
    /// fallen silent delays the report by a TTL at most.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        tokio::select! {
            biased;
            reason = self.session().lost() => reason,
            () = self.wait_key_deleted(self.session().ttl()) => self.why_evicted().await,
        }
    }

    /// Waits until another client deletes the key. It does not detect that a watch has fallen
    /// silent.
    pub(super) async fn wait_evicted(&self) -> LossReason {
        self.wait_key_deleted(Duration::MAX).await;
        self.why_evicted().await
    }

    async fn wait_key_deleted(&self, silent_after: Duration) {
        let (session, created) = (self.session(), self.create_revision());
        wait_deleted(session.backend(), self.key(), created, silent_after, session.ttl()).await;
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, created) = (self.key(), self.create_revision());
        write!(f, "Ownership(\"{}\" created at {created})", key.escape_ascii())
    }
}

/// The owner of a queue key. If it is armed, dropping it deletes the key, as long as the session
/// lives.
#[derive(Debug)]
pub(crate) struct KeyGuard {
    ownership: Ownership,
    /// Whether dropping the guard deletes the key, because the key may exist.
    is_armed: bool,
    /// The suffix of the key, if it has one. The session reuses it when the key surely does not
    /// exist.
    suffix: Option<KeySuffix>,
    /// The value that distinguishes the key from a later key of the session with the same name;
    /// `None` if the name is not used again after a creation with an unknown outcome.
    value: Option<Bytes>,
}

impl KeyGuard {
    /// The guard of a key that does not exist yet.
    pub(crate) fn new(session: &Session, key: Bytes, suffix: impl Into<Option<KeySuffix>>) -> Self {
        let ownership = Ownership(Arc::new(Inner {
            session: session.clone(),
            key,
            created: OnceLock::new(),
            reported_loss: OnceLock::new(),
            is_released: AtomicBool::new(false),
            has_release_request: AtomicBool::new(false),
        }));
        Self { ownership, is_armed: false, suffix: suffix.into(), value: None }
    }

    /// The guard of a key that does not exist yet, and whose name all attempts to create it share.
    /// No other attempt has the value.
    pub(crate) fn with_value(session: &Session, key: Bytes, value: Bytes) -> Self {
        let mut guard = Self::new(session, key, None);
        guard.value = Some(value);
        guard
    }

    /// Creates a key below `prefix` that no other guard has or will ever have. Returns its guard,
    /// and the part of the key after `prefix`.
    pub(crate) async fn create_unique(
        session: &Session,
        prefix: &[u8],
        value: &Bytes,
    ) -> Result<(Self, String), PrimitiveError> {
        loop {
            let mut suffix = session.key_suffix();
            suffix.retire();
            // With a dot, because a key with a hyphen is that of a contender.
            let id = format!("{}.{suffix}", session.lease_id());
            let key: Bytes = [prefix, id.as_bytes()].concat().into();
            let mut guard = Self::new(session, key.clone(), None);
            let create = Txn::new().when([Compare::absent(&key)]).and_then([guard.put(value)]);
            // If another client has put the key, there is another suffix.
            if guard.create(create).await?.succeeded {
                return Ok((guard, id));
            }
        }
    }

    /// The guard of a key on the session's lease that exists already. Dropping it deletes nothing
    /// until it is [armed](Self::set_armed).
    pub(crate) fn existing(session: &Session, key: Bytes, created: Revision) -> Self {
        let guard = Self::new(session, key, None);
        guard.ownership.0.created.get_or_init(|| created);
        guard
    }

    pub(crate) const fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// The put that creates the key.
    pub(crate) fn put(&self, value: &Bytes) -> Put {
        Put::new(self.ownership.key(), value).lease(self.ownership.session().lease_id())
    }

    /// Sends the transaction that creates the key if its compares hold, and notes the outcome.
    pub(crate) async fn create(&mut self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        Self::create_all(slice::from_mut(self), txn).await
    }

    /// Sends the transaction that creates the keys of all guards if its compares hold, and notes
    /// the outcome. The guards are of one session.
    pub(crate) async fn create_all(
        guards: &mut [Self],
        txn: Txn,
    ) -> Result<TxnResponse, PrimitiveError> {
        let [first, ..] = guards else { unreachable!("a transaction creates at least one key") };
        let (session, key) = (first.ownership.session().clone(), first.ownership.key().clone());
        let arm = |guards: &mut [Self], is_armed| {
            guards.iter_mut().for_each(|guard| guard.set_armed(is_armed));
        };
        arm(guards, true);
        let sent = async { Ok(session.backend().txn(txn).await?) };
        match session.while_held(sent).await {
            Ok(response) => {
                arm(guards, response.succeeded);
                if response.succeeded {
                    for guard in guards {
                        guard.ownership.0.created.get_or_init(|| response.header.revision);
                    }
                    session.check_deadline().await?;
                }
                Ok(response)
            }
            Err(PrimitiveError::Backend(error)) => {
                arm(guards, error.outcome() == Outcome::Unknown);
                if !matches!(error, Error::LeaseNotFound { .. }) {
                    return Err(error.into());
                }
                let reason = session.why_lost().await.unwrap_or(LossReason::Revoked);
                session.note_loss(reason, &key);
                Err(reason.into())
            }
            Err(lost) => Err(lost),
        }
    }

    /// Deletes the key, and waits for the confirmation. `may_be_released` is whether an earlier
    /// call may have deleted it. After an error that is no loss, call it again or drop the guard.
    pub(crate) async fn release(
        &mut self,
        may_be_released: &mut bool,
    ) -> Result<(), PrimitiveError> {
        let ownership = self.ownership.clone();
        ownership.set_released(true);
        let delete = Op::Delete(Delete::new(ownership.key()));
        match ownership.session().while_held(ownership.while_in_queue([delete])).await {
            Err(PrimitiveError::Backend(error)) => {
                *may_be_released |= error.outcome() == Outcome::Unknown;
                ownership.set_released(*may_be_released);
                Err(error.into())
            }
            Err(PrimitiveError::Lost(LossReason::KeyDeleted)) if *may_be_released => {
                self.set_armed(false);
                Ok(())
            }
            released => {
                self.set_armed(false);
                released.map(drop)
            }
        }
    }

    /// Whether dropping the guard deletes the key.
    pub(super) const fn is_armed(&self) -> bool {
        self.is_armed
    }

    /// Moves the guard out of its owner, which then does not delete the key any more.
    pub(super) fn take(&mut self) -> Self {
        let (ownership, is_armed) = (self.ownership.clone(), self.is_armed);
        self.is_armed = false;
        Self { ownership, is_armed, suffix: self.suffix.take(), value: self.value.take() }
    }

    /// Leaves the key to another owner of the lease: the suffix is not used again.
    pub(crate) fn retire_suffix(mut self) {
        if let Some(suffix) = &mut self.suffix {
            suffix.retire();
        }
    }

    /// Sets whether dropping the guard deletes the key: from before the request that creates it is
    /// sent, until the key surely does not exist any more. For a key that exists already, it is set
    /// just before the contender is returned to the caller.
    pub(crate) const fn set_armed(&mut self, is_armed: bool) {
        self.is_armed = is_armed;
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        if self.is_armed {
            let created = self.ownership.0.created.get().copied();
            let mut suffix = self.suffix.take();
            if let (Some(suffix), None) = (&mut suffix, created) {
                // A late request to delete the key must not delete the key of a later contender.
                suffix.retire();
            }
            let (key, value) = (self.ownership.key().clone(), self.value.take());
            self.ownership.session().clean_up(OrphanedKey { key, created, suffix, value });
        }
    }
}
