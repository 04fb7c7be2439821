//! Contenders: the entries of a wait queue, from enqueue to release.

use std::{fmt, ops::Deref, sync::OnceLock};

use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::admission::{Admission, Ahead};
use super::key_guard::{KeyGuard, Ownership};
use super::position::Position;
use super::{WATCH_AFTER, WaitQueue, run_until_lost};
use crate::error::{ErrorKind, LossReason, Outcome, PrimitiveError, ReleaseError};
use crate::kv::{Delete, Header, KeyValue, Op, TxnResponse};
use crate::session::SessionState;
use crate::shared::{HandoffSlot, Waiter};
use crate::telemetry::queue as events;

/// A contender: one entry of a [`WaitQueue`]. Dropping it removes the entry, in the background. It
/// dereferences to [`Ownership`], which has the operations on its key.
#[must_use = "dropping a contender removes it from the queue"]
pub struct Contender {
    pub(super) queue: WaitQueue,
    pub(super) guard: KeyGuard,
    /// Another key of the same holder, which is deleted together with its key.
    pub(super) companion: Option<KeyGuard>,
    slot: HandoffSlot,
    /// The header of the response that showed the position or the admission.
    header: Header,
    /// Unknown for a contender with an admission rule.
    pub(super) position: Position,
    /// Set if the contender waits for its admission, instead of for its predecessor.
    pub(super) admission: Option<Admission>,
    /// Whether an earlier release may have deleted the key.
    pub(super) may_be_released: bool,
    pub(super) phase: events::ContenderPhase,
    /// Cancelled when the key is lost or the contender is dropped; created on first use.
    cancelled: OnceLock<DropGuard>,
}

impl Contender {
    /// The contender of a key that `guard` has created.
    pub(super) fn new(
        queue: WaitQueue,
        guard: KeyGuard,
        header: Header,
        position: Position,
    ) -> Self {
        let ownership = guard.ownership();
        let mut phase = events::enqueued(queue.kind, queue.name(), ownership.create_revision());
        if position.is_first() {
            phase.acquired();
        }
        let slot = queue.session().client().handoffs().register(ownership.entry());
        Self {
            queue,
            guard,
            companion: None,
            slot,
            header,
            position,
            admission: None,
            may_be_released: false,
            phase,
            cancelled: OnceLock::new(),
        }
    }

    /// The contender of a key that `guard` has created, which waits for its admission; with the
    /// guard of its companion key, if it has one.
    pub(super) fn with_admission(
        queue: WaitQueue,
        (guard, companion): (KeyGuard, Option<KeyGuard>),
        header: Header,
        admission: Admission,
    ) -> Self {
        let mut contender = Self::new(queue, guard, header, Position::Unknown);
        contender.companion = companion;
        contender.note_admission(header, admission);
        contender
    }

    /// The contender of a key that exists in the queue already. Its guard is armed when the
    /// position is known, just before the contender is returned.
    pub(super) async fn existing(
        queue: WaitQueue,
        kv: &KeyValue,
        header: Header,
    ) -> Result<Self, PrimitiveError> {
        let guard = KeyGuard::existing(queue.session(), kv.key.clone(), kv.create_revision);
        let mut contender = Self::new(queue, guard, header, Position::Unknown);
        contender.refresh().await?;
        contender.guard.set_armed(true);
        Ok(contender)
    }

    /// Notes the position in a response.
    pub(super) fn note_position(&mut self, header: Header, position: Position) {
        (self.header, self.position) = (header, position);
        if self.position.is_first() {
            self.phase.acquired();
        }
    }

    /// Notes the admission that a response showed.
    pub(super) fn note_admission(&mut self, header: Header, admission: Admission) {
        self.header = header;
        if admission.is_admitted() {
            self.phase.acquired();
        }
        self.admission = Some(admission);
    }

    /// Whether an admission rule has admitted this contender.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admission.as_ref().is_some_and(Admission::is_admitted)
    }

    /// The keys ahead, if the admission rule cannot admit this contender any more.
    pub(crate) fn impossible(&self) -> Option<&Ahead> {
        self.admission.as_ref().and_then(Admission::impossible)
    }

    /// A handle to the key that does not delete the key when it is dropped.
    pub(crate) const fn ownership(&self) -> &Ownership {
        self.guard.ownership()
    }

    /// Returns the name of the queue.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.queue.name()
    }

    /// Returns the header of the response that showed the position: of the enqueue, of the last
    /// read, or of the release that handed the position over.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// Waits until this contender is first.
    ///
    /// A contender that was enqueued into an empty queue is first at once. Otherwise it waits for
    /// its predecessor, at the [cost](super) that the module documents. After a quarter of a second
    /// it also watches its own key, so that it fails at once if another client deletes the key. It
    /// reads its position once in each TTL of the session, so that a watch that has fallen silent
    /// delays it by a TTL at most. While the store is unavailable it keeps waiting until the
    /// session is lost.
    ///
    /// # Errors
    /// - `Lost` as soon as the session is lost, or another client deleted the key.
    /// - The error of the backend, if it is not retryable: drop the contender then.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the position in the queue: wait again, or drop the contender too.
    pub async fn acquired(&mut self) -> Result<(), PrimitiveError> {
        let ownership = self.ownership().clone();
        let evicted = async {
            sleep(WATCH_AFTER).await;
            ownership.wait_evicted().await
        };
        let acquired = async {
            match self.admission {
                None => self.wait().await,
                Some(_) => self.wait_admitted().await,
            }
        };
        let waited = tokio::select! {
            biased;
            reason = ownership.session().lost() => Err(reason.into()),
            waited = acquired => match waited {
                Ok(()) => ownership.session().check_deadline().await,
                failed => failed,
            },
            reason = evicted => Err(reason.into()),
        };
        if let Err(PrimitiveError::Lost(reason)) = &waited {
            self.phase.lost(*reason);
        }
        waited
    }

    /// Returns a token that is cancelled when the key is lost or released.
    pub(crate) fn cancellation_token(&self) -> CancellationToken {
        let guard = self.cancelled.get_or_init(|| {
            let token = self.session().cancellation_token();
            let (ownership, cancelled) = (self.ownership().clone(), token.clone());
            // The task ends when the contender is dropped, which cancels the token.
            self.session().spawn(async move {
                tokio::select! {
                    biased;
                    () = cancelled.cancelled() => {}
                    _ = ownership.lost() => cancelled.cancel(),
                }
            });
            token.drop_guard()
        });
        guard.token().child_token()
    }

    /// Runs `future` while the key is held. If the key is lost, `future` is dropped.
    ///
    /// # Errors
    /// The reason of the loss. The side effects of `future` until then remain.
    ///
    /// # Cancel safety
    /// Dropping this future drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        run_until_lost(self.lost(), future).await
    }

    /// Releases the contender: deletes its key, if the create revision of the key is unchanged.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the contender. Its cause is `Lost` if the key was lost before the
    /// request or while it was in flight: the key is not held any more. Otherwise it is the error
    /// of the backend: release again, or drop the contender.
    ///
    /// # Cancel safety
    /// Dropping the future releases the contender all the same, in the background.
    pub async fn release(mut self) -> Result<(), ReleaseError<Self>> {
        match self.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }

    /// Releases the contender, or leaves it unchanged if the release is not confirmed. If an
    /// earlier attempt may have been applied, a deleted key confirms the release.
    pub(crate) async fn try_release(&mut self) -> Result<(), PrimitiveError> {
        loop {
            let (successor, ops) = self.start_release();
            let released = self.session().while_held(self.ownership().while_in_queue(ops)).await;
            match self.end_release(successor, released) {
                // Another client could write a release request, and this one may not delete it.
                Err(PrimitiveError::Backend(error))
                    if error.kind() == ErrorKind::PermissionDenied
                        && self.ownership().forget_release_request() => {}
                Err(error) => return Err(error),
                Ok(()) => return self.release_companion().await,
            }
        }
    }

    /// Deletes the companion key, if the release has not: an earlier attempt, which kept the
    /// companion, has deleted the own key.
    async fn release_companion(&mut self) -> Result<(), PrimitiveError> {
        let Some(companion) = self.companion.as_mut().filter(|guard| guard.is_armed()) else {
            return Ok(());
        };
        let ownership = companion.ownership().clone();
        let delete = ownership.while_in_queue([Op::Delete(Delete::new(ownership.key()))]);
        match ownership.session().while_held(delete).await {
            Ok(_) | Err(PrimitiveError::Lost(LossReason::KeyDeleted)) => {
                companion.set_armed(false);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Starts a release: returns the successor, if the position is handed over to it, and the
    /// operations of the release. The caller sends them on the condition that the key is held, and
    /// then calls [`end_release`](Self::end_release).
    pub(super) fn start_release(&mut self) -> (Option<Waiter>, Vec<Op>) {
        // If this contender is not first, its successor will not be first after the release.
        let successor = if self.position.is_first() { self.slot.take() } else { None };
        let companion = self.companion.iter().map(|guard| Delete::new(guard.ownership().key()));
        // The read of the successor is the last operation: see `Waiter::hand_over`.
        let deletes = self.ownership().delete().chain(companion.map(Op::Delete));
        let ops = deletes.chain(successor.as_ref().map(Waiter::read)).collect();
        self.ownership().set_released(true);
        (successor, ops)
    }

    /// Ends a release with the result of its operations.
    pub(super) fn end_release(
        &mut self,
        successor: Option<Waiter>,
        released: Result<TxnResponse, PrimitiveError>,
    ) -> Result<(), PrimitiveError> {
        if let Err(PrimitiveError::Backend(error)) = &released {
            self.slot.put_back(successor);
            self.may_be_released |= error.outcome() == Outcome::Unknown;
            self.ownership().set_released(self.may_be_released);
            return released.map(drop);
        }
        self.guard.set_armed(false);
        if let (Ok(_), Some(companion)) = (&released, &mut self.companion) {
            companion.set_armed(false);
        }
        match (released, successor) {
            (Ok(response), Some(successor)) => successor.hand_over(response),
            (Ok(_), None) => {}
            (Err(PrimitiveError::Lost(LossReason::KeyDeleted)), _) if self.may_be_released => {}
            (Err(lost), _) => {
                if let Some(reason) = lost.loss() {
                    self.phase.lost(reason);
                }
                return Err(lost);
            }
        }
        self.phase.released();
        Ok(())
    }
}

impl Deref for Contender {
    type Target = Ownership;

    fn deref(&self) -> &Ownership {
        self.guard.ownership()
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        match (self.ownership().reported_loss(), self.session().state()) {
            (Some(reason), _) | (None, SessionState::Lost(reason)) => self.phase.lost(reason),
            (None, SessionState::Alive | SessionState::Suspect) => self.phase.released(),
        }
    }
}

impl fmt::Debug for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contender({:?}, {:?})", self.ownership(), self.position)
    }
}
