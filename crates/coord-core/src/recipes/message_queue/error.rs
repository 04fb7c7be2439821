//! The error of a message queue.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, LossReason, Outcome, PrimitiveError};

/// The error of a [`MessageQueue`](super::MessageQueue).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageQueueError {
    /// A delay is zero or has a fraction of a second, or is longer than any store counts. Nothing
    /// was sent.
    #[error("invalid delay {delay:?}: must be a whole number of seconds, from 1 to {}", .limit.as_secs())]
    InvalidDelay {
        /// The delay.
        delay: Duration,
        /// The longest delay.
        limit: Duration,
    },
    /// A batch has no message, or more than one transaction can have. Nothing was sent.
    #[error("invalid batch of {count} messages: must have from 1 to {limit}")]
    InvalidBatch {
        /// The number of messages.
        count: usize,
        /// The largest number.
        limit: usize,
    },
    /// A payload is too large to be moved to the dead letters later, and back. Nothing was sent.
    #[error(
        "invalid payload of {size_bytes} bytes: must have at most {limit_bytes}: store it elsewhere, and put a reference"
    )]
    PayloadTooLarge {
        /// The size of the payload.
        size_bytes: usize,
        /// The largest size.
        limit_bytes: usize,
    },
    /// It is unknown whether the messages were put: the session was lost, or the request failed
    /// for good, before that was found out. Putting them again may duplicate them.
    #[error("it is unknown whether the messages were put: {0}: look for them before a repetition")]
    OutcomeUnknown(#[source] PrimitiveError),
    /// It is unknown whether a message was taken at most once: the session was lost while the
    /// request was in flight, or its response was lost. If the message was taken, it is lost.
    #[error("it is unknown whether a message was taken: {0}: if it was, it is lost")]
    TakeUnknown(#[source] PrimitiveError),
    /// A loss, or a failed request.
    #[error(transparent)]
    Primitive(#[from] PrimitiveError),
}

impl MessageQueueError {
    /// Returns whether the call surely changed nothing.
    ///
    /// After a failed call that takes a message at least once, no message is lost: it is ready
    /// again when its claim is deleted.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::InvalidDelay { .. }
            | Self::InvalidBatch { .. }
            | Self::PayloadTooLarge { .. } => Outcome::NotApplied,
            Self::OutcomeUnknown(_) | Self::TakeUnknown(_) => Outcome::Unknown,
            Self::Primitive(error) => error.outcome(),
        }
    }

    /// Returns the reason of the loss, if the session was lost.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        match self {
            Self::InvalidDelay { .. }
            | Self::InvalidBatch { .. }
            | Self::PayloadTooLarge { .. } => None,
            Self::OutcomeUnknown(error) | Self::TakeUnknown(error) | Self::Primitive(error) => {
                error.loss()
            }
        }
    }

    /// Returns whether the same call may succeed later, and repeats no change.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::InvalidDelay { .. }
            | Self::InvalidBatch { .. }
            | Self::PayloadTooLarge { .. }
            | Self::OutcomeUnknown(_)
            | Self::TakeUnknown(_) => false,
            Self::Primitive(error) => error.is_retryable(),
        }
    }
}

impl From<MessageQueueError> for PrimitiveError {
    /// An unknown outcome is kept, also after a loss.
    fn from(error: MessageQueueError) -> Self {
        match error {
            MessageQueueError::Primitive(error) => error,
            MessageQueueError::OutcomeUnknown(_) | MessageQueueError::TakeUnknown(_) => {
                Self::Recipe { error: Arc::new(error), outcome: Outcome::Unknown }
            }
            error => Self::of_recipe(error),
        }
    }
}

impl From<LossReason> for MessageQueueError {
    fn from(reason: LossReason) -> Self {
        Self::Primitive(reason.into())
    }
}

impl From<Error> for MessageQueueError {
    fn from(error: Error) -> Self {
        Self::Primitive(error.into())
    }
}
