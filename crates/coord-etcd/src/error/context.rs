//! The request context: values of a request that complete the errors of its response.

use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Error,
    error::Outcome,
    kv::{LeaseId, Limits, Revision},
};

/// Values of a request that an error response of etcd leaves out.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestContext {
    /// Whether the request may change the store.
    pub(crate) is_change: bool,
    /// Whether the request is the probe of `connect`. It waits for endpoints that refuse
    /// connections, because they may accept them soon.
    pub(crate) is_connect: bool,
    /// The key that an error is about, if only one is possible.
    pub(crate) key: Option<Bytes>,
    /// The lease that an error is about, if only one is possible.
    pub(crate) lease: Option<LeaseId>,
    /// The revision that an error is about, if only one is possible.
    pub(crate) revision: Option<Revision>,
    /// The requested time to live.
    pub(crate) ttl: Duration,
    /// Of a transaction: the number of compares, or of operations in one branch, whichever is the
    /// largest. Nested transactions are not counted.
    pub(crate) ops: usize,
    /// The limits of the store, as far as the backend knows them.
    pub(crate) limits: Limits,
    /// How long the client waits for a response.
    pub(crate) timeout: Duration,
}

impl RequestContext {
    /// The outcome of the request: `of_a_change` if it is a change. A read is never applied.
    pub(crate) const fn outcome(&self, of_a_change: Outcome) -> Outcome {
        if self.is_change { of_a_change } else { Outcome::NotApplied }
    }

    /// The error for a request that is too large. The message of the transport contains its size
    /// and the limit, as `.. (N vs. M)` or `.. N bytes .. M bytes`. For any other message the size
    /// is 0, and `RequestSize::with_size` fills it in.
    pub(super) fn too_large(&self, message: &str) -> Error {
        let numbers = message.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        match numbers.collect::<Vec<usize>>()[..] {
            // A change must also fit into the log, which has a lower limit than the transport.
            // Reads and watches are not logged.
            [size_bytes, limit] => {
                let of_log = if self.is_change { self.limits.max_request_bytes } else { limit };
                Error::RequestTooLarge { size_bytes, limit_bytes: limit.min(of_log) }
            }
            _ => {
                let limit_bytes = self.limits.max_request_bytes;
                Error::RequestTooLarge { size_bytes: 0, limit_bytes }
            }
        }
    }
}
