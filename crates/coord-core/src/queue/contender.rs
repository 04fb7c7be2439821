//! One contender: enqueued, waiting, holding, released.

use std::sync::OnceLock;
use std::{fmt, iter};

use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::WaitQueue;
use super::handoff::{HandoffSlot, Waiter};
use super::key_guard::{KeyGuard, Ownership};
use super::position::Position;
use super::wait::WATCH_AFTER;
use crate::error::{LossReason, Outcome, PrimitiveError, ReleaseError};
use crate::kv::{Compare, Delete, FencingToken, Header, IntoBytes, KeyValue, Op, Txn, TxnResponse};
use crate::session::{Session, SessionState};
use crate::telemetry::queue as events;

/// An entry of a [`WaitQueue`]. Dropping it removes it from the queue, in the background.
#[must_use = "dropping a contender removes it from the queue"]
pub struct Contender {
    queue: WaitQueue,
    guard: KeyGuard,
    slot: HandoffSlot,
    /// Of the response that showed the position.
    header: Header,
    pub(super) position: Position,
    /// Whether an earlier release may have deleted the key.
    may_be_released: bool,
    phase: events::Phase,
    /// Cancelled when the key is lost or the contender dropped; made when it is asked for.
    cancelled: OnceLock<DropGuard>,
}

impl Contender {
    /// A contender whose key was created.
    pub(super) fn new(
        queue: WaitQueue,
        guard: KeyGuard,
        header: Header,
        position: Position,
    ) -> Self {
        let ownership = guard.ownership();
        let mut phase = events::enqueued(queue.kind, queue.name(), ownership.created());
        if position.is_first() {
            phase.acquired();
        }
        let slot = queue.session().client().handoffs().register(ownership.entry());
        let (may_be_released, cancelled) = (false, OnceLock::new());
        Self { queue, guard, slot, header, position, may_be_released, phase, cancelled }
    }

    /// The contender of a key that exists in the queue already. Its guard deletes the key only once
    /// the position is known and the contender is handed out.
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

    /// Notes the position that a response showed.
    pub(super) fn note_position(&mut self, header: Header, position: Position) {
        (self.header, self.position) = (header, position);
        if self.position.is_first() {
            self.phase.acquired();
        }
    }

    pub(super) const fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// What may be done with the key, without deleting it when dropped.
    pub(crate) const fn ownership(&self) -> &Ownership {
        self.guard.ownership()
    }

    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.ownership().session()
    }

    /// Returns the name of the queue.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.queue.name()
    }

    /// Returns the key in the queue.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.ownership().key()
    }

    /// Returns the header of the response that showed the position: of the enqueue, or of the last
    /// read.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// Returns the fencing token: the create revision of the key.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.ownership().fencing_token()
    }

    /// Returns a compare that holds as long as the key is in the queue. A contender that was first
    /// once stays first as long as it holds.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        self.ownership().held_condition()
    }

    /// Waits until this contender is first.
    ///
    /// A contender that enqueued into an empty queue is first at once. Otherwise it waits for its
    /// predecessor, as the [module](super) describes with the cost. After a quarter of a second it
    /// watches its own key too, so that it fails at once if another client deletes the key. It
    /// reads its position once in each TTL of the session, so that a watch that has fallen silent
    /// delays it and no more. While the store is unavailable it keeps waiting until the session is
    /// lost.
    ///
    /// # Errors
    /// `Lost` as soon as the session is lost, or another client deleted the key. The error of the
    /// backend, if another attempt cannot help: drop the contender then.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place in the queue: wait again, or drop the contender too.
    pub async fn acquired(&mut self) -> Result<(), PrimitiveError> {
        let ownership = self.ownership().clone();
        let evicted = async {
            sleep(WATCH_AFTER).await;
            ownership.evicted().await
        };
        let waited = tokio::select! {
            biased;
            reason = ownership.session().lost() => Err(reason.into()),
            waited = self.wait() => waited,
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
            self.session().runtime().spawn(async move {
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

    /// Waits until the key is lost, and returns why: the session was lost, or another client
    /// deleted the key. It reads the key once in each TTL of the session, so that a watch that has
    /// fallen silent delays the report and no more.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.ownership().lost().await
    }

    /// Runs `future` while the key is held; if it is lost, `future` is dropped.
    ///
    /// # Errors
    /// Why the key was lost. What `future` had done by then stays done.
    ///
    /// # Cancel safety
    /// Dropping this future drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        tokio::select! {
            biased;
            reason = self.lost() => Err(reason),
            output = future => Ok(output),
        }
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
        self.ownership().txn(txn).await
    }

    /// Changes the value that other clients read under the key. The position stays the same.
    ///
    /// # Errors
    /// `Lost` if the key is lost: nothing was applied. Otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn set_value(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.ownership().set_value(value.into_bytes()).await
    }

    /// Leaves the queue: deletes the key, if it is still the one that was created.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the contender. Its cause is `Lost` if the key was lost before, or
    /// while the request was under way: it is not held any more. Otherwise it is the error of the
    /// backend.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue all the same, in the background.
    pub async fn release(mut self) -> Result<(), ReleaseError<Self>> {
        match self.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }

    /// Leaves the queue, or stays as it was if that is not confirmed. If an earlier attempt may
    /// have been applied, finding the key deleted confirms it.
    pub(crate) async fn try_release(&mut self) -> Result<(), PrimitiveError> {
        // The successor of a contender that is not first has other predecessors.
        let successor = if self.position.is_first() { self.slot.take() } else { None };
        let delete = Op::Delete(Delete::new(self.key()));
        let ops = iter::once(delete).chain(successor.as_ref().map(Waiter::read));
        self.ownership().set_released(true);
        match self.session().while_held(self.ownership().while_in_queue(ops)).await {
            Ok(response) => {
                self.guard.set_armed(false);
                if let Some(successor) = successor {
                    successor.hand_over(response);
                }
            }
            Err(PrimitiveError::Lost(LossReason::KeyDeleted)) if self.may_be_released => {
                self.guard.set_armed(false);
            }
            Err(PrimitiveError::Backend(error)) => {
                self.slot.put_back(successor);
                self.may_be_released |= error.outcome() == Outcome::Unknown;
                self.ownership().set_released(self.may_be_released);
                return Err(error.into());
            }
            Err(lost) => {
                self.guard.set_armed(false);
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
        f.debug_struct("Contender")
            .field("ownership", self.ownership())
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
