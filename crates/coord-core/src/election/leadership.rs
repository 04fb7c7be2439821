//! Leadership: the guard of an election that was won.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::Proclaimer;
use crate::error::ReleaseError;
use crate::error::{LossReason, PrimitiveError};
use crate::kv::FencingToken;
use crate::kv::{Compare, Header, IntoBytes, Txn, TxnResponse};
use crate::queue::{Contender, Held};
use crate::session::Session;
use crate::telemetry::queue as events;

/// Guard of a leadership: resigns it, and reports its loss.
///
/// Dropping it resigns in the background; [`resign`](Self::resign) waits until that is confirmed.
/// It can be moved into a task.
///
/// # When the program ends
/// The request that a drop sends in the background needs a runtime that still runs. A program that
/// returns from `main`, panics, or exits while it leads leaves its key in the store, and no other
/// candidate leads until the session's lease expires. Do the work in
/// [`SessionBuilder::run`](crate::session::SessionBuilder::run), which closes the session when the
/// work has returned, failed or panicked, or await [`resign`](Self::resign) on every way out of
/// `main`.
#[derive(Debug)]
#[must_use = "dropping the leadership resigns"]
pub struct Leadership {
    contender: Contender,
    /// Open as long as the guard exists.
    span: Span,
}

impl Leadership {
    pub(super) fn new(contender: Contender) -> Self {
        let name = contender.name();
        let span = events::hold_span("election", &name, contender.fencing_token().0);
        Self { contender, span }
    }

    /// Returns the key that stands for the leader while it leads.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// Returns the session of the leader.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.contender.session()
    }

    /// Returns the header of the response by which the election was won.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.contender.header()
    }

    /// Returns the fencing token, a number that is larger for every later leader. A resource can
    /// refuse writes with a smaller token than it has seen.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Returns a compare that holds as long as this leader leads, for a transaction.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        self.contender.held_condition()
    }

    /// Applies `txn` if this leader still leads, evaluated by the store in the same step.
    ///
    /// It may have one operation less than the limit of the backend.
    ///
    /// # Errors
    /// `Lost` if leadership is lost: nothing was applied. Otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.contender.txn(txn).await
    }

    /// Waits until leadership is lost, and returns why. A watch that has fallen silent delays the
    /// report by the TTL of the session, and no more.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// Returns a token that is cancelled when leadership is lost or resigned, for code that takes
    /// one. Each call returns a token of its own: cancelling it does nothing to the leadership.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.contender.cancellation_token()
    }

    /// Runs `future` while this leader leads; if leadership is lost, `future` is dropped.
    ///
    /// ```
    /// use coord_core::{Client, Election, Session, error::LossReason};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// let leadership = Election::new(&session, "scheduler").campaign("me").await?;
    /// assert_eq!(leadership.run_while_held(async { "planned" }).await, Ok("planned"));
    ///
    /// session.close().await?;
    /// let endless = std::future::pending::<()>();
    /// assert_eq!(leadership.run_while_held(endless).await, Err(LossReason::Closed));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why leadership was lost. What `future` had done by then stays done.
    ///
    /// # Cancel safety
    /// Dropping this future drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        self.contender.run_while_held(future.instrument(self.span.clone())).await
    }

    /// Changes the value that observers receive.
    ///
    /// # Errors
    /// `Lost` if leadership is lost: nothing was changed. Otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.contender.set_value(value).await
    }

    /// Returns a handle that changes the value from elsewhere, as long as this leader leads.
    #[must_use]
    pub fn proclaimer(&self) -> Proclaimer {
        Proclaimer::new(self.contender.ownership().clone())
    }

    /// Resigns, and waits until that is confirmed. The next candidate leads from then on.
    ///
    /// Stop the work first: if it goes on while the leader resigns, two leaders are at work. A
    /// session that is closed resigns by itself.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the leadership, as it was: resign again, or drop it, and the
    /// session task goes on trying. Its cause is `Lost` if leadership was lost before, or while
    /// the request was under way, and then another attempt cannot help. If an earlier attempt may
    /// have been applied, a later one that finds the key deleted succeeds.
    ///
    /// # Cancel safety
    /// Dropping the future resigns all the same, in the background.
    pub async fn resign(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
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
