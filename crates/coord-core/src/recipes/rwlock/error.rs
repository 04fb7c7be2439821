//! The error of an upgrade.

use bytes::Bytes;

use super::ReadGuard;
use crate::error::{LossReason, Outcome, PrimitiveError};

/// The error of an upgrade that was refused, or that failed. It returns the guard of the reader.
///
/// Unless the cause is a loss, the guard still holds its read lock. After a loss it may still hold
/// it: another client may have deleted only the key of the upgrade. [`ReadGuard::lost`] returns if
/// the read lock is lost.
#[derive(Debug, thiserror::Error)]
#[error("the lock was not upgraded: {cause}")]
#[non_exhaustive]
pub struct UpgradeError {
    /// The guard of the reader.
    pub held: Box<ReadGuard>,
    /// Why the lock was not upgraded.
    #[source]
    pub cause: UpgradeFailure,
}

/// Why a lock was not upgraded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeFailure {
    /// A writer, or another reader that upgrades, is ahead. It waits for this reader, so the
    /// upgrade would never succeed. Nothing was written.
    #[error(
        "the writer with the key \"{}\" waits for this reader: unlock, and lock for writing",
        .writer.escape_ascii()
    )]
    Refused {
        /// The key of the writer.
        writer: Bytes,
    },
    /// A loss, or a failed request.
    #[error(transparent)]
    Primitive(#[from] PrimitiveError),
}

impl UpgradeError {
    pub(super) fn new(held: ReadGuard, cause: impl Into<UpgradeFailure>) -> Self {
        Self { held: Box::new(held), cause: cause.into() }
    }

    /// Returns whether the upgrade was refused because a writer waits for this reader.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self.cause, UpgradeFailure::Refused { .. })
    }

    /// Returns whether the upgrade was surely not applied.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.cause.outcome()
    }

    /// Returns whether the same call may succeed later. A refused upgrade cannot, because a writer
    /// waits for this reader.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.cause.is_retryable()
    }

    /// Returns the reason of the loss, if the cause is one.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        self.cause.loss()
    }
}

impl From<UpgradeError> for PrimitiveError {
    /// Drops the guard, which unlocks in the background.
    fn from(error: UpgradeError) -> Self {
        error.cause.into()
    }
}

impl UpgradeFailure {
    /// Returns whether the upgrade was surely not applied.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Primitive(error) => error.outcome(),
            Self::Refused { .. } => Outcome::NotApplied,
        }
    }

    /// Returns whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Primitive(error) => error.is_retryable(),
            Self::Refused { .. } => false,
        }
    }

    /// Returns the reason of the loss, if this is one.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        match self {
            Self::Primitive(error) => error.loss(),
            Self::Refused { .. } => None,
        }
    }
}

impl From<UpgradeFailure> for PrimitiveError {
    fn from(failure: UpgradeFailure) -> Self {
        match failure {
            UpgradeFailure::Primitive(error) => error,
            refused => Self::of_recipe(refused),
        }
    }
}
