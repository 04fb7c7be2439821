//! The guard of a member.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;

use crate::error::{PrimitiveError, ReleaseError};
use crate::kv::{Header, Revision, Value};
use crate::queue::{KeyGuard, held_methods, key_guard_methods};
use crate::stm::invalid;

/// The guard of a member of a [`Membership`](super::Membership). Dropping it leaves the group in
/// the background; [`leave`](Self::leave) waits for the confirmation. Other members may be notified
/// of its loss before [`lost`](Self::lost) reports it.
#[must_use = "dropping the guard leaves the group"]
pub struct MemberGuard<M> {
    guard: KeyGuard,
    id: String,
    /// Whether an earlier call of `leave` may have deleted the key.
    may_be_released: bool,
    metadata: PhantomData<fn() -> M>,
}

impl<M> MemberGuard<M> {
    pub(super) const fn new(guard: KeyGuard, id: String) -> Self {
        Self { guard, id, may_be_released: false, metadata: PhantomData }
    }

    held_methods!("the membership");
    key_guard_methods!("the membership");

    /// Returns the id of the member: the lease of its session, and a key suffix. No other member
    /// has it, before or after.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.guard.ownership().key()
    }

    /// Returns the revision at which the member joined. A member that joins later has a larger one.
    #[must_use]
    pub fn create_revision(&self) -> Revision {
        self.guard.ownership().fencing_token().0
    }

    /// Leaves the group, and waits for the confirmation.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: leave again, or drop it, and the session task continues
    /// to delete the key. Its cause is `Lost` if the membership was lost before.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the group all the same, in the background.
    pub async fn leave(mut self) -> Result<(), ReleaseError<Self>> {
        match self.guard.release(&mut self.may_be_released).await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}

impl<M: Value> MemberGuard<M> {
    /// Replaces the metadata. Each stream of events yields
    /// [`MemberEvent::Updated`](super::MemberEvent).
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// - `Lost` if the membership is lost: nothing was applied.
    /// - `InvalidValue` if the metadata cannot be encoded: nothing was sent.
    /// - The error of the backend, with its own outcome. A repeated call with the same metadata is
    ///   safe.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the metadata was replaced.
    pub async fn update(&self, metadata: &M) -> Result<Header, PrimitiveError>
    where
        M: Sync,
    {
        let value = metadata.encode().map_err(|error| invalid(self.key(), error))?;
        self.guard.ownership().set_value(value).await
    }
}

impl<M> fmt::Debug for MemberGuard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, created) = (self.key().escape_ascii(), self.create_revision());
        write!(f, "MemberGuard(\"{key}\" created at {created})")
    }
}
