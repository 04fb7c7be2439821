//! The guard of a reader.

use bytes::Bytes;
use tracing::{Instrument as _, Span};

use super::{KIND, RwLock, UpgradeError, UpgradeFailure, Usage, WriteGuard};
use crate::error::{PrimitiveError, ReleaseError};
use crate::kv::FencingToken;
use crate::queue::admission::{AdmissionEnqueue, Ahead};
use crate::queue::{Contender, contender_methods, held_methods, impl_held};
use crate::telemetry::queue as events;

/// The guard of a [`RwLock`] that is locked for reading. It reports the loss of the lock, and
/// unlocks when it is dropped.
///
/// Dropping it unlocks in the background; [`unlock`](Self::unlock) waits for the confirmation. It
/// can be moved into a task.
///
/// # When the program ends
/// After a drop, the session task sends the request, so the runtime must still run. A program that
/// returns from `main`, panics, or exits while it holds the lock leaves its key in the store, and
/// other clients wait until the session's lease expires. Await [`unlock`](Self::unlock) or
/// [`Session::close`](crate::session::Session::close) on every path out of `main`, or do the work
/// in [`SessionBuilder::run`](crate::session::SessionBuilder::run).
#[derive(Debug)]
#[must_use = "dropping the guard unlocks the lock"]
pub struct ReadGuard {
    lock: RwLock,
    contender: Contender,
    token: FencingToken,
    /// Open as long as the guard exists.
    span: Span,
}

impl ReadGuard {
    /// The guard of an admitted reader. `written_with` is the token with which it wrote before it
    /// was downgraded.
    pub(super) fn of(
        lock: RwLock,
        contender: Contender,
        written_with: Option<FencingToken>,
    ) -> Self {
        let own = contender.fencing_token();
        let token = written_with.map_or(own, |written| written.max(own));
        let span = events::hold_span(KIND, &contender.name(), token.0);
        Self { lock, contender, token, span }
    }

    held_methods!("the lock");
    contender_methods!("the lock");

    /// Returns the fencing token. Every later writer has a larger one, so a resource can reject
    /// readers with a smaller token than that of the last writer. After a downgrade it is the token
    /// of the writer.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        self.token
    }

    /// Unlocks, and waits for the confirmation.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: unlock again, or drop it, and the session task continues
    /// to delete the key. Its cause is `Lost` if the lock was lost before the request or while it
    /// was in flight.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks all the same, in the background.
    pub async fn unlock(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }

    /// Upgrades the lock: waits until no other contender holds it, and holds it for writing. No
    /// other writer holds it in between, so what this reader has read is still valid.
    ///
    /// An upgrade is refused if a writer waits, or another reader upgrades: either waits for this
    /// reader. A program that often upgrades should lock for writing at once.
    ///
    /// The cost is that of [`RwLock::write`].
    ///
    /// # Errors
    /// [`UpgradeError`] returns this guard. Its cause is one of these:
    ///
    /// - `Refused`.
    /// - `Lost` if the session is lost, if this guard had lost its key before the upgrade was
    ///   enqueued, or if another client deletes the key of the upgrade. A key of this guard that is
    ///   deleted during the wait does not end the wait: a later
    ///   [`downgrade`](WriteGuard::downgrade) reports the loss.
    /// - The error of the backend.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks, in the background.
    pub async fn upgrade(self) -> Result<WriteGuard, UpgradeError> {
        let span = events::wait_span(KIND, &self.lock.writers.name());
        match self.become_writer().instrument(span).await {
            Ok(mut writer) => {
                let Self { lock, contender, .. } = self;
                writer.take_as_companion(contender);
                Ok(WriteGuard::of(lock, writer))
            }
            Err(cause) => Err(UpgradeError::new(self, cause)),
        }
    }

    /// Enqueues a writer, unless there is one, and waits until this reader alone is ahead.
    async fn become_writer(&self) -> Result<Contender, UpgradeFailure> {
        let rule = self.lock.rule(Usage::Write, Some(self.key().clone()));
        let mut no_writer = self.lock.writers_scope.is_empty();
        loop {
            let enqueue = AdmissionEnqueue::new(&self.lock.writers, &rule, Bytes::new())
                .when([self.held_condition()])
                .when(no_writer);
            match enqueue.send().await? {
                Ok(mut writer) => {
                    writer.acquired().await?;
                    return Ok(writer);
                }
                Err(found) => {
                    self.check_no_writer(&found).await?;
                    // All keys in the range of the writers belong to child names.
                    no_writer = self.lock.writers_scope.no_put_since(found.revision());
                }
            }
        }
    }

    /// Checks that this reader holds the lock, and that there is no writer.
    async fn check_no_writer(&self, found: &Ahead) -> Result<(), UpgradeFailure> {
        let created = self.contender.fencing_token().0;
        let mut keys = found.keys();
        if !keys.any(|kv| kv.key == *self.key() && kv.create_revision == created) {
            return Err(PrimitiveError::from(self.contender.why_evicted().await).into());
        }
        let is_writer = |key: &Bytes| self.lock.writers.owns(key);
        match found.keys().find(|kv| is_writer(&kv.key)) {
            Some(kv) => Err(UpgradeFailure::Refused { writer: kv.key.clone() }),
            None => Ok(()),
        }
    }
}

impl_held!(ReadGuard);
