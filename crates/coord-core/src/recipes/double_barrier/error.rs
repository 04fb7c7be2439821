//! The error of a double barrier.

use bytes::Bytes;

use crate::error::{Error, LossReason, Outcome, PrimitiveError};

/// The error of a [`DoubleBarrier`](super::DoubleBarrier). After an error of `enter` or `leave`,
/// the participant is not in the round any more.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoubleBarrierError {
    /// The number of parties is zero. Nothing was sent.
    #[error("a double barrier of 0 parties: give the number of participants, at least 1")]
    NoParties,
    /// The number of the round is zero. Nothing was sent.
    #[error("round 0 cannot be entered: rounds are numbered from 1")]
    RoundZero,
    /// The round is over: all have left it, a participant was lost in it, or a later round was
    /// entered.
    #[error("round {round} is over: the last round is {last}, so enter round {}", last.saturating_add(1))]
    PastRound {
        /// The round.
        round: u64,
        /// The last round that was entered.
        last: u64,
    },
    /// All parties of the round are present.
    #[error(
        "round {round} has its {parties} parties already: enter a later round, or raise the \
         number of parties of a barrier with another name"
    )]
    TooManyParties {
        /// The round.
        round: u64,
        /// The number of parties.
        parties: usize,
    },
    /// Another participant has given another number of parties.
    #[error(
        "{given} parties were given, but the barrier has {stored}: give the same number \
         everywhere, or use another name"
    )]
    PartiesDisagree {
        /// The number given to this handle.
        given: usize,
        /// The number that the state of the barrier has.
        stored: usize,
    },
    /// Another participant was lost before all had entered, or before all had left.
    #[error(
        "the participant {} of round {round} was lost: enter again, the same round if it was not \
         entered, else the next",
        key.escape_ascii()
    )]
    ParticipantLost {
        /// The round.
        round: u64,
        /// The participant's key.
        key: Bytes,
    },
    /// This participant is lost, or the backend failed.
    #[error(transparent)]
    Primitive(#[from] PrimitiveError),
}

impl From<Error> for DoubleBarrierError {
    fn from(error: Error) -> Self {
        Self::Primitive(error.into())
    }
}

impl From<DoubleBarrierError> for PrimitiveError {
    fn from(error: DoubleBarrierError) -> Self {
        match error {
            DoubleBarrierError::Primitive(error) => error,
            error => Self::of_recipe(error),
        }
    }
}

impl DoubleBarrierError {
    /// Returns whether the request that failed was surely not applied. If no request failed, it is
    /// `NotApplied`, although others may have seen this participant until it withdrew.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Primitive(error) => error.outcome(),
            Self::NoParties
            | Self::RoundZero
            | Self::PastRound { .. }
            | Self::TooManyParties { .. }
            | Self::PartiesDisagree { .. }
            | Self::ParticipantLost { .. } => Outcome::NotApplied,
        }
    }

    /// Returns whether the same call may succeed later. The loss of another participant is not
    /// retryable: the caller decides which round to enter next.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Primitive(error) => error.is_retryable(),
            Self::NoParties
            | Self::RoundZero
            | Self::PastRound { .. }
            | Self::TooManyParties { .. }
            | Self::PartiesDisagree { .. }
            | Self::ParticipantLost { .. } => false,
        }
    }

    /// Returns the reason why this participant was lost, if the error is that.
    #[must_use]
    pub const fn loss(&self) -> Option<LossReason> {
        match self {
            Self::Primitive(error) => error.loss(),
            _ => None,
        }
    }
}
