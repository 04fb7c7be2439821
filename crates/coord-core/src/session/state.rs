//! The state of a session: whether it still holds its lease.

use std::fmt;

use crate::error::LossReason;

/// Whether a session still holds its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// The store confirmed the last keep-alive.
    Alive,
    /// The last keep-alive failed or got no response; the session holds its lease until its
    /// [`deadline`](super::Session::deadline).
    Suspect,
    /// The session does not hold the lease any more. This is final.
    Lost(LossReason),
}

impl SessionState {
    pub(crate) const fn is_lost(self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive => f.write_str("alive"),
            Self::Suspect => f.write_str("suspect"),
            Self::Lost(reason) => write!(f, "lost: {reason}"),
        }
    }
}
