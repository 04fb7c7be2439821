//! The error of a release, which returns what was to be released.

use std::fmt::Debug;

use super::{LossReason, PrimitiveError};

/// A release was not confirmed. What was to be released is returned, as it was.
///
/// Release it again, or drop it: the session task then goes on deleting the key. If the `cause` is
/// `Lost`, it was lost before or while the request was under way, and another attempt cannot help.
/// If an earlier attempt may have been applied, a later one that finds the key deleted succeeds.
///
/// Converted into a [`PrimitiveError`], by `?` for example, it drops what it returns.
#[derive(Debug, thiserror::Error)]
#[error("the release was not confirmed: {cause}")]
#[non_exhaustive]
pub struct ReleaseError<T: Debug> {
    /// What was to be released: a guard, a leadership, a candidate or a contender.
    pub held: Box<T>,
    /// Why the release was not confirmed.
    #[source]
    pub cause: PrimitiveError,
}

impl<T: Debug> ReleaseError<T> {
    pub(crate) fn new(held: T, cause: PrimitiveError) -> Self {
        Self { held: Box::new(held), cause }
    }

    /// Why it was lost, if it was.
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
