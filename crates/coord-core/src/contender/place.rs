//! One who stands in a line, waits, holds, and leaves.

use std::sync::OnceLock;
use std::{fmt, iter};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::standing::{Place, Standing};
use super::successor::Successor;
use super::{FencingToken, Ticket, WaitingLine};
use crate::error::Outcome;
use crate::kv::{Compare, Delete, Header, IntoBytes, Op, Txn, TxnResponse};
use crate::loss::{LossReason, PrimitiveError};
use crate::session::{Session, SessionState};
use crate::telemetry::line as events;

/// A place in a [`WaitingLine`]. Dropping it leaves the line, in the background.
#[must_use = "dropping a contender leaves the line"]
pub struct Contender {
    pub(super) line: WaitingLine,
    ticket: Ticket,
    pub(super) claim: Claim,
    /// Of the answer that told where the contender stands.
    pub(super) header: Header,
    pub(super) standing: Standing,
    joined: Instant,
    /// Whether an earlier try to leave may have deleted the key.
    perhaps_left: bool,
    /// What the metrics have been told.
    counted: Counted,
    /// Cancelled when the place is lost or given up; made when it is asked for.
    cancelled: OnceLock<CancellationToken>,
}

/// How far the metrics have followed a contender.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Waiting,
    Served,
    /// It has left, or lost its place.
    Gone,
}

impl Contender {
    pub(super) fn new(
        line: WaitingLine,
        ticket: Ticket,
        place: Place,
        header: Header,
        standing: Standing,
    ) -> Self {
        events::joined(line.kind);
        let claim = Claim::new(line.session.clone(), place);
        let joined = Instant::now();
        let counted = Counted::Waiting;
        let (perhaps_left, cancelled) = (false, OnceLock::new());
        let mut contender = Self {
            line,
            ticket,
            claim,
            header,
            standing,
            joined,
            perhaps_left,
            counted,
            cancelled,
        };
        if contender.standing == Standing::First {
            contender.count_served();
        }
        contender
    }

    /// The contender of a key that is in the line already. Until it has looked where it stands and
    /// is handed out, whoever gives up on that must not remove the key.
    pub(super) async fn found(
        line: WaitingLine,
        place: Place,
        header: Header,
    ) -> Result<Self, PrimitiveError> {
        let ticket = Ticket::found(line.session.clone(), &place);
        let mut contender = Self::new(line, ticket, place, header, Standing::Unknown);
        contender.look().await?;
        contender.ticket.arm();
        Ok(contender)
    }

    /// What is known of the key, to be had without owning it.
    pub(crate) const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        self.claim.session()
    }

    /// The key in the line.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.claim.key()
    }

    /// The header of the answer that told the place: of joining, or of the last look.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The place in the line as a number that only grows.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        self.claim.fencing_token()
    }

    /// Holds in a transaction as long as this key is in the line. Whoever was first once is first
    /// as long as it is.
    #[must_use]
    pub fn is_owner(&self) -> Compare {
        self.claim.is_held()
    }

    /// Waits until nobody is before this contender: at once if it joined an empty line; else a
    /// watch, a look if anything was written before it stood, and a look for each time it wakes. A
    /// look is one request; it is two if those who were known to be before this one have all left
    /// before the watch stood, or if other lines lie below this one. It is none where the last one
    /// before this one leaves in the same process, on the same backend: that one's request tells.
    ///
    /// After a quarter of a second it watches its own key too, so that from then on it fails at
    /// once if somebody deletes the key. It looks once each time to live of the session even if
    /// nothing wakes it, so that a watch which has fallen silent delays it and no more. While the
    /// store is unavailable it goes on waiting, as long as the session lives.
    ///
    /// # Errors
    /// `Lost` as soon as the session is, or the key was deleted by somebody else; what the backend
    /// answered, if trying again cannot help. The contender is then best dropped.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place in the line: wait again, or drop the contender too.
    pub async fn wait_turn(&mut self) -> Result<(), PrimitiveError> {
        let session = self.session().clone();
        let waited = session.while_held(self.wait()).await;
        match &waited {
            Ok(()) => self.count_served(),
            Err(PrimitiveError::Lost(reason)) => self.count_lost(*reason),
            Err(PrimitiveError::Backend(_) | PrimitiveError::WouldBlockTasks) => {}
        }
        waited
    }

    fn count_served(&mut self) {
        if self.counted == Counted::Waiting {
            self.counted = Counted::Served;
            self.report(|about| events::turn(about, self.joined.elapsed()));
        }
    }

    fn count_lost(&mut self, reason: LossReason) {
        let counted = std::mem::replace(&mut self.counted, Counted::Gone);
        if counted != Counted::Gone {
            self.report(|about| events::lost(about, counted == Counted::Served, reason));
        }
    }

    fn count_left(&mut self) {
        let counted = std::mem::replace(&mut self.counted, Counted::Gone);
        if counted != Counted::Gone {
            self.report(|about| events::left(about, counted == Counted::Served));
        }
    }

    fn report(&self, event: impl FnOnce(events::About<'_>)) {
        let (kind, name, token) = (self.line.kind, self.line.name(), self.fencing_token().0);
        event(events::About { kind, name: &name, token });
    }

    /// A token that is cancelled when the place is lost, or given up.
    pub(crate) fn cancellation_token(&self) -> CancellationToken {
        let token = self.cancelled.get_or_init(|| {
            let token = self.session().cancellation_token();
            let (claim, cancelled) = (self.claim.clone(), token.clone());
            // Its owner is this contender, which cancels the token when it is dropped.
            self.session().runtime().spawn(async move {
                tokio::select! {
                    biased;
                    () = cancelled.cancelled() => {}
                    _ = claim.lost() => cancelled.cancel(),
                }
            });
            token
        });
        token.child_token()
    }

    /// Waits until the place is lost, and tells why: because the session is, or because somebody
    /// deleted the key. It looks for the key once each time to live of the session, so that a watch
    /// which has fallen silent delays the news and no more.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.claim.lost().await
    }

    /// Runs `future` as long as the place is held; when it is lost, `future` is dropped.
    ///
    /// # Errors
    /// Why it was lost. What `future` had done by then stays done.
    ///
    /// # Cancel safety
    /// Dropping it drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        self.claim.run_while_held(future).await
    }

    /// Applies `txn` if the place is still held, judged by the store in the same step.
    ///
    /// Sent as a transaction within one that has [`is_owner`](Self::is_owner) as its condition, so
    /// its own conditions keep their meaning; it has one operation less than the limit.
    ///
    /// # Errors
    /// `Lost` when the place is: nothing was applied. Otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.claim.txn(txn).await
    }

    /// Changes the value that others read under the key: one request. The place stays the same.
    ///
    /// # Errors
    /// `Lost` when the place is: nothing was applied. Otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the value was changed.
    pub async fn set_value(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.claim.set_value(value.into_bytes()).await
    }

    /// Leaves the line: one request.
    ///
    /// # Errors
    /// `Lost` when the place was lost before, or was while the request was on its way; it is not
    /// held any more. What the backend answered otherwise: the session's keeper then goes on
    /// trying.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line all the same, in the background.
    pub async fn leave(mut self) -> Result<(), PrimitiveError> {
        self.try_leave().await
    }

    /// Leaves the line, or stays as it was if that cannot be confirmed. If an earlier try may have
    /// done it, finding the key gone confirms it.
    pub(crate) async fn try_leave(&mut self) -> Result<(), PrimitiveError> {
        let backend = self.session().backend();
        // Who is not first leaves its successor behind others.
        let next = (self.standing == Standing::First)
            .then(|| Successor::of(self.claim.place(), backend))
            .flatten();
        let delete = Op::Delete(Delete::new(self.key()));
        let steps = iter::once(delete).chain(next.as_ref().map(Successor::wants));
        self.claim.set_released(true);
        match self.session().while_held(self.claim.guarded(steps)).await {
            Ok(answer) => {
                self.ticket.disarm();
                if let Some(next) = next {
                    next.tell(answer);
                }
            }
            Err(PrimitiveError::Lost(LossReason::KeyDeleted)) if self.perhaps_left => {
                self.ticket.disarm();
            }
            Err(PrimitiveError::Backend(error)) => {
                self.perhaps_left |= error.outcome() == Outcome::Unknown;
                self.claim.set_released(self.perhaps_left);
                return Err(error.into());
            }
            Err(lost) => {
                self.ticket.disarm();
                if let Some(reason) = lost.loss() {
                    self.count_lost(reason);
                }
                return Err(lost);
            }
        }
        self.count_left();
        Ok(())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(token) = self.cancelled.get() {
            token.cancel();
        }
        match (self.claim.reported_loss(), self.session().state()) {
            (Some(reason), _) | (None, SessionState::Lost(reason)) => self.count_lost(reason),
            (None, SessionState::Alive | SessionState::Suspect) => self.count_left(),
        }
    }
}

impl fmt::Debug for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contender")
            .field("claim", &self.claim)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}
