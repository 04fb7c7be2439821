//! A candidate: a contender of an election that waits.

use bytes::Bytes;

use super::Leadership;
use crate::error::ReleaseError;
use crate::error::{LossReason, PrimitiveError};
use crate::kv::FencingToken;
use crate::kv::{Header, IntoBytes};
use crate::queue::{Contender, Ownership};
use crate::session::Session;

/// A candidate in an election. Dropping it withdraws, in the background.
///
/// Its value may be changed while it waits; its place in the queue stays the same:
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

    /// Returns the key that stands for the candidate.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.contender.session()
    }

    /// Returns the fencing token that the leadership will have: larger for every later leader.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Waits until elected.
    ///
    /// # Errors
    /// `Lost` as soon as the session is lost, or another client deletes the candidate's key; the
    /// error of the backend, if another attempt cannot help. In either case no key stays in the
    /// queue.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate.
    pub async fn elected(mut self) -> Result<Leadership, PrimitiveError> {
        self.contender.acquired().await?;
        Ok(Leadership::new(self.contender))
    }

    /// Changes the value: [`Proclaimer::proclaim`].
    ///
    /// # Errors
    /// `Lost` if the candidate's key is lost: nothing was changed. Otherwise the error of the
    /// backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.contender.set_value(value).await
    }

    /// Returns a handle that changes the value from elsewhere, before and after being elected.
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

    /// Withdraws, and waits until that is confirmed.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the candidate. Its cause is `Lost` if the candidate's key was lost
    /// before: no key is left in the queue. Otherwise it is the error of the backend.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all the same, in the background.
    pub async fn withdraw(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}

/// Changes the value that observers receive, while the candidate or leader that it came from is in
/// the election. Clones are handles to the same candidate, and do not keep it in the election.
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
    /// `Lost` if the candidate is not in the election any more: nothing was changed. Otherwise the
    /// error of the backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.ownership.set_value(value.into_bytes()).await
    }
}
