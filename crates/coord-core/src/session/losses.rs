//! The first loss during one call of a supervisor's work.
//!
//! Work that loses its lock returns an error of its own type, which need not show that a loss
//! caused it. So each call of the work receives its own handle to the session. All primitives that
//! are created from that handle share its [`Losses`], and record there the first loss that any of
//! them reports.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::error::LossReason;

/// The first loss that was reported to the users of one session handle and its clones.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    first: Arc<OnceLock<(LossReason, Bytes)>>,
}

impl Losses {
    /// Notes that the key was lost, unless an earlier loss was noted.
    pub(super) fn note(&self, reason: LossReason, key: &Bytes) {
        let _ = self.first.set((reason, key.clone()));
    }

    /// The first loss, and the key that was lost.
    pub(super) fn first(&self) -> Option<(LossReason, Bytes)> {
        self.first.get().cloned()
    }
}
