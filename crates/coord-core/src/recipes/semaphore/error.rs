//! The error of a semaphore.

use std::fmt::Debug;

use bytes::Bytes;

use crate::error::{Error, LossReason, Outcome, PrimitiveError, ReleaseError};

/// The error of a [`Semaphore`](super::Semaphore).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SemaphoreError {
    /// The number of permits is zero, or larger than the limit. The limit is that of the handle
    /// when nothing was sent, or the stored limit if it was lowered during the wait.
    #[error(
        "invalid number of permits {permits}: must be from 1 to the limit {limit} of the \
         semaphore: acquire fewer, or raise the limit with `set_limit`"
    )]
    InvalidPermits {
        /// The requested number.
        permits: u32,
        /// The limit.
        limit: u32,
    },
    /// The limit of the handle is zero. Nothing was sent.
    #[error("invalid limit {limit} of a semaphore: must be at least 1")]
    InvalidLimit {
        /// The limit.
        limit: u32,
    },
    /// The stored limit differs from that of the handle. Nothing was changed.
    #[error(
        "the semaphore \"{}\" has the limit {stored}, and this handle was created with {given}: \
         create it with {stored}, or call `set_limit({given})` to change the stored limit",
        .name.escape_ascii()
    )]
    LimitDiffers {
        /// The name of the semaphore.
        name: Bytes,
        /// The stored limit.
        stored: u32,
        /// The limit of the handle.
        given: u32,
    },
    /// The key of the limit has a value that is no limit. Nothing was changed.
    #[error(
        "the key \"{}\" has the value \"{}\", which is no limit: call `set_limit`",
        .key.escape_ascii(), .value.escape_ascii()
    )]
    UnreadableLimit {
        /// The key of the limit.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// A loss, or a failed request.
    #[error(transparent)]
    Primitive(PrimitiveError),
}

impl SemaphoreError {
    /// Returns whether the request was surely not applied, as [`PrimitiveError::outcome`].
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Primitive(error) => error.outcome(),
            Self::InvalidPermits { .. }
            | Self::InvalidLimit { .. }
            | Self::LimitDiffers { .. }
            | Self::UnreadableLimit { .. } => Outcome::NotApplied,
        }
    }

    /// Returns whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Primitive(error) => error.is_retryable(),
            // The caller, or the stored limit, must change.
            Self::InvalidPermits { .. }
            | Self::InvalidLimit { .. }
            | Self::LimitDiffers { .. }
            | Self::UnreadableLimit { .. } => false,
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

impl From<PrimitiveError> for SemaphoreError {
    /// The error of a semaphore that was converted before is that error again.
    fn from(error: PrimitiveError) -> Self {
        match &error {
            PrimitiveError::Recipe { error: refused, .. } => {
                refused.downcast_ref().cloned().unwrap_or(Self::Primitive(error))
            }
            _ => Self::Primitive(error),
        }
    }
}

impl From<SemaphoreError> for PrimitiveError {
    fn from(error: SemaphoreError) -> Self {
        match error {
            SemaphoreError::Primitive(error) => error,
            error => Self::of_recipe(error),
        }
    }
}

impl From<Error> for SemaphoreError {
    fn from(error: Error) -> Self {
        Self::Primitive(error.into())
    }
}

impl<T: Debug> From<ReleaseError<T>> for SemaphoreError {
    /// Drops the guard: the session task continues to delete its key.
    fn from(error: ReleaseError<T>) -> Self {
        Self::Primitive(error.into())
    }
}
