//! Events of a supervisor. `generation` is its newest generation.

use std::time::Duration;

use super::SUPERVISOR;
use crate::error::{Error, LossReason, PrimitiveError};
use crate::session::Generation;

/// The session of the newest generation is lost.
pub(crate) fn down(generation: Generation, reason: LossReason) {
    let next = "opening another session";
    tracing::warn!(target: SUPERVISOR, %generation, state = "down", %reason, next,
        "generation lost");
}

/// An attempt to open the next session failed, and is retried. The first failure has the level
/// warn, later ones debug.
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

/// The next session is open.
pub(crate) fn recovered(generation: Generation) {
    let next = "locks and leaderships of the previous generation can be acquired again";
    tracing::info!(target: SUPERVISOR, %generation, state = "up", next, "generation begun");
}

/// The supervisor opens no more sessions, because its owner ended it or its session, or because the
/// runtime was shut down.
pub(crate) fn ended(generation: Generation, reason: LossReason) {
    tracing::info!(target: SUPERVISOR, %generation, state = "ended", %reason, "supervisor ended");
}

/// The supervisor opens no more sessions, because the store refused the next one.
pub(crate) fn failed(generation: Generation, error: &Error) {
    let next = "remove the cause and start another supervisor";
    tracing::error!(target: SUPERVISOR, %generation, state = "failed", %error, next,
        "supervisor failed");
}

/// A call of the work ended by a loss, and the work is called again. `key` is the key that was
/// lost, if it was lost before the session.
pub(crate) fn called_again(generation: Generation, reason: LossReason, key: Option<&[u8]>) {
    let next = "calling the work again";
    let key = key.map(|key| tracing::field::display(key.escape_ascii()));
    tracing::info!(target: SUPERVISOR, %generation, %reason, key, next, "work ended by a loss");
}

/// An attempt to acquire a lock or leadership failed, and is retried.
pub(crate) fn acquire_failed(generation: Generation, error: &PrimitiveError, pause: Duration) {
    tracing::warn!(target: SUPERVISOR, %generation, %error,
        next = format_args!("retrying in {pause:.0?}"), "acquiring failed");
}
