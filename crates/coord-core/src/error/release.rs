//! The error of a release, an unlock, a resignation or an acknowledgement that was not confirmed.
//! It returns the guard, so that the caller can retry.

use std::fmt::Debug;

use super::{LossReason, PrimitiveError};

/// The error of a release that was not confirmed, or of an unlock, a resignation or another request
/// that ends what the guard holds. It returns the guard.
///
/// Repeat the call, or drop the guard: the session task then continues to delete the key. If the
/// `cause` is `Lost`, the key was lost before the request or while it was in flight, and another
/// attempt cannot help. If an earlier attempt may have been applied, a later attempt of the same
/// kind that finds the key deleted succeeds.
///
/// Conversion into a [`PrimitiveError`], for example by `?`, drops the guard.
#[derive(Debug, thiserror::Error)]
#[error("the request was not confirmed: {cause}")]
#[non_exhaustive]
pub struct ReleaseError<T: Debug> {
    /// The guard, candidate or contender that was to be released.
    pub held: Box<T>,
    /// Why the request was not confirmed.
    #[source]
    pub cause: PrimitiveError,
}

impl<T: Debug> ReleaseError<T> {
    pub(crate) fn new(held: T, cause: PrimitiveError) -> Self {
        Self { held: Box::new(held), cause }
    }

    /// Returns the reason of the loss, if the cause is one.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        self.cause.loss()
    }
}

impl<T: Debug> From<ReleaseError<T>> for PrimitiveError {
    fn from(error: ReleaseError<T>) -> Self {
        error.cause
    }
}
