//! Generations, and the state of a supervisor.

use std::fmt;

use crate::error::{Error, LossReason, PrimitiveError};

/// The number of a session among the sessions of one [`Supervisor`](super::Supervisor): 1, 2, and
/// so on.
///
/// A generation orders the sessions of one supervisor in one process. To order the holders of a
/// lock, use the [`FencingToken`](crate::kv::FencingToken).
///
/// ```
/// use coord_core::session::Generation;
///
/// assert!(Generation(2) > Generation::FIRST);
/// assert_eq!(Generation(2).to_string(), "2");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the first session.
    pub const FIRST: Self = Self(1);

    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The state of a [`Supervisor`](super::Supervisor).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SupervisorState {
    /// The newest session is alive.
    Up {
        /// The newest generation.
        generation: Generation,
    },
    /// The newest session is suspect: its last keep-alive was not confirmed.
    Suspect {
        /// The newest generation.
        generation: Generation,
    },
    /// The newest session is lost, and the supervisor opens the next.
    Down {
        /// The newest generation, which is lost.
        generation: Generation,
        /// Why its session was lost.
        reason: LossReason,
    },
    /// The supervisor opens no more sessions, because its owner closed it or its session, or
    /// orphaned the session, or because the runtime was shut down. This is final.
    Ended {
        /// The last generation.
        generation: Generation,
        /// `Closed` or `Orphaned`; `Expired` if the runtime was shut down.
        reason: LossReason,
    },
    /// The backend refused to open the next session with an error that is not retryable. This is
    /// final.
    Failed {
        /// The last generation, which is lost.
        generation: Generation,
        /// The error of the backend.
        error: Error,
    },
}

impl SupervisorState {
    /// Returns the newest generation.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        match self {
            Self::Up { generation }
            | Self::Suspect { generation }
            | Self::Down { generation, .. }
            | Self::Ended { generation, .. }
            | Self::Failed { generation, .. } => *generation,
        }
    }

    /// Why the supervisor opens no more sessions, if this state is final.
    pub(super) fn final_error(&self) -> Option<PrimitiveError> {
        match self {
            Self::Up { .. } | Self::Suspect { .. } | Self::Down { .. } => None,
            Self::Ended { reason, .. } => Some(PrimitiveError::Lost(*reason)),
            Self::Failed { error, .. } => Some(PrimitiveError::Backend(error.clone())),
        }
    }
}

impl fmt::Display for SupervisorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}: ", self.generation())?;
        match self {
            Self::Up { .. } => f.write_str("up"),
            Self::Suspect { .. } => f.write_str("suspect"),
            Self::Down { reason, .. } => write!(f, "down: {reason}"),
            Self::Ended { reason, .. } => write!(f, "ended: {reason}"),
            Self::Failed { error, .. } => write!(f, "failed: {error}"),
        }
    }
}
