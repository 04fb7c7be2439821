//! Which loss one call of a supervisor's work has met.
//!
//! Work that loses what it held returns an error of its own type, which need not show that a loss
//! is behind it. So each call has its own handle to the session, and so has all that is made from
//! that handle: the first loss that any of them reports is noted here.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::loss::LossReason;

/// The first loss that was reported to the users of one session handle and its clones.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    first: Arc<OnceLock<(LossReason, Bytes)>>,
}

impl Losses {
    /// Notes that the key was lost.
    pub(super) fn note(&self, reason: LossReason, key: &Bytes) {
        // The first one counts.
        let _ = self.first.set((reason, key.clone()));
    }

    /// The first loss, and the key that was lost.
    pub(super) fn first(&self) -> Option<(LossReason, Bytes)> {
        self.first.get().cloned()
    }
}
