//! The error table: from the code and the message of a gRPC status to an error class.
//!
//! A gRPC code alone does not identify an error. `InvalidArgument` is a missing key or a missing
//! login; `OutOfRange` is compacted history or a TTL that is too large. So the rows of [`TABLE`]
//! match codes and messages, and the first row that matches decides. The rows at the end match the
//! code alone, or the code and a part of the message. The last row matches every status.
//!
//! The table also states the outcome that an error implies for a request that may change the
//! store. A read is never applied.

use coord_core::error::Outcome;
use tonic::Code;

use crate::delivery::NOT_GRPC_MESSAGE;

/// The meaning of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    RequestTooLarge,
    /// The client did not read the response, because it exceeds a limit of the client.
    ResponseTooLarge,
    Compacted,
    FutureRevision,
    TtlTooLarge,
    LeaseNotFound,
    LeaseExists,
    /// etcd checks the quota before a write and again after it, so the outcome is unknown.
    NoSpace,
    PermissionDenied,
    /// The user or the password is wrong.
    WrongLogin,
    /// The login was valid and has expired.
    ExpiredLogin,
    TooManyRequests,
    /// The member cannot serve requests.
    Unavailable(Outcome),
    /// The request timed out at the member.
    TimedOut,
    /// An error of none of the other classes.
    Other(Outcome),
}

/// A pattern for the message of a status.
pub(super) enum Pattern {
    Equals(&'static str),
    Contains(&'static str),
    Any,
}

/// A row: the code (any if `None`), the message, and the class.
pub(super) struct Row(Option<Code>, Pattern, pub(super) ErrorClass);

/// The error table. The rows for single messages of etcd match any code, because proxies do not
/// preserve codes.
pub(super) static TABLE: &[Row] = {
    use ErrorClass::*;
    use Outcome::{NotApplied, Unknown};
    use Pattern::*;
    &[
        Row(None, Equals("etcdserver: key is not provided"), EmptyKey),
        Row(None, Equals("etcdserver: key not found"), KeyNotFound),
        Row(None, Equals("etcdserver: value is provided"), ValueProvided),
        Row(None, Equals("etcdserver: lease is provided"), LeaseProvided),
        Row(None, Equals("etcdserver: too many operations in txn request"), TooManyOps),
        Row(None, Equals("etcdserver: duplicate key given in txn request"), DuplicateKey),
        Row(None, Equals("etcdserver: request is too large"), RequestTooLarge),
        Row(None, Contains("grpc: received message larger than max"), RequestTooLarge),
        Row(Some(Code::OutOfRange), Contains("encoded message length too large"), RequestTooLarge),
        // The member has responded, so it may have applied the request.
        Row(Some(Code::OutOfRange), Contains("decoded message length too large"), ResponseTooLarge),
        Row(None, Contains("mvcc: required revision has been compacted"), Compacted),
        Row(None, Contains("mvcc: required revision is a future revision"), FutureRevision),
        Row(None, Equals("etcdserver: too large lease TTL"), TtlTooLarge),
        Row(None, Equals("etcdserver: requested lease not found"), LeaseNotFound),
        Row(None, Equals("etcdserver: lease already exists"), LeaseExists),
        Row(None, Equals("etcdserver: mvcc: database space exceeded"), NoSpace),
        // Logins.
        Row(None, Contains("etcdserver: permission denied"), PermissionDenied),
        Row(None, Contains("etcdserver: authentication failed"), WrongLogin),
        Row(None, Contains("etcdserver: invalid auth token"), ExpiredLogin),
        Row(None, Contains("etcdserver: revision of auth store is old"), ExpiredLogin),
        Row(None, Contains("etcdserver: user name is empty"), ExpiredLogin),
        // etcd refused the request before the proposal. The first has the code Unknown, a mistake
        // of etcd's.
        Row(None, Equals("etcdserver: too many requests"), TooManyRequests),
        Row(None, Equals("etcdserver: no leader"), Unavailable(NotApplied)),
        Row(None, Equals("etcdserver: not capable"), Unavailable(NotApplied)),
        Row(None, Equals("etcdserver: rpc not supported for learner"), Unavailable(NotApplied)),
        Row(None, Equals("raft proposal dropped"), Unavailable(NotApplied)),
        // Only reads and keep-alives fail with these two messages.
        Row(None, Equals("etcdserver: leader changed"), Unavailable(Unknown)),
        Row(None, Contains("not a primary lessor"), Unavailable(Unknown)),
        // etcd proposed the request, and the result is not known.
        Row(None, Contains("etcdserver: request timed out"), Unavailable(Unknown)),
        Row(None, Equals("etcdserver: server stopped"), Unavailable(Unknown)),
        Row(None, Equals("etcdserver: unhealthy cluster"), Unavailable(Unknown)),
        // Responses of a proxy, which may have failed after it forwarded the request.
        Row(Some(Code::Unavailable), Contains(NOT_GRPC_MESSAGE), Unavailable(Unknown)),
        Row(None, Contains(NOT_GRPC_MESSAGE), Other(Unknown)),
        // Errors of the transport. The first request was not sent, and the member did not process
        // the second.
        Row(None, Contains("Service was not ready"), Unavailable(NotApplied)),
        Row(
            None,
            Contains("refused stream before processing any application logic"),
            Unavailable(NotApplied),
        ),
        Row(None, Contains("h2 protocol error"), Unavailable(Unknown)),
        Row(None, Contains("transport error"), Unavailable(Unknown)),
        Row(None, Contains("error reading a body from connection"), Unavailable(Unknown)),
        Row(Some(Code::Unavailable), Any, Unavailable(Unknown)),
        Row(Some(Code::Cancelled), Any, Unavailable(Unknown)),
        Row(Some(Code::DeadlineExceeded), Any, TimedOut),
        // etcd returns these codes only before it changes anything.
        Row(Some(Code::PermissionDenied), Any, PermissionDenied),
        Row(Some(Code::Unauthenticated), Any, WrongLogin),
        // gRPC's response to an unknown service or method names it.
        Row(Some(Code::Unimplemented), Contains("etcdserverpb."), Other(NotApplied)),
        Row(Some(Code::Unimplemented), Contains("etcdserver: "), Other(NotApplied)),
        Row(Some(Code::InvalidArgument), Contains("etcdserver: "), Other(NotApplied)),
        Row(Some(Code::OutOfRange), Contains("etcdserver: "), Other(NotApplied)),
        Row(Some(Code::NotFound), Contains("etcdserver: "), Other(NotApplied)),
        Row(Some(Code::FailedPrecondition), Contains("etcdserver: "), Other(NotApplied)),
        Row(None, Any, Other(Unknown)),
    ]
};

impl Row {
    pub(super) fn matches(&self, code: Code, message: &str) -> bool {
        self.0.is_none_or(|own| own == code)
            && match self.1 {
                Pattern::Equals(text) => message == text,
                Pattern::Contains(text) => message.contains(text),
                Pattern::Any => true,
            }
    }
}

/// The class of the first row that matches.
pub(super) fn classify(code: Code, message: &str) -> ErrorClass {
    TABLE.iter().find(|row| row.matches(code, message)).expect("the last row matches everything").2
}
