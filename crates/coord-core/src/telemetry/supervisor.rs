//! Events of a supervisor. `generation` is its newest.

use std::time::Duration;

use super::SUPERVISOR;
use crate::error::{Error, LossReason, PrimitiveError};
use crate::session::Generation;

pub(crate) fn down(generation: Generation, reason: LossReason) {
    let next = "opening another session";
    tracing::warn!(target: SUPERVISOR, %generation, state = "down", %reason, next,
        "generation lost");
}

/// Another session could not be opened yet. The first failure warns, later ones repeat it.
pub(crate) fn still_down(generation: Generation, attempt: u64, error: &Error, pause: Duration) {
    if attempt == 1 {
        tracing::warn!(target: SUPERVISOR, %generation, state = "down", %error,
            next = format_args!("retrying in {pause:.0?}"), "opening another session failed");
    } else {
        tracing::debug!(target: SUPERVISOR, %generation, state = "down", attempt, %error,
            next = format_args!("retrying in {pause:.0?}"),
            "opening another session failed again");
    }
}

pub(crate) fn recovered(generation: Generation) {
    let next = "what was held in the generation before can be acquired anew";
    tracing::info!(target: SUPERVISOR, %generation, state = "up", next, "generation begun");
}

pub(crate) fn ended(generation: Generation, reason: LossReason) {
    tracing::info!(target: SUPERVISOR, %generation, state = "ended", %reason, "supervisor ended");
}

pub(crate) fn failed(generation: Generation, error: &Error) {
    let next = "remove the cause and start another supervisor";
    tracing::error!(target: SUPERVISOR, %generation, state = "failed", %error, next,
        "supervisor failed");
}

/// Work that lost what it held is called again. `key` is what it held, if that was lost before the
/// session was.
pub(crate) fn called_again(generation: Generation, reason: LossReason, key: Option<&[u8]>) {
    let next = "calling the work again";
    let key = key.map(|key| tracing::field::display(key.escape_ascii()));
    tracing::info!(target: SUPERVISOR, %generation, %reason, key, next, "work lost what it held");
}

/// A lock or a leadership could not be acquired yet.
pub(crate) fn acquire_failed(generation: Generation, error: &PrimitiveError, pause: Duration) {
    tracing::warn!(target: SUPERVISOR, %generation, %error,
        next = format_args!("retrying in {pause:.0?}"), "acquiring failed");
}
