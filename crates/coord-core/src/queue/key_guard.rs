//! RAII guard for a queue key: deletes the key if its owner is dropped while the key may exist.
//!
//! The guard is armed *before* the transaction that creates the key is sent. So a dropped future,
//! an error or an unknown outcome never leaves a key in the queue while the session lives: the
//! session task deletes it.

use std::fmt;

use bytes::Bytes;

use super::ownership::Ownership;
use crate::error::{Error, LossReason, Outcome, PrimitiveError};
use crate::kv::{Put, Revision, Txn, TxnResponse};
use crate::session::{KeySuffix, OrphanedKey, Session};

/// A queue key whose deletion is guaranteed while the session lives.
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
    pub(super) fn new(session: &Session, key: Bytes, suffix: KeySuffix) -> Self {
        let ownership = Ownership::new(session, key);
        Self { ownership, is_armed: false, suffix: Some(suffix) }
    }

    /// The guard of a key on the session's lease that exists already. It deletes nothing until it
    /// is [armed](Self::arm).
    pub(super) fn existing(session: &Session, key: Bytes, created: Revision) -> Self {
        let ownership = Ownership::new(session, key);
        ownership.set_created(created);
        Self { ownership, is_armed: false, suffix: None }
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
                    self.ownership.set_created(response.header.revision);
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

    /// From now on dropping the guard deletes the key.
    pub(super) const fn arm(&mut self) {
        self.is_armed = true;
    }

    /// The key surely does not exist any more.
    pub(super) const fn disarm(&mut self) {
        self.is_armed = false;
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        if self.is_armed {
            let (key, created) = (self.ownership.key().clone(), self.ownership.created());
            let mut suffix = self.suffix.take();
            if let (Some(suffix), None) = (&mut suffix, created) {
                // A late request to delete the key must not meet a later contender of that name.
                suffix.retire();
            }
            self.ownership.session().clean_up(OrphanedKey { key, created, suffix });
        }
    }
}

impl fmt::Debug for KeyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyGuard")
            .field("ownership", &self.ownership)
            .field("is_armed", &self.is_armed)
            .finish_non_exhaustive()
    }
}
