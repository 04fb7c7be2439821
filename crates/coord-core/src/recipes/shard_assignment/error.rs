//! The error of a shard assignment.

use std::fmt::Debug;

use bytes::Bytes;

use crate::error::{Error, LossReason, Outcome, PrimitiveError, ReleaseError};

/// The error of a [`ShardAssignment`](super::ShardAssignment).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardAssignmentError {
    /// There are no shards. Nothing was sent.
    #[error("a shard assignment without shards: give the name of at least one")]
    NoShards,
    /// A name is empty or has a slash. Nothing was sent.
    #[error(
        "invalid name \"{}\" of a shard: must not be empty, and must have no slash",
        .name.escape_ascii()
    )]
    InvalidShard {
        /// The name.
        name: Bytes,
    },
    /// A name is given twice. Nothing was sent.
    #[error("the shard \"{}\" is given twice: give each once", .name.escape_ascii())]
    DuplicateShard {
        /// The name.
        name: Bytes,
    },
    /// The name of the member is empty. Nothing was sent.
    #[error("a member without a name: give a name that no other member has, such as its address")]
    NoMember,
    /// A loss, or a failed request.
    #[error(transparent)]
    Primitive(#[from] PrimitiveError),
}

impl ShardAssignmentError {
    /// Returns whether the request was surely not applied, as [`PrimitiveError::outcome`].
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Primitive(error) => error.outcome(),
            Self::NoShards
            | Self::InvalidShard { .. }
            | Self::DuplicateShard { .. }
            | Self::NoMember => Outcome::NotApplied,
        }
    }

    /// Returns whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Primitive(error) => error.is_retryable(),
            // The caller must change.
            Self::NoShards
            | Self::InvalidShard { .. }
            | Self::DuplicateShard { .. }
            | Self::NoMember => false,
        }
    }

    /// Returns the reason of the loss, if the error is one.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        match self {
            Self::Primitive(error) => error.loss(),
            _ => None,
        }
    }
}

impl From<Error> for ShardAssignmentError {
    fn from(error: Error) -> Self {
        Self::Primitive(error.into())
    }
}

impl From<ShardAssignmentError> for PrimitiveError {
    fn from(error: ShardAssignmentError) -> Self {
        match error {
            ShardAssignmentError::Primitive(error) => error,
            error => Self::of_recipe(error),
        }
    }
}

impl<T: Debug> From<ReleaseError<T>> for ShardAssignmentError {
    /// Drops the guard: the session task continues to delete its key.
    fn from(error: ReleaseError<T>) -> Self {
        Self::Primitive(error.into())
    }
}
