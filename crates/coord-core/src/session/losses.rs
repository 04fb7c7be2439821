//! The first loss that one call of a supervisor's work has met.
//!
//! Work that loses what it held returns an error of its own type, which need not show that a loss
//! caused it. So each call of the work receives its own handle to the session. Everything that is
//! created from that handle shares its [`Losses`], and notes there the first loss that it reports.

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
