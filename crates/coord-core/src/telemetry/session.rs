//! Events of a session.

use std::time::Duration;

use super::{SESSION, label, metrics};
use crate::error::{Error, LossReason};
use crate::kv::LeaseId;
use crate::session::generation::Generation;
use crate::session::state::SessionState;

/// Reports the events of one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionEvents {
    pub(crate) lease: LeaseId,
    pub(crate) generation: Generation,
}

impl SessionEvents {
    pub(crate) fn opened(self, ttl: Duration) {
        let Self { lease, generation } = self;
        tracing::info!(target: SESSION, %lease, %generation, ?ttl, state = "alive",
            "session opened");
        metrics::count("coord_sessions_opened_total", &[]);
        metrics::add("coord_sessions_open", 1.0, &[]);
        if generation > Generation::FIRST {
            metrics::count("coord_session_generations_total", &[]);
        }
    }

    /// The state has changed; `left` is the time until the session ends itself.
    pub(crate) fn entered(self, state: SessionState, left: Duration) {
        let Self { lease, generation } = self;
        match state {
            SessionState::Alive => {
                tracing::info!(target: SESSION, %lease, %generation, %state,
                    "session confirmed again");
            }
            SessionState::Suspect => {
                tracing::warn!(target: SESSION, %lease, %generation, %state,
                    next = format_args!("lost in {left:.1?} unless a keep-alive is confirmed"),
                    "session suspect");
            }
            SessionState::Lost(reason) => {
                if reason.is_deliberate() {
                    tracing::info!(target: SESSION, %lease, %generation, state = "lost", %reason,
                        "session ended");
                } else {
                    let next = "its locks and leaderships are lost: open another session";
                    tracing::warn!(target: SESSION, %lease, %generation, state = "lost", %reason,
                        next, "session lost");
                }
                Self::count_lost(reason);
            }
        }
    }

    /// The runtime was shut down while the session was open.
    pub(crate) fn abandoned(self, reason: LossReason) {
        let Self { lease, generation } = self;
        let next = "the lease, and the keys on it, expire by themselves";
        tracing::warn!(target: SESSION, %lease, %generation, state = "lost", next,
            "session left open when its runtime was shut down");
        Self::count_lost(reason);
    }

    fn count_lost(reason: LossReason) {
        metrics::add("coord_sessions_open", -1.0, &[]);
        metrics::count("coord_sessions_lost_total", &[("reason", label(reason))]);
    }

    pub(crate) fn keep_alive_confirmed(self) {
        let Self { lease, generation } = self;
        tracing::trace!(target: SESSION, %lease, %generation, "keep-alive confirmed");
        metrics::count("coord_session_keep_alives_total", &[("result", "confirmed")]);
    }

    pub(crate) fn keep_alive_failed(self, error: &Error) {
        let Self { lease, generation } = self;
        tracing::debug!(target: SESSION, %lease, %generation, %error, "keep-alive failed");
        metrics::count("coord_session_keep_alives_total", &[("result", "failed")]);
    }

    pub(crate) fn clean_up_failed(self, error: &Error, pause: Duration) {
        let Self { lease, generation } = self;
        tracing::debug!(target: SESSION, %lease, %generation, %error,
            next = format_args!("retrying in {pause:.0?}"), "deleting an orphaned key failed");
    }

    /// The revocation of the lease has ended. A caller that dropped the session does not wait for
    /// it.
    pub(crate) fn closed(self, result: &Result<(), Error>) {
        let Self { lease, generation } = self;
        match result {
            Ok(()) => tracing::debug!(target: SESSION, %lease, %generation, "lease revoked"),
            Err(error) => {
                let next = "the lease, and the keys on it, expire by themselves";
                tracing::warn!(target: SESSION, %lease, %generation, %error, next,
                    "lease not revoked");
            }
        }
    }

    /// The orphaning of the lease has ended.
    pub(crate) fn orphaned(self, result: &Result<(), Error>) {
        let Self { lease, generation } = self;
        match result {
            Ok(()) => {
                let next = "an adopter keeps it alive, or it expires";
                tracing::info!(target: SESSION, %lease, %generation, next, "lease orphaned");
            }
            Err(error) => {
                let next =
                    "an adopter may have less than the whole TTL, or the lease may have ended";
                tracing::warn!(target: SESSION, %lease, %generation, %error, next,
                    "lease not refreshed");
            }
        }
    }
}

/// An attempt to open a session failed, and is retried.
pub(crate) fn open_failed(generation: Generation, error: &Error, pause: Duration) {
    tracing::debug!(target: SESSION, %generation, %error,
        next = format_args!("retrying in {pause:.0?}"), "opening a session failed");
}

/// A session was not opened: `error` is returned to the caller.
pub(crate) fn not_opened(generation: Generation, error: &Error) {
    tracing::debug!(target: SESSION, %generation, %error, "session not opened");
}

/// Closing was not confirmed in time.
pub(crate) fn close_unconfirmed(lease: LeaseId, within: Duration) {
    tracing::warn!(target: SESSION, %lease,
        next = "the lease, and the keys on it, expire by themselves",
        "closing the session was not confirmed within {within:?}");
}
