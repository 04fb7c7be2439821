//! Deleting the keys that dropped futures left behind.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::keeper::{Debris, Keeper, Pending};
use crate::backend::KvBackend;
use crate::error::Error;
use crate::kv::{Compare, CompareOp, Delete, LeaseId, Revision, Txn};
use crate::telemetry::SessionEvents;

/// A key that may be created yet, and how to delete it without hitting another one.
pub(super) struct Unconfirmed {
    backend: Arc<dyn KvBackend>,
    lease: LeaseId,
    key: bytes::Bytes,
    /// The store's revision when the session was opened.
    opened: Revision,
    /// The store's revision when the session was orphaned, if it was.
    ended: Arc<OnceLock<Revision>>,
}

impl Unconfirmed {
    /// Deletes the key if it hangs on the session's lease, was never changed since it was created,
    /// and was created while the session lived, or by a request that came later. Former owners'
    /// keys are older than the session; a key that exists when the session is orphaned, or that was
    /// changed, is the adopter's.
    fn delete(&self) -> Txn {
        let key = &self.key;
        let after = self.ended.get().map_or(self.opened, |ended| self.opened.max(*ended));
        Txn::new()
            .when([
                Compare::lease(key, CompareOp::Equal, self.lease),
                Compare::create_revision(key, CompareOp::Greater, after),
                Compare::version(key, CompareOp::Equal, 1),
            ])
            .and_then([Delete::new(key)])
    }
}

impl Keeper {
    /// Begins to delete a key, and keeps trying however often it takes.
    pub(super) fn clean_up(&self, debris: Debris) {
        match debris.created {
            Some(created) => self.releasing.push(self.delete_created(debris, created)),
            None => self.cleaning.push(self.delete_unconfirmed(debris)),
        }
    }

    /// Deletes a key that was created at a revision.
    fn delete_created(&self, debris: Debris, created: Revision) -> Pending<()> {
        let Debris { key, number, .. } = debris;
        let guard = Compare::create_revision(&key, CompareOp::Equal, created);
        let delete = Txn::new().when([guard]).and_then([Delete::new(key)]);
        let (backend, events, after) = (Arc::clone(&self.backend), self.events, self.ttl / 4);
        Box::pin(async move {
            let mut pause = Duration::from_millis(50);
            while attempt(&*backend, delete.clone(), after, &mut pause, events).await.is_none() {}
            drop(number);
        })
    }

    /// Deletes a key that may be created yet: the request may even now be on its way, so finding
    /// nothing proves nothing. It is looked for at growing intervals, for the time that a lease
    /// lives, and then by [`look_later`](Self::look_later).
    fn delete_unconfirmed(&self, debris: Debris) -> Pending<Option<Unconfirmed>> {
        let Debris { key, number, .. } = debris;
        let (backend, lease) = (Arc::clone(&self.backend), self.lease);
        let (opened, ended) = (self.opened, Arc::clone(&self.ended));
        let unconfirmed = Unconfirmed { backend, lease, key, opened, ended };
        let give_up = Instant::now() + self.ttl;
        let (events, after) = (self.events, self.ttl / 4);
        Box::pin(async move {
            let mut pause = Duration::from_millis(50);
            loop {
                let (backend, delete) = (&*unconfirmed.backend, unconfirmed.delete());
                match attempt(backend, delete, after, &mut pause, events).await {
                    Some(true) => break,
                    Some(false) if Instant::now() >= give_up => return Some(unconfirmed),
                    Some(false) => sleep(pause).await,
                    None => {}
                }
            }
            drop(number);
            None
        })
    }

    /// Goes on looking for a key that has not come within a time to live, less and less often, as
    /// long as the lease lives. One that comes late is found before it is as late again.
    pub(super) fn look_later(&self, later: Option<Unconfirmed>) {
        let Some(unconfirmed) = later else { return };
        let after = self.ttl / 4;
        let mut pause = self.ttl;
        self.waiting_for_late.push(Box::pin(async move {
            loop {
                sleep(pause).await;
                pause = pause.saturating_mul(2);
                let answer = timeout(after, unconfirmed.backend.txn(unconfirmed.delete())).await;
                if answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.succeeded)) {
                    return;
                }
            }
        }));
    }
}

/// One attempt to delete a key: whether it was deleted, if the store answered; else it pauses. A
/// request that hangs is sent again, and then does nothing that it has not done.
async fn attempt(
    backend: &dyn KvBackend,
    delete: Txn,
    after: Duration,
    pause: &mut Duration,
    events: SessionEvents,
) -> Option<bool> {
    *pause *= 2;
    let answer = timeout(after, backend.txn(delete)).await;
    match answer.unwrap_or(Err(Error::Timeout { after })) {
        Ok(answer) => Some(answer.succeeded),
        Err(error) => {
            events.clean_up_failed(&error, *pause);
            sleep(*pause).await;
            None
        }
    }
}
