//! What an error is called on the wire.
//!
//! One table, the inverse of the one by which a client reads it. Where etcd has no word for an
//! error the message is our own, and the code such that a client draws the right conclusion about
//! what became of the request.
//!
//! Source: `docs/etcd-contract.md` §8; etcd 3.5 `api/v3rpc/rpctypes/error.go`.

use coord_core::{Error, Limits, Outcome};
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderName};
use tonic::{Code, Status};

/// Where an answer says how a call went.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How etcd would put it.
pub(crate) fn status(error: &Error) -> Status {
    let (code, message) = match error {
        Error::EmptyKey => (Code::InvalidArgument, "key is not provided"),
        Error::KeyNotFound { .. } => (Code::InvalidArgument, "key not found"),
        Error::ValueProvided { .. } => (Code::InvalidArgument, "value is provided"),
        Error::LeaseProvided { .. } => (Code::InvalidArgument, "lease is provided"),
        Error::TooManyOps { .. } => (Code::InvalidArgument, "too many operations in txn request"),
        Error::DuplicateKey { .. } => (Code::InvalidArgument, "duplicate key given in txn request"),
        Error::RequestTooLarge { .. } => (Code::InvalidArgument, "request is too large"),
        Error::Compacted { .. } => (Code::OutOfRange, "mvcc: required revision has been compacted"),
        Error::FutureRevision { .. } => {
            (Code::OutOfRange, "mvcc: required revision is a future revision")
        }
        Error::TtlTooLarge { .. } => (Code::OutOfRange, "too large lease TTL"),
        Error::LeaseNotFound { .. } => (Code::NotFound, "requested lease not found"),
        Error::LeaseExists { .. } => (Code::FailedPrecondition, "lease already exists"),
        Error::NoSpace { .. } => (Code::ResourceExhausted, "mvcc: database space exceeded"),
        Error::PermissionDenied { .. } => (Code::PermissionDenied, "permission denied"),
        Error::Unauthenticated { .. } => (Code::Unauthenticated, "invalid auth token"),
        // The code is etcd's mistake, and clients know it by it.
        Error::TooManyRequests => (Code::Unknown, "too many requests"),
        Error::Unavailable { outcome: Outcome::NotApplied, .. } => (Code::Unavailable, "no leader"),
        Error::Unavailable { outcome: Outcome::Unknown, .. } | Error::Timeout { .. } => {
            (Code::Unavailable, "request timed out")
        }
        Error::EmptyWatchRange { .. }
        | Error::InvalidTtl { .. }
        | Error::TxnTooDeep { .. }
        | Error::Refused { .. } => return Status::invalid_argument(error.to_string()),
        // Whatever it was, nobody can say what became of the request.
        _ => return Status::unknown(error.to_string()),
    };
    Status::new(code, format!("etcdserver: {message}"))
}

/// The same, for a request that a transport with these limits may not have let in at all. A backend
/// reports a limit above that of changes only for reads and watches; for changes see
/// [`check_message`].
pub(crate) fn status_of(error: &Error, limits: Limits) -> Status {
    match *error {
        Error::RequestTooLarge { size_bytes, limit_bytes }
            if limit_bytes > limits.max_request_bytes =>
        {
            larger_than_max(size_bytes, limit_bytes)
        }
        ref error => status(error),
    }
}

/// Refuses a message that a transport with this limit would not let in, whatever else is wrong with
/// it. The backend cannot be left to refuse a change so: its error reports the limit of the log,
/// which is the one to obey, and does not show which of the two limits refused the change.
pub(crate) fn check_message(size_bytes: usize, limit_bytes: usize) -> Result<(), Status> {
    if size_bytes > limit_bytes {
        return Err(larger_than_max(size_bytes, limit_bytes));
    }
    Ok(())
}

/// What Go's gRPC reports about a message that is too large.
fn larger_than_max(size_bytes: usize, limit_bytes: usize) -> Status {
    Status::resource_exhausted(format!(
        "grpc: received message larger than max ({size_bytes} vs. {limit_bytes})"
    ))
}

/// The server is being stopped.
pub(crate) fn stopped() -> Status {
    Status::unavailable("etcdserver: server stopped")
}

/// How the Lock and Election services put it: they are clients of the store themselves, and what
/// they are told they pass on without its code.
///
/// Source: etcd 3.5 `server/etcdserver/api/v3lock/lock.go`, `client/v3/concurrency/mutex.go`.
pub(crate) fn without_code(error: &Error) -> Status {
    Status::unknown(status(error).message())
}

/// What tonic says in its own words, in etcd's.
pub(crate) fn etcds_words(response: http::Response<Body>) -> http::Response<Body> {
    // Only an answer without a body has its status up here.
    if !response.headers().contains_key(STATUS) {
        return response;
    }
    let words = |status: &Status| too_large(status).or_else(|| too_strange(status));
    match Status::from_header_map(response.headers()).as_ref().and_then(words) {
        Some(status) => status.into_http(),
        None => response,
    }
}

/// A message that was compressed in a way that the server does not know.
fn too_strange(status: &Status) -> Option<Status> {
    let said = status.message().strip_prefix("Content is compressed with `")?;
    let encoding = said.strip_suffix("` which isn't supported")?;
    let message = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
    Some(Status::unimplemented(message))
}

/// A message that was larger than the server takes, as Go's gRPC puts it.
pub(crate) fn too_large(status: &Status) -> Option<Status> {
    let said = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = said.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    let message = format!("grpc: received message larger than max ({found} vs. {limit})");
    Some(Status::resource_exhausted(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_etcds_to_the_letter() {
        let compacted = status(&Error::Compacted { requested: None, compact_revision: None });
        assert_eq!(compacted.code(), Code::OutOfRange);
        let message = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(compacted.message(), message);
    }

    #[test]
    fn what_the_transport_refuses_is_told_apart_from_what_the_log_refuses() {
        let limits = Limits::default();
        let too_large = |limit_bytes| Error::RequestTooLarge { size_bytes: 3 << 20, limit_bytes };
        let by_log = status_of(&too_large(limits.max_request_bytes), limits);
        assert_eq!(by_log.message(), "etcdserver: request is too large");
        let by_transport = status_of(&too_large(2 << 20), limits);
        assert_eq!(by_transport.code(), Code::ResourceExhausted);
        let message = "grpc: received message larger than max (3145728 vs. 2097152)";
        assert_eq!(by_transport.message(), message);
    }

    #[test]
    fn change_that_exceeds_the_transport_has_etcds_status() {
        check_message(2 << 20, 2 << 20).expect("the log may refuse it, the transport does not");
        let refused = check_message((2 << 20) + 1, 2 << 20).expect_err("one byte too large");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let message = "grpc: received message larger than max (2097153 vs. 2097152)";
        assert_eq!(refused.message(), message);
    }

    #[test]
    fn what_tonic_finds_too_large_is_told_in_etcds_words() {
        let tonics = Status::out_of_range(
            "Error, decoded message length too large: found 3145728 bytes, the limit is: 2097152 bytes",
        );
        let told = etcds_words(tonics.into_http());
        let told = Status::from_header_map(told.headers()).expect("a status");
        assert_eq!(told.code(), Code::ResourceExhausted);
        let message = "grpc: received message larger than max (3145728 vs. 2097152)";
        assert_eq!(told.message(), message);
        assert!(too_large(&Status::out_of_range("something else")).is_none());
    }
}
