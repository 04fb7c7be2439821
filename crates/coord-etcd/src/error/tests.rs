//! Tests of the error table: at least one expectation per row, and the values that come from the
//! request.

use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    error::ErrorKind,
    kv::{LeaseId, Limits, Revision},
};
use tonic::Code;

use super::table::TABLE;
use super::*;

/// Short names of the outcomes, for the rows of [`EXPECTED`].
const NO: Outcome = Outcome::NotApplied;
const UNKNOWN: Outcome = Outcome::Unknown;

fn context() -> RequestContext {
    RequestContext {
        is_change: true,
        is_connect: false,
        key: Some(Bytes::from_static(b"k")),
        lease: LeaseId::new(7),
        revision: Some(Revision(9)),
        ttl: Duration::from_secs(5),
        ops: 200,
        limits: Limits::default(),
        timeout: Duration::from_secs(7),
    }
}

/// The failures of a change and of a read for a status.
fn both(code: Code, message: &str) -> [Failure; 2] {
    [true, false].map(|is_change| {
        let context = RequestContext { is_change, ..context() };
        Failure::from_status(Status::new(code, message), &context, "e")
    })
}

type Expected = (Code, &'static str, ErrorKind, Outcome, RetryDecision);

/// Each row: a status of etcd 3.5.30, of tonic 0.14 or of a proxy, the kind of the error, the
/// outcome of a change, and the retry decision for a change.
static EXPECTED: &[Expected] = {
    use Code::*;
    use ErrorKind as Kind;
    use RetryDecision::{Failover, Final, LogIn};
    &[
        (InvalidArgument, "etcdserver: key is not provided", Kind::EmptyKey, NO, Final),
        (InvalidArgument, "etcdserver: key not found", Kind::KeyNotFound, NO, Final),
        (InvalidArgument, "etcdserver: value is provided", Kind::ValueProvided, NO, Final),
        (InvalidArgument, "etcdserver: lease is provided", Kind::LeaseProvided, NO, Final),
        (
            InvalidArgument,
            "etcdserver: too many operations in txn request",
            Kind::TooManyOps,
            NO,
            Final,
        ),
        (
            InvalidArgument,
            "etcdserver: duplicate key given in txn request",
            Kind::DuplicateKey,
            NO,
            Final,
        ),
        (InvalidArgument, "etcdserver: request is too large", Kind::RequestTooLarge, NO, Final),
        (
            ResourceExhausted,
            "grpc: received message larger than max (2097165 vs. 2097152)",
            Kind::RequestTooLarge,
            NO,
            Final,
        ),
        (
            OutOfRange,
            "Error, encoded message length too large: found 9 bytes, the limit is: 4 bytes",
            Kind::RequestTooLarge,
            NO,
            Final,
        ),
        (
            OutOfRange,
            "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
            Kind::Backend,
            UNKNOWN,
            Final,
        ),
        (
            OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
            Kind::Compacted,
            NO,
            Final,
        ),
        (
            OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
            Kind::FutureRevision,
            NO,
            Final,
        ),
        (OutOfRange, "etcdserver: too large lease TTL", Kind::TtlTooLarge, NO, Final),
        (NotFound, "etcdserver: requested lease not found", Kind::LeaseNotFound, NO, Final),
        (FailedPrecondition, "etcdserver: lease already exists", Kind::LeaseExists, NO, Final),
        (
            ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
            Kind::NoSpace,
            UNKNOWN,
            Final,
        ),
        (PermissionDenied, "etcdserver: permission denied", Kind::PermissionDenied, NO, Final),
        (
            InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
            Kind::Unauthenticated,
            NO,
            Final,
        ),
        (Unauthenticated, "etcdserver: invalid auth token", Kind::Unauthenticated, NO, LogIn),
        (
            InvalidArgument,
            "etcdserver: revision of auth store is old",
            Kind::Unauthenticated,
            NO,
            LogIn,
        ),
        (InvalidArgument, "etcdserver: user name is empty", Kind::Unauthenticated, NO, LogIn),
        (Unknown, "etcdserver: too many requests", Kind::TooManyRequests, NO, Failover),
        (Unavailable, "etcdserver: no leader", Kind::Unavailable, NO, Failover),
        (FailedPrecondition, "etcdserver: not capable", Kind::Unavailable, NO, Failover),
        (Unavailable, "etcdserver: rpc not supported for learner", Kind::Unavailable, NO, Failover),
        (Unknown, "raft proposal dropped", Kind::Unavailable, NO, Failover),
        (Unavailable, "etcdserver: leader changed", Kind::Unavailable, UNKNOWN, Final),
        (Unknown, "not a primary lessor", Kind::Unavailable, UNKNOWN, Final),
        (Unavailable, "etcdserver: request timed out", Kind::Unavailable, UNKNOWN, Final),
        (
            Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
            Kind::Unavailable,
            UNKNOWN,
            Final,
        ),
        (Unavailable, "etcdserver: server stopped", Kind::Unavailable, UNKNOWN, Final),
        (Unavailable, "etcdserver: unhealthy cluster", Kind::Unavailable, UNKNOWN, Final),
        (
            Unavailable,
            "HTTP status 502 Bad Gateway in place of a gRPC response",
            Kind::Unavailable,
            UNKNOWN,
            Final,
        ),
        (
            Unimplemented,
            "HTTP status 404 Not Found in place of a gRPC response",
            Kind::Backend,
            UNKNOWN,
            Final,
        ),
        (Unknown, "Service was not ready: transport error", Kind::Unavailable, NO, Failover),
        (
            Unavailable,
            "h2 protocol error: refused stream before processing any application logic",
            Kind::Unavailable,
            NO,
            Failover,
        ),
        (
            Unknown,
            "h2 protocol error: error reading a body from connection",
            Kind::Unavailable,
            UNKNOWN,
            Final,
        ),
        (Unknown, "transport error", Kind::Unavailable, UNKNOWN, Final),
        (Internal, "error reading a body from connection", Kind::Unavailable, UNKNOWN, Final),
        (Unavailable, "something else", Kind::Unavailable, UNKNOWN, Final),
        (Cancelled, "operation was canceled", Kind::Unavailable, UNKNOWN, Final),
        (DeadlineExceeded, "context deadline exceeded", Kind::Timeout, UNKNOWN, Final),
        (PermissionDenied, "something else", Kind::PermissionDenied, NO, Final),
        (Unauthenticated, "something else", Kind::Unauthenticated, NO, Final),
        (Unimplemented, "unknown method", Kind::Backend, UNKNOWN, Final),
        (Unimplemented, "unknown service etcdserverpb.KV", Kind::Backend, NO, Final),
        (Unimplemented, "etcdserver: no such request", Kind::Backend, NO, Final),
        (InvalidArgument, "etcdserver: invalid sort option", Kind::Backend, NO, Final),
        (OutOfRange, "etcdserver: something else", Kind::Backend, NO, Final),
        (NotFound, "etcdserver: member not found", Kind::Backend, NO, Final),
        (FailedPrecondition, "etcdserver: not leader", Kind::Backend, NO, Final),
        (DataLoss, "etcdserver: corrupt cluster", Kind::Backend, UNKNOWN, Final),
        (InvalidArgument, "not etcd's", Kind::Backend, UNKNOWN, Final),
    ]
};

#[test]
fn status_of_each_table_row_gives_its_kind_and_decision() {
    for (code, message, kind, outcome, decision) in EXPECTED {
        let [change, read] = both(*code, message);
        assert_eq!(change.error.kind(), *kind, "{code:?} {message}");
        assert_eq!(change.error.outcome(), *outcome, "{code:?} {message}");
        assert_eq!(change.decision, *decision, "{code:?} {message}");
        // A read is never applied, so another member may serve it.
        let timed_out = *kind == ErrorKind::Timeout;
        assert_eq!(read.error.outcome(), if timed_out { UNKNOWN } else { NO }, "{message}");
        if *kind == ErrorKind::Unavailable {
            assert_eq!(read.decision, RetryDecision::Failover, "{message}");
        }
        // A read fails over when the response is not etcd's.
        let not_by_etcd = !message.contains("etcdserver: ") && !message.contains("decoded message");
        let by_a_proxy = matches!(
            kind,
            ErrorKind::Backend | ErrorKind::PermissionDenied | ErrorKind::Unauthenticated
        );
        if not_by_etcd && by_a_proxy {
            assert_eq!(read.decision, RetryDecision::OtherEndpoint, "{message}");
            assert_eq!(read.error.kind(), ErrorKind::Backend, "{message}");
        } else {
            assert_eq!(read.error.kind(), *kind, "{message}");
        }
    }
    // Each row of the table is the first match of an expectation.
    for (index, row) in TABLE.iter().enumerate() {
        let tested = EXPECTED.iter().any(|(code, message, ..)| {
            TABLE.iter().position(|row| row.matches(*code, message)) == Some(index)
        });
        assert!(tested, "row {index} of the table, {:?}, is not tested", row.2);
    }
}

#[test]
fn error_is_completed_from_the_request() {
    let error_of = |code, message| both(code, message)[0].error.clone();
    let error = error_of(Code::InvalidArgument, "etcdserver: key not found");
    assert!(matches!(error, Error::KeyNotFound { key: Some(key) } if key == "k"));
    let error = error_of(Code::NotFound, "etcdserver: requested lease not found");
    assert!(matches!(error, Error::LeaseNotFound { lease } if lease == LeaseId::new(7)));
    let error =
        error_of(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    assert!(matches!(
        error,
        Error::Compacted { requested: Some(Revision(9)), compact_revision: None }
    ));
    let error = error_of(Code::InvalidArgument, "etcdserver: too many operations in txn request");
    assert!(matches!(error, Error::TooManyOps { count: 200, limit: 128 }));
}

#[test]
fn too_large_request_reports_the_lower_limit() {
    let message = "grpc: received message larger than max (2097165 vs. 2097152)";
    let [change, read] = both(Code::ResourceExhausted, message);
    assert!(matches!(
        change.error,
        Error::RequestTooLarge { size_bytes: 2_097_165, limit_bytes: 1_572_864 }
    ));
    // A read is not logged, so only the limit of the transport applies.
    assert!(matches!(
        read.error,
        Error::RequestTooLarge { size_bytes: 2_097_165, limit_bytes: 2_097_152 }
    ));
}

#[test]
fn response_above_the_clients_limit_is_not_retried() {
    let message = "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes";
    let [_, read] = both(Code::OutOfRange, message);
    assert_eq!(read.decision, RetryDecision::Final, "another member returns the same response");
    let message = read.error.to_string();
    assert!(
        message.contains("the response has 9 bytes, and this client reads at most 4"),
        "{message}"
    );
}

#[test]
fn refused_connection_is_not_applied_for_any_code() {
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
    let failure = Failure::from_status(status, &context(), "h:1");
    assert_eq!(failure.decision, RetryDecision::Unreachable);
    assert_eq!(failure.error.outcome(), Outcome::NotApplied);
    assert_eq!(
        failure.error.to_string(),
        "the store is unavailable: cannot connect to h:1: connection refused"
    );
}

#[test]
fn cancel_reason_of_a_watch_gives_its_kind() {
    let kind =
        |reason| Failure::from_cancel_reason(reason, &RequestContext::default(), "e").error.kind();
    assert_eq!(
        kind("rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
        ErrorKind::PermissionDenied
    );
    assert_eq!(
        kind("etcdserver: mvcc: required revision has been compacted"),
        ErrorKind::Compacted
    );
}

#[test]
fn taken_lease_id_chosen_by_the_store_is_a_backend_error() {
    let context = RequestContext { lease: None, ..context() };
    let status = Status::new(Code::FailedPrecondition, "etcdserver: lease already exists");
    let error = Failure::from_status(status, &context, "e").error;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Backend, Outcome::NotApplied));
}
