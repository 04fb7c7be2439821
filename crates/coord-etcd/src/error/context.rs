//! The request context: what an error response leaves out, known from the request.

use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Error,
    error::Outcome,
    kv::{LeaseId, Limits, Revision},
};

/// What is known about a request, for errors that do not state it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestContext {
    /// Whether the request may change the store.
    pub(crate) changes: bool,
    /// Whether it is a connect. An endpoint that refuses connections may accept them soon.
    pub(crate) connects: bool,
    /// The key that an error is about, if only one is possible.
    pub(crate) key: Option<Bytes>,
    /// The lease that an error is about, if only one is possible.
    pub(crate) lease: Option<LeaseId>,
    /// The revision that an error is about, if only one is possible.
    pub(crate) revision: Option<Revision>,
    /// The requested time to live.
    pub(crate) ttl: Duration,
    /// The largest number of operations on one level of nesting.
    pub(crate) ops: usize,
    /// The limits of the store, as far as the backend knows them.
    pub(crate) limits: Limits,
    /// How long the client waits for a response.
    pub(crate) waited: Duration,
}

impl RequestContext {
    /// The outcome of the request, given the outcome if it were a change.
    pub(crate) const fn outcome(&self, of_a_change: Outcome) -> Outcome {
        if self.changes { of_a_change } else { Outcome::NotApplied }
    }

    /// The error for a request that is too large. The message of the transport contains both
    /// numbers, as `.. (N vs. M)` or `.. N bytes .. M bytes`. For another message the size is 0,
    /// and is filled in where the request is known.
    pub(super) fn too_large(&self, message: &str) -> Error {
        let numbers = message.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        match numbers.collect::<Vec<usize>>()[..] {
            // A change must also fit into the log, which has a lower limit than the transport.
            // Reads and watches are not logged.
            [size_bytes, limit] => {
                let of_log = if self.changes { self.limits.max_request_bytes } else { limit };
                Error::RequestTooLarge { size_bytes, limit_bytes: limit.min(of_log) }
            }
            _ => {
                let limit_bytes = self.limits.max_request_bytes;
                Error::RequestTooLarge { size_bytes: 0, limit_bytes }
            }
        }
    }
}
