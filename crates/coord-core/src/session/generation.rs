//! How things stand with sessions that follow one another.

use std::fmt;

use crate::error::Error;
use crate::loss::{LossReason, PrimitiveError};

/// Which session it is of those that were opened one after the other: 1, 2, and so on.
///
/// ```
/// use coord_core::Epoch;
///
/// assert!(Epoch(2) > Epoch::FIRST);
/// assert_eq!(Epoch(2).to_string(), "2");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the first session.
    pub const FIRST: Self = Self(1);

    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How things stand with a [`Supervisor`](super::Supervisor).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SupervisorState {
    /// The session of this epoch is alive.
    Up {
        /// The newest epoch.
        epoch: Epoch,
    },
    /// The session of this epoch is suspect: its last keep-alive was not confirmed.
    Suspect {
        /// The newest epoch.
        epoch: Epoch,
    },
    /// The session of this epoch is lost, and another one is being opened.
    Down {
        /// The newest epoch, which is lost.
        epoch: Epoch,
        /// Why it is.
        reason: LossReason,
    },
    /// Nobody opens sessions any more, because the owner wanted it so: the supervisor or its
    /// session was closed, or its lease handed over. This is final.
    Ended {
        /// The last epoch.
        epoch: Epoch,
        /// What the owner did; `Expired` if the runtime was shut down.
        reason: LossReason,
    },
    /// No other session can be opened: trying again would not help. This is final.
    Failed {
        /// The last epoch, which is lost.
        epoch: Epoch,
        /// What the backend answered.
        error: Error,
    },
}

impl SupervisorState {
    /// The newest epoch that there has been.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Up { epoch }
            | Self::Suspect { epoch }
            | Self::Down { epoch, .. }
            | Self::Ended { epoch, .. }
            | Self::Failed { epoch, .. } => *epoch,
        }
    }

    /// Why there will be no other epoch, if so.
    pub(super) fn over(&self) -> Option<PrimitiveError> {
        match self {
            Self::Up { .. } | Self::Suspect { .. } | Self::Down { .. } => None,
            Self::Ended { reason, .. } => Some(PrimitiveError::Lost(*reason)),
            Self::Failed { error, .. } => Some(PrimitiveError::Backend(error.clone())),
        }
    }
}

impl fmt::Display for SupervisorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { epoch } => write!(f, "epoch {epoch}: up"),
            Self::Suspect { epoch } => write!(f, "epoch {epoch}: suspect"),
            Self::Down { epoch, reason } => write!(f, "epoch {epoch}: down: {reason}"),
            Self::Ended { epoch, reason } => write!(f, "epoch {epoch}: ended: {reason}"),
            Self::Failed { epoch, error } => write!(f, "epoch {epoch}: failed: {error}"),
        }
    }
}
