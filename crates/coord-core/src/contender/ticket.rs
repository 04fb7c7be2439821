//! A key that is ours to remove, from before it may exist until it surely does not.

use std::fmt;

use bytes::Bytes;

use super::standing::Place;
use crate::error::{Error, Outcome};
use crate::kv::{Put, Revision, Txn, TxnResponse};
use crate::loss::{LossReason, PrimitiveError};
use crate::session::{Debris, Number, Session};

/// A key of a line. Dropped while the key may exist, it has the session's keeper remove it.
pub(super) struct Ticket {
    session: Session,
    key: Bytes,
    /// The revision that created the key, once that is known.
    created: Option<Revision>,
    /// Whether the key may exist.
    armed: bool,
    /// The number in the key, if we gave it; given back when the key surely does not exist.
    number: Option<Number>,
}

impl Ticket {
    /// A key that does not exist yet, as far as we know.
    pub(super) const fn new(session: Session, key: Bytes, number: Number) -> Self {
        Self { session, key, created: None, armed: false, number: Some(number) }
    }

    /// A key that is there already, on the session's lease. It is not ours to remove before it is
    /// [`arm`](Self::arm)ed.
    pub(super) fn found(session: Session, place: &Place) -> Self {
        Self {
            session,
            key: place.key.clone(),
            created: Some(place.created),
            armed: false,
            number: None,
        }
    }

    pub(super) const fn key(&self) -> &Bytes {
        &self.key
    }

    pub(super) const fn created(&self) -> Option<Revision> {
        self.created
    }

    /// What creates the key.
    pub(super) fn put(&self, value: &Bytes) -> Put {
        Put::new(&self.key, value).lease(self.session.lease_id())
    }

    /// Sends the transaction that creates the key if it succeeds, and notes what became of it.
    pub(super) async fn send(&mut self, join: Txn) -> Result<TxnResponse, PrimitiveError> {
        let session = self.session.clone();
        // Before anything is sent: from here on, being dropped must remove the key.
        self.armed = true;
        let sent = async { Ok(session.backend().txn(join).await?) };
        match session.while_held(sent).await {
            Ok(answer) => {
                self.armed = answer.succeeded;
                self.created = answer.succeeded.then_some(answer.header.revision);
                Ok(answer)
            }
            Err(PrimitiveError::Backend(error)) => {
                self.armed = error.outcome() == Outcome::Unknown;
                Err(match error {
                    Error::LeaseNotFound { .. } => {
                        let reason = session.why_lost().await.unwrap_or(LossReason::Revoked);
                        session.note_loss(reason, &self.key);
                        reason.into()
                    }
                    error => error.into(),
                })
            }
            Err(lost) => Err(lost),
        }
    }

    /// The key is somebody else's: its number is not to be tried again.
    pub(super) fn renounce(mut self) {
        if let Some(number) = &mut self.number {
            number.burn();
        }
    }

    /// The key is ours from here on: being dropped removes it.
    pub(super) const fn arm(&mut self) {
        self.armed = true;
    }

    /// The key surely does not exist any more.
    pub(super) const fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.armed {
            let (key, created) = (self.key.clone(), self.created);
            let mut number = self.number.take();
            if let (Some(number), None) = (&mut number, created) {
                number.burn();
            }
            self.session.clean_up(Debris { key, created, number });
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("key", &self.key)
            .field("created", &self.created)
            .field("armed", &self.armed)
            .finish_non_exhaustive()
    }
}
