//! One test per row of the table, and what fills the gaps.

use coord_core::{error::ErrorKind, kv::LeaseId};

use super::*;

/// What became of a change, as a row of the expectations has it.
const NO: Outcome = Outcome::NotApplied;
const PERHAPS: Outcome = Outcome::Unknown;

fn asked() -> Asked {
    Asked {
        changes: true,
        connects: false,
        key: Some(Bytes::from_static(b"k")),
        lease: LeaseId::new(7),
        revision: Some(Revision(9)),
        ttl: Duration::from_secs(5),
        ops: 200,
        limits: Limits::default(),
        waited: Duration::from_secs(7),
    }
}

/// What a change, and then a read, is told about a status.
fn both(code: Code, message: &str) -> [Failure; 2] {
    [true, false].map(|changes| {
        let asked = Asked { changes, ..asked() };
        Failure::of_status(Status::new(code, message), &asked, "e")
    })
}

type Expected = (Code, &'static str, ErrorKind, Outcome, Remedy);

/// Each row: a status as etcd 3.5.30 or tonic 0.14 gives it, the kind of the error, what became of
/// a change, and the remedy for a change.
static EXPECTED: &[Expected] = {
    use Code::*;
    use ErrorKind as Kind;
    use Remedy::{Elsewhere, Login, None as Never};
    &[
        (InvalidArgument, "etcdserver: key is not provided", Kind::EmptyKey, NO, Never),
        (InvalidArgument, "etcdserver: key not found", Kind::KeyNotFound, NO, Never),
        (InvalidArgument, "etcdserver: value is provided", Kind::ValueProvided, NO, Never),
        (InvalidArgument, "etcdserver: lease is provided", Kind::LeaseProvided, NO, Never),
        (
            InvalidArgument,
            "etcdserver: too many operations in txn request",
            Kind::TooManyOps,
            NO,
            Never,
        ),
        (
            InvalidArgument,
            "etcdserver: duplicate key given in txn request",
            Kind::DuplicateKey,
            NO,
            Never,
        ),
        (InvalidArgument, "etcdserver: request is too large", Kind::RequestTooLarge, NO, Never),
        (
            ResourceExhausted,
            "grpc: received message larger than max (2097165 vs. 2097152)",
            Kind::RequestTooLarge,
            NO,
            Never,
        ),
        (
            OutOfRange,
            "Error, encoded message length too large: found 9 bytes, the limit is: 4 bytes",
            Kind::RequestTooLarge,
            NO,
            Never,
        ),
        (
            OutOfRange,
            "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
            Kind::Backend,
            PERHAPS,
            Never,
        ),
        (
            OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
            Kind::Compacted,
            NO,
            Never,
        ),
        (
            OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
            Kind::FutureRevision,
            NO,
            Never,
        ),
        (OutOfRange, "etcdserver: too large lease TTL", Kind::TtlTooLarge, NO, Never),
        (NotFound, "etcdserver: requested lease not found", Kind::LeaseNotFound, NO, Never),
        (FailedPrecondition, "etcdserver: lease already exists", Kind::LeaseExists, NO, Never),
        (
            ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
            Kind::NoSpace,
            PERHAPS,
            Never,
        ),
        (PermissionDenied, "etcdserver: permission denied", Kind::PermissionDenied, NO, Never),
        (
            InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
            Kind::Unauthenticated,
            NO,
            Never,
        ),
        (Unauthenticated, "etcdserver: invalid auth token", Kind::Unauthenticated, NO, Login),
        (
            InvalidArgument,
            "etcdserver: revision of auth store is old",
            Kind::Unauthenticated,
            NO,
            Login,
        ),
        (InvalidArgument, "etcdserver: user name is empty", Kind::Unauthenticated, NO, Login),
        (Unknown, "etcdserver: too many requests", Kind::TooManyRequests, NO, Elsewhere),
        (Unavailable, "etcdserver: no leader", Kind::Unavailable, NO, Elsewhere),
        (FailedPrecondition, "etcdserver: not capable", Kind::Unavailable, NO, Elsewhere),
        (
            Unavailable,
            "etcdserver: rpc not supported for learner",
            Kind::Unavailable,
            NO,
            Elsewhere,
        ),
        (Unknown, "raft proposal dropped", Kind::Unavailable, NO, Elsewhere),
        (Unavailable, "etcdserver: leader changed", Kind::Unavailable, PERHAPS, Never),
        (Unknown, "not a primary lessor", Kind::Unavailable, PERHAPS, Never),
        (Unavailable, "etcdserver: request timed out", Kind::Unavailable, PERHAPS, Never),
        (
            Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
            Kind::Unavailable,
            PERHAPS,
            Never,
        ),
        (Unavailable, "etcdserver: server stopped", Kind::Unavailable, PERHAPS, Never),
        (Unavailable, "etcdserver: unhealthy cluster", Kind::Unavailable, PERHAPS, Never),
        (
            Unavailable,
            "HTTP status 502 Bad Gateway in place of a gRPC response",
            Kind::Unavailable,
            PERHAPS,
            Never,
        ),
        (
            Unimplemented,
            "HTTP status 404 Not Found in place of a gRPC response",
            Kind::Backend,
            PERHAPS,
            Never,
        ),
        (Unknown, "Service was not ready: transport error", Kind::Unavailable, NO, Elsewhere),
        (
            Unavailable,
            "h2 protocol error: refused stream before processing any application logic",
            Kind::Unavailable,
            NO,
            Elsewhere,
        ),
        (
            Unknown,
            "h2 protocol error: error reading a body from connection",
            Kind::Unavailable,
            PERHAPS,
            Never,
        ),
        (Unknown, "transport error", Kind::Unavailable, PERHAPS, Never),
        (Internal, "error reading a body from connection", Kind::Unavailable, PERHAPS, Never),
        (Unavailable, "something else", Kind::Unavailable, PERHAPS, Never),
        (Cancelled, "operation was canceled", Kind::Unavailable, PERHAPS, Never),
        (DeadlineExceeded, "context deadline exceeded", Kind::Timeout, PERHAPS, Never),
        (PermissionDenied, "something else", Kind::PermissionDenied, NO, Never),
        (Unauthenticated, "something else", Kind::Unauthenticated, NO, Never),
        (Unimplemented, "unknown method", Kind::Backend, PERHAPS, Never),
        (Unimplemented, "unknown service etcdserverpb.KV", Kind::Backend, NO, Never),
        (Unimplemented, "etcdserver: no such request", Kind::Backend, NO, Never),
        (InvalidArgument, "etcdserver: invalid sort option", Kind::Backend, NO, Never),
        (OutOfRange, "etcdserver: something else", Kind::Backend, NO, Never),
        (NotFound, "etcdserver: member not found", Kind::Backend, NO, Never),
        (FailedPrecondition, "etcdserver: not leader", Kind::Backend, NO, Never),
        (DataLoss, "etcdserver: corrupt cluster", Kind::Backend, PERHAPS, Never),
        (InvalidArgument, "not etcd's", Kind::Backend, PERHAPS, Never),
    ]
};

#[test]
fn every_row_of_the_table_means_what_it_says() {
    for (code, message, kind, outcome, remedy) in EXPECTED {
        let [change, read] = both(*code, message);
        assert_eq!(change.error.kind(), *kind, "{code:?} {message}");
        assert_eq!(change.error.outcome(), *outcome, "{code:?} {message}");
        assert_eq!(change.remedy, *remedy, "{code:?} {message}");
        // A read was never applied, so where a member is away another can be asked.
        let timed_out = *kind == ErrorKind::Timeout;
        assert_eq!(read.error.outcome(), if timed_out { PERHAPS } else { NO }, "{message}");
        if *kind == ErrorKind::Unavailable {
            assert_eq!(read.remedy, Remedy::Elsewhere, "{message}");
        }
        // What no etcd says is no answer to a read.
        let foreign = !message.contains("etcdserver: ") && !message.contains("decoded message");
        let by_a_proxy = matches!(
            kind,
            ErrorKind::Backend | ErrorKind::PermissionDenied | ErrorKind::Unauthenticated
        );
        if foreign && by_a_proxy {
            assert_eq!(read.remedy, Remedy::Another, "{message}");
            assert_eq!(read.error.kind(), ErrorKind::Backend, "{message}");
        } else {
            assert_eq!(read.error.kind(), *kind, "{message}");
        }
    }
    // No row of the table is left out, except that the first that fits is taken.
    for (index, row) in TABLE.iter().enumerate() {
        let tested = EXPECTED.iter().any(|(code, message, ..)| {
            TABLE.iter().position(|row| row.fits(*code, message)) == Some(index)
        });
        assert!(tested, "row {index} of the table, {:?}, is not tested", row.2);
    }
}

#[test]
fn gaps_are_filled_from_the_request() {
    let told = |code, message| both(code, message)[0].error.clone();
    let error = told(Code::InvalidArgument, "etcdserver: key not found");
    assert!(matches!(error, Error::KeyNotFound { key: Some(key) } if key == "k"));
    let error = told(Code::NotFound, "etcdserver: requested lease not found");
    assert!(matches!(error, Error::LeaseNotFound { lease } if lease == LeaseId::new(7)));
    let error = told(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    assert!(matches!(
        error,
        Error::Compacted { requested: Some(Revision(9)), compact_revision: None }
    ));
    let error = told(Code::InvalidArgument, "etcdserver: too many operations in txn request");
    assert!(matches!(error, Error::TooManyOps { count: 200, limit: 128 }));
}

#[test]
fn size_is_read_from_the_message_and_the_lower_limit_is_told() {
    let message = "grpc: received message larger than max (2097165 vs. 2097152)";
    let [change, read] = both(Code::ResourceExhausted, message);
    assert!(matches!(
        change.error,
        Error::RequestTooLarge { size_bytes: 2_097_165, limit_bytes: 1_572_864 }
    ));
    // A read does not go into the log, whose limit is the lower one.
    assert!(matches!(
        read.error,
        Error::RequestTooLarge { size_bytes: 2_097_165, limit_bytes: 2_097_152 }
    ));
}

#[test]
fn limit_of_the_client_is_called_the_clients() {
    let message = "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes";
    let [_, read] = both(Code::OutOfRange, message);
    assert_eq!(read.remedy, Remedy::None, "another member has the same answer");
    let said = read.error.to_string();
    assert!(said.contains("the answer has 9 bytes, and this client reads at most 4"), "{said}");
}

#[test]
fn refused_connection_was_not_applied_whatever_the_code_says() {
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
    let failure = Failure::of_status(status, &asked(), "h:1");
    assert_eq!(failure.remedy, Remedy::Unreachable);
    assert_eq!(failure.error.outcome(), Outcome::NotApplied);
    assert_eq!(
        failure.error.to_string(),
        "the store is unavailable: cannot connect to h:1: connection refused"
    );
}

#[test]
fn reasons_of_cancelled_watches_are_understood() {
    let kind = |reason| Failure::of_cancel_reason(reason, &Asked::default(), "e").error.kind();
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
fn lease_taken_though_the_store_chose_it_is_no_fault_of_the_caller() {
    let asked = Asked { lease: None, ..asked() };
    let status = Status::new(Code::FailedPrecondition, "etcdserver: lease already exists");
    let error = Failure::of_status(status, &asked, "e").error;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Backend, Outcome::NotApplied));
}
