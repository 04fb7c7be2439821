//! One who stands for election and waits.

use bytes::Bytes;

use super::Leadership;
use crate::contender::{Claim, Contender, FencingToken};
use crate::kv::{Header, IntoBytes};
use crate::loss::{LossReason, PrimitiveError};
use crate::session::Session;

/// A place in the line of an election. Dropping it withdraws, in the background.
///
/// Its value may be changed while it waits; the place stays the same:
///
/// ```
/// use coord_core::{Election, Session};
/// use coord_mem::MemBackend;
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
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

    /// The key that stands for the candidate.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        self.contender.session()
    }

    /// The number that the leadership will have: larger for whoever leads later.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Waits until elected.
    ///
    /// # Errors
    /// `Lost` as soon as the session is lost, or somebody deletes the candidate's key; what the
    /// backend answered, if trying again cannot help. In either case nobody is left in the line.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate.
    pub async fn elected(mut self) -> Result<Leadership, PrimitiveError> {
        self.contender.wait_turn().await?;
        Ok(Leadership::new(self.contender))
    }

    /// Changes the value: [`Proclaimer::proclaim`].
    ///
    /// # Errors
    /// `Lost` when the place in the line is: nothing was changed. Otherwise what the backend
    /// answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.contender.set_value(value).await
    }

    /// Changes the value from elsewhere, before and after being elected.
    #[must_use]
    pub fn proclaimer(&self) -> Proclaimer {
        Proclaimer::new(self.contender.claim().clone())
    }

    /// Waits until the place is lost, and tells why.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// Withdraws: one request, confirmed.
    ///
    /// # Errors
    /// `Lost` when the place was lost before: nobody is left in the line. What the backend answered
    /// otherwise: the session goes on trying.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all the same, in the background.
    pub async fn withdraw(self) -> Result<(), PrimitiveError> {
        self.contender.leave().await
    }
}

/// Changes the value that observers are shown, as long as the candidate or leader that it came from
/// is one. Clones are handles to the same, and do not keep it in the election.
#[derive(Clone, Debug)]
pub struct Proclaimer {
    claim: Claim,
}

impl Proclaimer {
    pub(super) const fn new(claim: Claim) -> Self {
        Self { claim }
    }

    /// Changes the value: one request. Of a candidate that waits, nobody sees it until it leads.
    ///
    /// # Errors
    /// `Lost` when the candidate is not in the election any more: nothing was changed. Otherwise
    /// what the backend answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the value was changed.
    pub async fn proclaim(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.claim.set_value(value.into_bytes()).await
    }
}
