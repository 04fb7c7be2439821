//! Cleanup of orphaned keys: queue keys whose owner, a future or a guard, was dropped while the key
//! may exist.
//!
//! A key that surely exists is deleted on the condition that its create revision is unchanged. A
//! key whose creation has an unknown outcome may be created at any time, even after its session has
//! ended, so an attempt that finds no key proves nothing. [`Cleanup`] repeats the attempt at
//! growing intervals, until the key is deleted or the lease is gone:
//!
//! ```text
//! TTL 10 s; the enqueue of m/<lease>-0 has an unknown outcome at 0 s
//! attempts at   0 · 0.1 · 0.3 · 0.7 · 1.5 · 3.1 · 6.3 · 12.7 s     pauses double
//! then at       22.7 · 42.7 · 82.7 s, and so on                    from the TTL, doubling
//! ```

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::key_suffix::KeySuffix;
use crate::backend::KvBackend;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::kv::{Compare, CompareOp, Delete, LeaseId, Revision, TTL_MAX, Txn};
use crate::telemetry::session::SessionEvents;

/// The pause after the first attempt to delete a key; later pauses double.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts to delete a key that surely exists: waiters queue behind
/// that key.
const CREATED_KEY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A key that its creator does not use any more, and that exists or may still be created.
#[derive(Debug)]
pub(crate) struct OrphanedKey {
    pub(crate) key: Bytes,
    /// The revision that created the key; `None` if its creation has an unknown outcome.
    pub(crate) created: Option<Revision>,
    /// The suffix of the key, which is returned for reuse when the key is gone. If the creation has
    /// an unknown outcome, the caller must retire the suffix: a request to delete the key would
    /// also delete a later key of the same name.
    pub(crate) suffix: Option<KeySuffix>,
    /// The value of the key, if later keys of the session have the same name: it distinguishes them
    /// from a key whose creation has an unknown outcome.
    pub(crate) value: Option<Bytes>,
}

/// The orphaned keys of one session, and the requests that delete them.
pub(super) struct Cleanup {
    backend: Arc<dyn KvBackend>,
    lease: LeaseId,
    ttl: Duration,
    /// The store's revision when the session was opened: older keys of an adopted lease belong to a
    /// former owner.
    opened: Revision,
    /// The store's revision when the session was orphaned, if it was: older keys belong to the
    /// adopter.
    orphaned_at: Arc<OnceLock<Revision>>,
    events: SessionEvents,
    /// Deletions of keys that surely existed. Each ends when its key is deleted.
    created: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Deletions of keys that may be created. Each ends when its key is deleted, or returns the key
    /// after it was not found for a TTL.
    unconfirmed: FuturesUnordered<BoxFuture<'static, Option<UnconfirmedKey>>>,
    /// Deletions of keys that were not found for a TTL. Each ends when its key was created late and
    /// is deleted.
    late: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Cleanup {
    pub(super) fn new(
        backend: Arc<dyn KvBackend>,
        (ttl, opened): (Duration, Revision),
        events: SessionEvents,
    ) -> Self {
        Self {
            backend,
            lease: events.lease,
            ttl,
            opened,
            orphaned_at: Arc::default(),
            events,
            created: FuturesUnordered::new(),
            unconfirmed: FuturesUnordered::new(),
            late: FuturesUnordered::new(),
        }
    }

    /// Starts to delete a key. The deletion is repeated until it is confirmed.
    pub(super) fn add(&self, orphaned: OrphanedKey) {
        match orphaned.created {
            Some(created) => self.created.push(self.delete_created(orphaned, created)),
            None => self.unconfirmed.push(self.delete_unconfirmed(orphaned)),
        }
    }

    /// Makes progress until the cleanup of one key has ended; never returns while there is no key
    /// to clean up.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            biased;
            Some(()) = self.created.next() => {}
            Some(not_found) = self.unconfirmed.next() => self.add_late(not_found),
            Some(()) = self.late.next() => {}
            else => std::future::pending().await,
        }
    }

    /// Deletes keys until `deadline`, or until only keys are left that were not found for a TTL.
    pub(super) async fn finish_until(&mut self, deadline: Instant) {
        while let Ok(Some(())) = timeout_at(deadline, self.created.next()).await {}
        while let Ok(Some(not_found)) = timeout_at(deadline, self.unconfirmed.next()).await {
            self.add_late(not_found);
        }
    }

    /// Stops deleting keys that surely exist: from now on they belong to the adopter.
    pub(super) fn leave_created_keys(&mut self) {
        self.created.clear();
    }

    /// Keys that exist at `revision` belong to the adopter.
    pub(super) fn set_orphaned_at(&self, revision: Revision) {
        // A session is orphaned once.
        let _ = self.orphaned_at.set(revision);
    }

    /// Whether keys may still be created late.
    pub(super) fn has_unconfirmed_keys(&self) -> bool {
        !self.unconfirmed.is_empty() || !self.late.is_empty()
    }

    /// Deletes a key that exists, with the create revision `created`.
    fn delete_created(&self, orphaned: OrphanedKey, created: Revision) -> BoxFuture<'static, ()> {
        let OrphanedKey { key, suffix, .. } = orphaned;
        let guard = Compare::create_revision(&key, CompareOp::Equal, created);
        let delete = Txn::new().when([guard]).and_then([Delete::new(key)]);
        let (backend, request_timeout, events) = self.request_context();
        Box::pin(async move {
            let mut backoff = Backoff::new(PAUSE_MIN, CREATED_KEY_PAUSE_MAX);
            loop {
                match attempt(&*backend, delete.clone(), request_timeout).await {
                    // If the condition failed, the key is gone already.
                    Ok(_is_deleted) => break,
                    Err(error) => {
                        let pause = backoff.next();
                        events.clean_up_failed(&error, pause);
                        sleep(pause).await;
                    }
                }
            }
            drop(suffix);
        })
    }

    /// Deletes a key that may still be created. Returns the key if it was not found for a TTL.
    fn delete_unconfirmed(
        &self,
        orphaned: OrphanedKey,
    ) -> BoxFuture<'static, Option<UnconfirmedKey>> {
        let OrphanedKey { key, suffix, value, .. } = orphaned;
        let orphaned_at = Arc::clone(&self.orphaned_at);
        let (lease, opened) = (self.lease, self.opened);
        let key = UnconfirmedKey { key, value, lease, opened, orphaned_at };
        let (backend, request_timeout, events) = self.request_context();
        let not_found_at = Instant::now() + self.ttl;
        let mut backoff = Backoff::new(PAUSE_MIN, self.ttl.max(PAUSE_MIN));
        Box::pin(async move {
            loop {
                let deleted = attempt(&*backend, key.delete(), request_timeout).await;
                let pause = match deleted {
                    Ok(true) => break,
                    Ok(false) if Instant::now() >= not_found_at => return Some(key),
                    Ok(false) => backoff.next(),
                    Err(error) => {
                        let pause = backoff.next();
                        events.clean_up_failed(&error, pause);
                        pause
                    }
                };
                sleep(pause).await;
            }
            drop(suffix);
            None
        })
    }

    /// Continues the attempts to delete a key that was not found for a TTL, with doubling pauses,
    /// as long as the lease lives. So a key that is created after some time is deleted before twice
    /// that time.
    fn add_late(&self, not_found: Option<UnconfirmedKey>) {
        let Some(key) = not_found else { return };
        let (backend, request_timeout, _) = self.request_context();
        let mut backoff = Backoff::new(self.ttl, TTL_MAX.max(self.ttl));
        self.late.push(Box::pin(async move {
            loop {
                sleep(backoff.next()).await;
                if let Ok(true) = attempt(&*backend, key.delete(), request_timeout).await {
                    return;
                }
            }
        }));
    }

    fn request_context(&self) -> (Arc<dyn KvBackend>, Duration, SessionEvents) {
        (Arc::clone(&self.backend), self.ttl / 4, self.events)
    }
}

/// A key that may still be created, and the condition for deleting it.
struct UnconfirmedKey {
    key: Bytes,
    /// See [`OrphanedKey::value`].
    value: Option<Bytes>,
    lease: LeaseId,
    /// See [`Cleanup::opened`].
    opened: Revision,
    /// See [`Cleanup::orphaned_at`].
    orphaned_at: Arc<OnceLock<Revision>>,
}

impl UnconfirmedKey {
    /// Deletes the key if it is attached to the session's lease, was never changed since its
    /// creation, and was created while the session lived or by a request that arrived later.
    ///
    /// Keys of former owners are older than the session. A key that existed when the session was
    /// orphaned, or that was changed, belongs to the adopter.
    fn delete(&self) -> Txn {
        let key = &self.key;
        let after = self.orphaned_at.get().map_or(self.opened, |at| self.opened.max(*at));
        Txn::new()
            .when([
                Compare::lease(key, CompareOp::Equal, self.lease),
                Compare::create_revision(key, CompareOp::Greater, after),
                Compare::version(key, CompareOp::Equal, 1),
            ])
            .when(self.value.iter().map(|value| Compare::value(key, CompareOp::Equal, value)))
            .and_then([Delete::new(key)])
    }
}

/// Sends one request to delete a key. Returns whether the store deleted the key. The caller may
/// repeat the transaction after a timeout, because its condition makes a second deletion a no-op.
async fn attempt(
    backend: &dyn KvBackend,
    delete: Txn,
    request_timeout: Duration,
) -> Result<bool, Error> {
    let response = timeout(request_timeout, backend.txn(delete)).await;
    match response.unwrap_or(Err(Error::Timeout { after: request_timeout })) {
        Ok(response) => Ok(response.succeeded),
        Err(error) => Err(error),
    }
}
