//! Proof of having been elected.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::Proclaimer;
use crate::contender::{Contender, FencingToken, Held};
use crate::kv::{Compare, Header, IntoBytes, Txn, TxnResponse};
use crate::loss::{LossReason, PrimitiveError};
use crate::session::Session;

/// Proof of having been elected, and the means to notice that it is over.
///
/// Dropping it resigns in the background; [`resign`](Self::resign) waits until that is confirmed.
/// It can be moved into a task.
///
/// # When the program ends
/// The request that a drop sends in the background needs a runtime that still runs. A program that
/// returns from `main`, panics, or exits while it leads leaves its key in the store, and no other
/// candidate leads until the session's lease expires. Do the work in
/// [`SessionBuilder::run`](crate::SessionBuilder::run), which closes the session when the work has
/// returned, failed or panicked, or await [`resign`](Self::resign) on every way out of `main`.
#[derive(Debug)]
#[must_use = "dropping the leadership resigns"]
pub struct Leadership {
    contender: Contender,
}

impl Leadership {
    pub(super) const fn new(contender: Contender) -> Self {
        Self { contender }
    }

    /// The key that stands for the leader while it leads.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// The session that it leads on.
    #[must_use]
    pub const fn session(&self) -> &Session {
        self.contender.session()
    }

    /// The header of the answer by which the election was won.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.contender.header()
    }

    /// A number that is larger for every later leader: give it to what the leader is in charge of.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Holds in a transaction as long as this leader leads.
    #[must_use]
    pub fn is_leader(&self) -> Compare {
        self.contender.is_owner()
    }

    /// Applies `txn` if this leader still leads, judged by the store in the same step.
    ///
    /// It has one operation less than the backend's limit.
    ///
    /// # Errors
    /// `Lost` when leadership is: nothing was applied. Otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.contender.txn(txn).await
    }

    /// Waits until leadership is lost, and tells why. A watch that has fallen silent delays the
    /// news by the time to live of the session, and no more.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// A token that is cancelled when leadership is lost, or given up, for code that takes one.
    /// Each call returns a token of its own: cancelling it does nothing to the leadership.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.contender.cancellation_token()
    }

    /// Runs `future` as long as this leader leads; when leadership is lost, `future` is dropped.
    ///
    /// ```
    /// use coord_core::{Election, LossReason, Session};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
    /// let leadership = Election::new(&session, "scheduler").campaign("me").await?;
    /// assert_eq!(leadership.lead(async { "planned" }).await, Ok("planned"));
    ///
    /// session.close().await?;
    /// let endless = std::future::pending::<()>();
    /// assert_eq!(leadership.lead(endless).await, Err(LossReason::Closed));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why it was lost. What `future` had done by then stays done.
    ///
    /// # Cancel safety
    /// Dropping it drops `future`.
    pub async fn lead<F: Future + Send>(&self, future: F) -> Result<F::Output, LossReason> {
        self.contender.run_while_held(future).await
    }

    /// Changes the value that observers are shown: one request.
    ///
    /// # Errors
    /// `Lost` when leadership is: nothing was changed. Otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.contender.set_value(value).await
    }

    /// Changes the value from elsewhere, as long as this leader leads.
    #[must_use]
    pub fn proclaimer(&self) -> Proclaimer {
        Proclaimer::new(self.contender.claim().clone())
    }

    /// Resigns: one request, confirmed. The next candidate leads from then on.
    ///
    /// Stop the work first: whoever resigns while it goes on has two leaders at work.
    ///
    /// It depends on nothing that a shutdown takes away before the session. A session that is
    /// closed resigns by itself.
    ///
    /// # Errors
    /// [`ResignError`] gives the leadership back, as it was: resign again, or drop it, and the
    /// session goes on trying. Its cause is `Lost` when leadership was lost before, or while the
    /// request was on its way, and then trying again cannot help; otherwise what the backend
    /// answered. If an earlier try may have resigned, finding the key gone confirms it.
    ///
    /// # Cancel safety
    /// Dropping the future resigns all the same, in the background.
    pub async fn resign(mut self) -> Result<(), ResignError> {
        match self.contender.try_leave().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ResignError { leadership: Box::new(self), cause }),
        }
    }
}

impl Held for Leadership {
    fn contender(&self) -> &Contender {
        &self.contender
    }

    fn into_contender(self) -> Contender {
        self.contender
    }
}

/// Resigning could not be confirmed. The leadership is here, to try again with.
///
/// Made into a [`PrimitiveError`], by `?` for example, it drops the leadership, and the session
/// goes on trying.
#[derive(Debug, thiserror::Error)]
#[error("resigning was not confirmed: {cause}")]
#[non_exhaustive]
pub struct ResignError {
    /// The leadership, as it was.
    pub leadership: Box<Leadership>,
    /// What happened.
    #[source]
    pub cause: PrimitiveError,
}

impl From<ResignError> for PrimitiveError {
    fn from(error: ResignError) -> Self {
        error.cause
    }
}
