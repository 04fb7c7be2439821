//! Candidates: contenders of an election that wait to be elected.

use bytes::Bytes;

use super::Leadership;
use crate::error::{LossReason, PrimitiveError, ReleaseError};
use crate::kv::{FencingToken, Header, IntoBytes};
use crate::queue::{Contender, Ownership};
use crate::session::Session;

/// A candidate of an election. Dropping it withdraws it, in the background.
///
/// Its value can be changed while it waits. Its position in the queue stays the same:
///
/// ```
/// use coord_core::{Client, Election, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let election = Election::new(&session, "scheduler");
/// let first = election.campaign("first").await?;
///
/// let second = election.enter("second, starting").await?;
/// let proclaimer = second.proclaimer();
/// let (second, ()) = tokio::try_join!(second.elected(), async {
///     proclaimer.proclaim("second, ready").await?;
///     Ok(first.resign().await?)
/// })?;
/// assert_eq!(election.leader().await?.expect("the second").value(), "second, ready");
/// # drop(second);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping a candidate withdraws it"]
pub struct Candidate {
    contender: Contender,
}

impl Candidate {
    pub(super) const fn new(contender: Contender) -> Self {
        Self { contender }
    }

    /// Returns the candidate's key in the queue.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.contender.session()
    }

    /// Returns the fencing token of the future leadership. Every later leader has a larger one.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Waits until elected.
    ///
    /// # Errors
    /// - `Lost` as soon as the session is lost, or another client deletes the candidate's key.
    /// - The error of the backend, if it is not retryable.
    ///
    /// In either case no key stays in the queue while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate.
    pub async fn elected(mut self) -> Result<Leadership, PrimitiveError> {
        self.contender.acquired().await?;
        Ok(Leadership::new(self.contender))
    }

    /// Changes the value. As [`Proclaimer::proclaim`].
    ///
    /// # Errors
    /// - `Lost` if the candidate's key is lost: nothing was changed.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.contender.set_value(value).await
    }

    /// Returns a handle that changes the value from another task, also after the candidate is
    /// elected.
    #[must_use]
    pub fn proclaimer(&self) -> Proclaimer {
        Proclaimer::new(self.contender.ownership().clone())
    }

    /// Waits until the candidate's key is lost, and returns why.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// Withdraws the candidate, and waits for the confirmation.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the candidate. Its cause is `Lost` if the candidate's key was lost
    /// before the request or while it was in flight; then another attempt cannot help. Otherwise it
    /// is the error of the backend: withdraw again, or drop the candidate.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate all the same, in the background.
    pub async fn withdraw(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}

/// A handle that changes the value of a candidate, also after it is elected, as long as the
/// candidate is in the election. Clones are handles to the same candidate. They do not keep it in
/// the election.
#[derive(Clone, Debug)]
pub struct Proclaimer {
    ownership: Ownership,
}

impl Proclaimer {
    pub(super) const fn new(ownership: Ownership) -> Self {
        Self { ownership }
    }

    /// Changes the value. Observers receive the value of a waiting candidate when it leads.
    ///
    /// # Errors
    /// - `Lost` if the candidate is not in the election any more: nothing was changed.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.ownership.set_value(value).await
    }
}
