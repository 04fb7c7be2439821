//! Release requests to `coord lock` and `coord elect`: another client requests the
//! release.
//!
//! A request has the effect of the signal TERM to `coord`: the command receives it and decides, and
//! without a command the lock is released. So a command that ends on TERM needs nothing else.

use std::convert::Infallible;
use std::future::pending;

use coord_core::queue::Contender;
use rustix::process::{Signal, getpid, kill_process};

use super::request::HoldRequest;
use crate::text;

/// Reports the first request, and sends TERM to this process. It never returns.
///
/// If requests cannot be received, for example because the user lacks the permission for their
/// keys, the hold continues without them.
pub(super) async fn forward_requests(request: &HoldRequest, contender: &Contender) -> Infallible {
    if let Ok(received) = contender.release_requested().await {
        let reason = match text::escape(received.reason.as_bytes()) {
            reason if reason.is_empty() => reason,
            reason => format!(": {reason}"),
        };
        let name = &request.name;
        request.report(&format!("another client requests the release of {name}{reason}"));
        // It handles TERM itself, so the signal reaches it.
        let _ = kill_process(getpid(), Signal::TERM);
    }
    pending().await
}
