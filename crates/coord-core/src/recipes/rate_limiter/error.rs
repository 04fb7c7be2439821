//! The error of a rate limiter.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, LossReason, Outcome, PrimitiveError, ReleaseError};
use crate::recipes::SemaphoreError;

/// The error of a [`RateLimiter`](super::RateLimiter), or of one of its slices.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RateLimiterError {
    /// The rate of the slice is zero, or larger than the budget. The budget is that of the handle
    /// when nothing was sent, or the stored one if it was lowered during the wait.
    #[error(
        "invalid rate {rate} of a slice: must be from 1 to the budget {budget}: acquire a smaller \
         slice, or raise the budget with `set_budget`"
    )]
    InvalidRate {
        /// The requested rate, in units per second.
        rate: u32,
        /// The budget, in units per second.
        budget: u32,
    },
    /// The slice could not spend a single unit within its burst. Nothing was sent.
    #[error(
        "invalid burst {burst:?}: a slice of {rate} units per second needs at least {least:?}, in \
         which it accrues one unit"
    )]
    InvalidBurst {
        /// The burst time of the handle.
        burst: Duration,
        /// The requested rate, in units per second.
        rate: u32,
        /// The shortest burst time for this rate.
        least: Duration,
    },
    /// The budget of the handle is zero. Nothing was sent.
    #[error("invalid budget {budget} of a rate limiter: must be at least 1 unit per second")]
    InvalidBudget {
        /// The budget, in units per second.
        budget: u32,
    },
    /// The number of units is zero, or more than the slice can hold. Nothing was spent.
    #[error(
        "invalid number of units {units}: must be from 1 to the burst of the slice, {burst}: \
         acquire fewer at a time, or acquire the slice with a larger rate or burst"
    )]
    InvalidUnits {
        /// The requested number.
        units: u32,
        /// The whole units that the slice holds at most.
        burst: u32,
    },
    /// The stored budget differs from that of the handle. Nothing was changed.
    #[error(
        "the rate limiter \"{}\" has the budget {stored}, and this handle was created with \
         {given}: create it with {stored}, or call `set_budget({given})` to change the stored \
         budget",
        .name.escape_ascii()
    )]
    BudgetDiffers {
        /// The name of the rate limiter.
        name: Bytes,
        /// The stored budget, in units per second.
        stored: u32,
        /// The budget of the handle.
        given: u32,
    },
    /// The key of the budget has a value that is no budget. Nothing was changed.
    #[error(
        "the key \"{}\" has the value \"{}\", which is no budget: call `set_budget`",
        .key.escape_ascii(), .value.escape_ascii()
    )]
    UnreadableBudget {
        /// The key of the budget.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// A failed release may have returned the slice already. Nothing was spent.
    #[error("the slice may be released already: release it again, and acquire another one")]
    Released,
    /// A loss, or a failed request.
    #[error(transparent)]
    Primitive(#[from] PrimitiveError),
}

impl RateLimiterError {
    /// The error of the semaphore of the rate limiter `name`.
    pub(super) fn of_semaphore(name: &Bytes, error: SemaphoreError) -> Self {
        match error {
            SemaphoreError::InvalidPermits { permits: rate, limit: budget } => {
                Self::InvalidRate { rate, budget }
            }
            SemaphoreError::InvalidLimit { limit: budget } => Self::InvalidBudget { budget },
            SemaphoreError::LimitDiffers { stored, given, .. } => {
                Self::BudgetDiffers { name: name.clone(), stored, given }
            }
            SemaphoreError::UnreadableLimit { key, value } => Self::UnreadableBudget { key, value },
            SemaphoreError::Primitive(error) => Self::Primitive(error),
        }
    }

    /// Returns whether the request was surely not applied, as [`PrimitiveError::outcome`]. An error
    /// of a slice's `acquire` has spent nothing, whatever its outcome.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Primitive(error) => error.outcome(),
            Self::InvalidRate { .. }
            | Self::InvalidBurst { .. }
            | Self::InvalidBudget { .. }
            | Self::InvalidUnits { .. }
            | Self::BudgetDiffers { .. }
            | Self::UnreadableBudget { .. }
            | Self::Released => Outcome::NotApplied,
        }
    }

    /// Returns whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Primitive(error) => error.is_retryable(),
            // The caller, the stored budget or the slice must change.
            Self::InvalidRate { .. }
            | Self::InvalidBurst { .. }
            | Self::InvalidBudget { .. }
            | Self::InvalidUnits { .. }
            | Self::BudgetDiffers { .. }
            | Self::UnreadableBudget { .. }
            | Self::Released => false,
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

impl From<LossReason> for RateLimiterError {
    fn from(reason: LossReason) -> Self {
        Self::Primitive(reason.into())
    }
}

impl From<Error> for RateLimiterError {
    fn from(error: Error) -> Self {
        Self::Primitive(error.into())
    }
}

impl From<RateLimiterError> for PrimitiveError {
    fn from(error: RateLimiterError) -> Self {
        match error {
            RateLimiterError::Primitive(error) => error,
            error => Self::of_recipe(error),
        }
    }
}

impl<T: Debug> From<ReleaseError<T>> for RateLimiterError {
    /// Drops the guard: the session task continues to delete its key.
    fn from(error: ReleaseError<T>) -> Self {
        Self::Primitive(error.into())
    }
}
