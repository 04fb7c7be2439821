//! The error of a prefix cache.

use bytes::Bytes;

use crate::error::{Error, Outcome, PrimitiveError};

/// The error of a [`PrefixCache`](super::PrefixCache).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixCacheError {
    /// The keys need more memory than the limit of the cache. The cache has stopped.
    #[error(
        "the keys with the prefix \"{}\" need more than {bytes_max} bytes: cache a longer prefix, \
         or open the cache with a higher limit",
        prefix.escape_ascii()
    )]
    TooLarge {
        /// The prefix.
        prefix: Bytes,
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// The runtime in which the cache was opened was shut down. The cache has stopped.
    #[error("the cache has stopped: the runtime in which it was opened was shut down")]
    RuntimeShutDown,
    /// The backend failed: the cache has stopped with this error, or a consistent read has failed.
    #[error(transparent)]
    Backend(#[from] Error),
}

impl PrefixCacheError {
    /// Returns whether the request was surely not applied. A cache sends only reads, so an unknown
    /// outcome has changed nothing either.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::TooLarge { .. } => Outcome::NotApplied,
            Self::Backend(error) => error.outcome(),
            Self::RuntimeShutDown => Outcome::NotApplied,
        }
    }

    /// Returns whether the same call may succeed later, because the cache continues.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::TooLarge { .. } | Self::RuntimeShutDown => false,
            Self::Backend(error) => error.is_retryable(),
        }
    }
}

impl From<PrefixCacheError> for PrimitiveError {
    fn from(error: PrefixCacheError) -> Self {
        match error {
            PrefixCacheError::Backend(error) => error.into(),
            error => Self::of_recipe(error),
        }
    }
}
