//! Events of requests: through a `TraceLayer`, and of primitives that retry a request.

use std::time::Duration;

use super::{REQUEST, metrics};
use crate::error::Error;

/// A request has ended, with an error if it failed.
pub(crate) fn ended(operation: &'static str, error: Option<&Error>, elapsed: Duration) {
    match error {
        None => tracing::trace!(target: REQUEST, ?elapsed, "{operation}"),
        Some(error) => {
            let outcome = error.outcome();
            tracing::debug!(target: REQUEST, ?elapsed, %error, ?outcome, "{operation} failed");
        }
    }
    let result = error.map_or("ok", |error| error.kind().label());
    count(operation, result, elapsed);
}

/// The future of a request was dropped before the request had ended.
pub(crate) fn dropped(operation: &'static str, elapsed: Duration) {
    tracing::trace!(target: REQUEST, ?elapsed, "{operation} dropped");
    count(operation, "dropped", elapsed);
}

/// A request of a primitive failed, and is retried.
pub(crate) fn retrying(error: &Error, pause: Duration) {
    tracing::debug!(target: REQUEST, %error, next = format_args!("retrying in {pause:.0?}"),
        "request failed");
}

fn count(operation: &'static str, result: &'static str, elapsed: Duration) {
    let labels = [("operation", operation), ("result", result)];
    metrics::count("coord_requests_total", &labels);
    metrics::observe("coord_request_seconds", elapsed, &labels[..1]);
}
