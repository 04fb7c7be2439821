//! What etcd and the way to it say when they fail, and what that means.
//!
//! gRPC codes alone are ambiguous: `InvalidArgument` is a key that is missing and a user who is
//! not logged in, `OutOfRange` is compacted history and a lease that is too long. So there is
//! **one table**, [`TABLE`], of codes and messages, read from the top; the last rows go by the code
//! alone. What the messages leave out (which key, which revision) is filled in from the request,
//! as [`Asked`], where the request leaves no doubt.
//!
//! The one question that decides on retries is what became of the request. It is answered in the
//! table too, for a request that may change the store: a read is never applied.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::{Error, LeaseId, Limits, Outcome, Revision, Source};
use rustls::CertificateError;
use tokio::time::error::Elapsed;
use tonic::{Code, ConnectError, Status};

use crate::causes::{cause, root};
use crate::delivery::{NOT_GRPC, Unprocessed};
use crate::not_tls;
use crate::wire::Malformed;

/// What a request was about, for errors that do not say it themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Whether it may change the store.
    pub(crate) changes: bool,
    /// Whether it is a connect, for which an endpoint may start to accept connections.
    pub(crate) connects: bool,
    /// The one key that the complaint can be about.
    pub(crate) key: Option<Bytes>,
    /// The one lease that the complaint can be about.
    pub(crate) lease: Option<LeaseId>,
    /// The one revision that the complaint can be about.
    pub(crate) revision: Option<Revision>,
    /// The time to live asked for.
    pub(crate) ttl: Duration,
    /// The largest number of operations on one level.
    pub(crate) ops: usize,
    /// What the backend believes the store's limits to be.
    pub(crate) limits: Limits,
    /// How long an answer was waited for.
    pub(crate) waited: Duration,
}

/// A call that failed, and what can be done about it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) remedy: Remedy,
}

/// What can be done about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing: this is the answer, or trying again might apply the request twice.
    None,
    /// The member could not be reached at all: ask another.
    Unreachable,
    /// The member did not process the request, because of the connection: send it again, at once
    /// and to the same member.
    Resend,
    /// What answered is not etcd, or something between it and the member failed: ask another. The
    /// same endpoint would answer the same.
    Another,
    /// The member cannot serve now: ask another, or the same later.
    Elsewhere,
    /// The login is too old: log in again.
    Login,
}

/// What a message says.
enum Text {
    /// Exactly this.
    Is(&'static str),
    /// This, and something before or after it.
    Has(&'static str),
    Anything,
}

/// What a row means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    TooLarge,
    /// The answer was not read, because it exceeds a limit of this client.
    AnswerTooLarge,
    Compacted,
    Future,
    TtlTooLarge,
    LeaseNotFound,
    LeaseExists,
    /// The quota is checked before a write, and once more after it: nobody can tell which it was.
    NoSpace,
    Denied,
    /// The user or the password is wrong.
    WrongLogin,
    /// The login was good once.
    OldLogin,
    TooManyRequests,
    /// The member cannot serve.
    Away(Outcome),
    /// Whoever was asked stopped waiting.
    TimedOut,
    /// None of the above.
    Other(Outcome),
}

struct Row(Option<Code>, Text, Means);

/// The table. Messages of etcd's own are matched whatever their code, which proxies lose.
static TABLE: &[Row] = {
    use Means::*;
    use Outcome::{NotApplied, Unknown};
    use Text::*;
    &[
        Row(None, Is("etcdserver: key is not provided"), EmptyKey),
        Row(None, Is("etcdserver: key not found"), KeyNotFound),
        Row(None, Is("etcdserver: value is provided"), ValueProvided),
        Row(None, Is("etcdserver: lease is provided"), LeaseProvided),
        Row(None, Is("etcdserver: too many operations in txn request"), TooManyOps),
        Row(None, Is("etcdserver: duplicate key given in txn request"), DuplicateKey),
        Row(None, Is("etcdserver: request is too large"), TooLarge),
        Row(None, Has("grpc: received message larger than max"), TooLarge),
        Row(Some(Code::OutOfRange), Has("encoded message length too large"), TooLarge),
        // An answer that was not read: what was asked may have been done.
        Row(Some(Code::OutOfRange), Has("decoded message length too large"), AnswerTooLarge),
        Row(None, Has("mvcc: required revision has been compacted"), Compacted),
        Row(None, Has("mvcc: required revision is a future revision"), Future),
        Row(None, Is("etcdserver: too large lease TTL"), TtlTooLarge),
        Row(None, Is("etcdserver: requested lease not found"), LeaseNotFound),
        Row(None, Is("etcdserver: lease already exists"), LeaseExists),
        Row(None, Is("etcdserver: mvcc: database space exceeded"), NoSpace),
        // Logins.
        Row(None, Has("etcdserver: permission denied"), Denied),
        Row(None, Has("etcdserver: authentication failed"), WrongLogin),
        Row(None, Has("etcdserver: invalid auth token"), OldLogin),
        Row(None, Has("etcdserver: revision of auth store is old"), OldLogin),
        Row(None, Has("etcdserver: user name is empty"), OldLogin),
        // Refused before it was proposed. etcd gives the first with code Unknown, by mistake.
        Row(None, Is("etcdserver: too many requests"), TooManyRequests),
        Row(None, Is("etcdserver: no leader"), Away(NotApplied)),
        Row(None, Is("etcdserver: not capable"), Away(NotApplied)),
        Row(None, Is("etcdserver: rpc not supported for learner"), Away(NotApplied)),
        Row(None, Is("raft proposal dropped"), Away(NotApplied)),
        // Said of reads only.
        Row(None, Is("etcdserver: leader changed"), Away(Unknown)),
        Row(None, Has("not a primary lessor"), Away(Unknown)),
        // Proposed, and nobody knows what became of it.
        Row(None, Has("etcdserver: request timed out"), Away(Unknown)),
        Row(None, Is("etcdserver: server stopped"), Away(Unknown)),
        Row(None, Is("etcdserver: unhealthy cluster"), Away(Unknown)),
        // A proxy. It may have failed after it sent the request on.
        Row(Some(Code::Unavailable), Has(NOT_GRPC), Away(Unknown)),
        Row(None, Has(NOT_GRPC), Other(Unknown)),
        // The transport. With the first nothing was sent, with the second it was not looked at.
        Row(None, Has("Service was not ready"), Away(NotApplied)),
        Row(None, Has("refused stream before processing any application logic"), Away(NotApplied)),
        Row(None, Has("h2 protocol error"), Away(Unknown)),
        Row(None, Has("transport error"), Away(Unknown)),
        Row(None, Has("error reading a body from connection"), Away(Unknown)),
        Row(Some(Code::Unavailable), Anything, Away(Unknown)),
        Row(Some(Code::Cancelled), Anything, Away(Unknown)),
        Row(Some(Code::DeadlineExceeded), Anything, TimedOut),
        // Whatever else etcd refuses, it refuses before it changes anything.
        Row(Some(Code::PermissionDenied), Anything, Denied),
        Row(Some(Code::Unauthenticated), Anything, WrongLogin),
        // gRPC's own answer to a service or a method that a server lacks names it.
        Row(Some(Code::Unimplemented), Has("etcdserverpb."), Other(NotApplied)),
        Row(Some(Code::Unimplemented), Has("etcdserver: "), Other(NotApplied)),
        Row(Some(Code::InvalidArgument), Has("etcdserver: "), Other(NotApplied)),
        Row(Some(Code::OutOfRange), Has("etcdserver: "), Other(NotApplied)),
        Row(Some(Code::NotFound), Has("etcdserver: "), Other(NotApplied)),
        Row(Some(Code::FailedPrecondition), Has("etcdserver: "), Other(NotApplied)),
        Row(None, Anything, Other(Unknown)),
    ]
};

impl Row {
    fn fits(&self, code: Code, message: &str) -> bool {
        self.0.is_none_or(|own| own == code)
            && match self.1 {
                Text::Is(text) => message == text,
                Text::Has(text) => message.contains(text),
                Text::Anything => true,
            }
    }
}

impl Failure {
    /// What an error of the client crate means, from the member at `endpoint`.
    pub(crate) fn of_client(error: etcd_client::Error, asked: &Asked, endpoint: &str) -> Self {
        use etcd_client::Error as Client;
        match error {
            Client::GRpcStatus(status) => Self::of_status(status, asked, endpoint),
            Client::LeaseKeepAliveError(reason) if reason == "lease not found" => {
                Self::answer(Error::LeaseNotFound { lease: asked.lease })
            }
            // What these say is that a stream's other end is gone.
            Client::LeaseKeepAliveError(reason) | Client::WatchError(reason) => {
                let outcome = asked.outcome(Outcome::Unknown);
                Self::away(outcome, format!("{endpoint}: {reason}"), None)
            }
            // The rest is said before anything is sent.
            error => Self::answer(other(Outcome::NotApplied, error)),
        }
    }

    /// No answer came in time, or the member says that it had none.
    pub(crate) const fn timed_out(asked: &Asked) -> Self {
        let remedy = if asked.changes { Remedy::None } else { Remedy::Elsewhere };
        Self { error: Error::Timeout { after: asked.waited }, remedy }
    }

    /// What a gRPC status means, from the member at `endpoint`.
    pub(crate) fn of_status(status: Status, asked: &Asked, endpoint: &str) -> Self {
        if let Some(why) = not_dialled(&status) {
            let reason = not_dialled_reason(endpoint, why);
            let remedy = of_dial(&status);
            let error = unavailable(Outcome::NotApplied, reason, Some(Arc::new(status)));
            return Self { error, remedy };
        }
        if cause::<Unprocessed>(&status).is_some() {
            let reason = format!("{endpoint}: the request was not processed: {}", root(&status));
            let error = unavailable(Outcome::NotApplied, reason, Some(Arc::new(status)));
            return Self { error, remedy: Remedy::Resend };
        }
        Self::of_message(status, asked, endpoint)
    }

    /// What it means that a watch was cancelled with this reason.
    ///
    /// Some reasons are messages, and some are whole statuses as Go prints them.
    pub(crate) fn of_cancel_reason(reason: &str, asked: &Asked, endpoint: &str) -> Self {
        let message = reason.split_once(" desc = ").map_or(reason, |(_, message)| message);
        Self::of_message(Status::unknown(message), asked, endpoint)
    }

    fn of_message(status: Status, asked: &Asked, endpoint: &str) -> Self {
        let (code, message) = (status.code(), status.message());
        let row = TABLE.iter().find(|row| row.fits(code, message));
        let means = row.expect("the last row fits everything").2;
        let by_etcd = message.contains("etcdserver: ");
        let said = || message.trim_start_matches("etcdserver: ").to_owned();
        match means {
            Means::EmptyKey => Self::answer(Error::EmptyKey),
            Means::KeyNotFound => Self::answer(Error::KeyNotFound { key: asked.key.clone() }),
            Means::ValueProvided => Self::answer(Error::ValueProvided { key: asked.a_key() }),
            Means::LeaseProvided => Self::answer(Error::LeaseProvided { key: asked.a_key() }),
            Means::DuplicateKey => Self::answer(Error::DuplicateKey { key: asked.a_key() }),
            Means::TooManyOps => Self::answer(Error::TooManyOps {
                count: asked.ops,
                limit: asked.limits.max_txn_ops,
            }),
            Means::TooLarge => Self::answer(asked.too_large(message)),
            Means::AnswerTooLarge => {
                let answer = Foreign { said: answer_too_large(endpoint, message), status };
                Self::answer(other(asked.outcome(Outcome::Unknown), answer))
            }
            Means::Compacted => {
                Self::answer(Error::Compacted { requested: asked.revision, compact_revision: None })
            }
            Means::Future => {
                Self::answer(Error::FutureRevision { requested: asked.revision, current: None })
            }
            Means::TtlTooLarge => Self::answer(Error::TtlTooLarge { ttl: asked.ttl }),
            Means::LeaseNotFound => Self::answer(Error::LeaseNotFound { lease: asked.lease }),
            Means::LeaseExists => Self::answer(match asked.lease {
                Some(lease) => Error::LeaseExists { lease },
                // The store chose the id: that it is taken is not for the caller to mend.
                None => other(Outcome::NotApplied, status),
            }),
            Means::NoSpace => {
                Self::answer(Error::NoSpace { outcome: asked.outcome(Outcome::Unknown) })
            }
            // A change that a proxy denies was not sent on. A read may be permitted elsewhere.
            Means::Denied | Means::WrongLogin if !by_etcd && !asked.changes => {
                Self::foreign(Outcome::NotApplied, status, asked, endpoint)
            }
            Means::Denied => Self::answer(Error::PermissionDenied { reason: said() }),
            Means::WrongLogin => Self::answer(Error::Unauthenticated { reason: said() }),
            Means::OldLogin => {
                let error = Error::Unauthenticated { reason: said() };
                Self { error, remedy: Remedy::Login }
            }
            Means::TooManyRequests => {
                Self { error: Error::TooManyRequests, remedy: Remedy::Elsewhere }
            }
            Means::Away(outcome) => {
                let reason = match status.source() {
                    Some(source) => format!("{endpoint}: {}: {}", said(), root(source)),
                    None => format!("{endpoint}: {}", said()),
                };
                Self::away(asked.outcome(outcome), reason, Some(Arc::new(status)))
            }
            Means::TimedOut => Self::timed_out(asked),
            Means::Other(outcome) if by_etcd => Self::answer(other(asked.outcome(outcome), status)),
            Means::Other(outcome) => Self::foreign(outcome, status, asked, endpoint),
        }
    }

    /// The same, of the first request ever made over a connection. Where the connection was made
    /// and then cut, who the two are is usually what is wrong: a server says so only after the
    /// handshake, and often hangs up before that can be read.
    ///
    /// A TLS alert that can be read is final: another attempt at the endpoint has the same result.
    pub(crate) fn at_first(mut self, encrypted: bool) -> Self {
        if let Error::Unavailable { reason, source: Some(source), .. } = &mut self.error
            && !matches!(self.remedy, Remedy::Unreachable | Remedy::Another)
            && cause::<tonic::transport::Error>(&**source).is_some()
        {
            reason.push_str(if encrypted {
                " (at the first request: the server may require a client certificate that it trusts: configure one)"
            } else {
                " (at the first request: does it want TLS?)"
            });
            let retried = matches!(self.remedy, Remedy::Elsewhere | Remedy::Resend);
            if encrypted && retried && is_of_tls(&**source) {
                self.remedy = Remedy::Another;
            }
        }
        self
    }

    /// What it means that an answer could not be read.
    pub(crate) fn of_malformed(malformed: Malformed, asked: &Asked) -> Self {
        Self::answer(other(asked.outcome(Outcome::Unknown), malformed))
    }

    /// What it means that a connection could not be made.
    pub(crate) fn not_connected(endpoint: &str, error: tonic::transport::Error) -> Self {
        let reason = not_dialled_reason(endpoint, root(&error));
        let remedy = of_dial(&error);
        let error = unavailable(Outcome::NotApplied, reason, Some(Arc::new(error)));
        Self { error, remedy }
    }

    /// What it means that a member was not even ready to be asked.
    pub(crate) fn not_reached(endpoint: &str, why: &str) -> Self {
        let error = unavailable(Outcome::NotApplied, format!("{endpoint}: {why}"), None);
        Self { error, remedy: Remedy::Unreachable }
    }

    /// No connection to the member took the request in time.
    pub(crate) fn not_sent(endpoint: &str) -> Self {
        let why = "the request was not sent: no stream of the connection became free in time";
        let error = unavailable(Outcome::NotApplied, format!("{endpoint}: {why}"), None);
        Self { error, remedy: Remedy::Resend }
    }

    /// A failure that is the answer.
    pub(crate) const fn answer(error: Error) -> Self {
        Self { error, remedy: Remedy::None }
    }

    /// An answer that no etcd gives, and the outcome that it means for a change. For a read another
    /// endpoint may have a better one; a change may have been applied.
    fn foreign(of_a_change: Outcome, status: Status, asked: &Asked, endpoint: &str) -> Self {
        let (code, message) = (status.code(), status.message());
        let said = format!("{endpoint}: not an answer of etcd's: {code}: {message}");
        let error = other(asked.outcome(of_a_change), Foreign { said, status });
        Self { error, remedy: if asked.changes { Remedy::None } else { Remedy::Another } }
    }

    /// A member that cannot serve. Another may, unless that could apply the request twice.
    fn away(outcome: Outcome, reason: String, source: Option<Source>) -> Self {
        let remedy = match outcome {
            Outcome::NotApplied => Remedy::Elsewhere,
            Outcome::Unknown => Remedy::None,
        };
        Self { error: unavailable(outcome, reason, source), remedy }
    }
}

impl Asked {
    /// What became of the request, when a change would have had this outcome.
    pub(crate) const fn outcome(&self, of_a_change: Outcome) -> Outcome {
        if self.changes { of_a_change } else { Outcome::NotApplied }
    }

    fn a_key(&self) -> Bytes {
        self.key.clone().unwrap_or_default()
    }

    /// Both numbers are in the message of the transport, `.. (N vs. M)` or `.. N bytes .. M bytes`.
    /// Otherwise the size is left at zero, for whoever has the request to fill in.
    fn too_large(&self, message: &str) -> Error {
        let numbers = message.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        match numbers.collect::<Vec<usize>>()[..] {
            // A change must also fit into the log, whose limit is lower: what is just below that of
            // the transport is too large as well. Reads and watches only pass the transport.
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

/// The message of a failed dial, with the remedy where it is known.
fn not_dialled_reason(endpoint: &str, root: &(dyn StdError + 'static)) -> String {
    format!("cannot connect to {endpoint}: {}{}", not_tls::reason(root), remedy_of(root))
}

/// What a failed dial means: an endpoint that refuses connections may accept them soon, and one
/// whose TLS handshake fails will fail it again.
fn of_dial(error: &(dyn StdError + 'static)) -> Remedy {
    if is_of_tls(error) { Remedy::Another } else { Remedy::Unreachable }
}

/// Whether TLS failed: the handshake, or a connection that the server ended with an alert.
fn is_of_tls(error: &(dyn StdError + 'static)) -> bool {
    let io = cause::<io::Error>(error).or_else(|| cause::<h2::Error>(error)?.get_io());
    io.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// The message has two numbers: of the answer, and of the limit.
fn answer_too_large(endpoint: &str, message: &str) -> String {
    let numbers = message.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
    match numbers.collect::<Vec<_>>()[..] {
        [size, limit] => format!(
            "{endpoint}: the answer has {size} bytes, and this client reads at most {limit}: ask \
             for less at a time"
        ),
        _ => format!("{endpoint}: the answer is larger than this client reads: {message}"),
    }
}

/// What to do about a server's certificate that is not trusted.
fn remedy_of(why: &(dyn StdError + 'static)) -> &'static str {
    let rustls = why.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match rustls.and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ": configure the CA that issued it, or the certificate itself as a CA"
        }
        _ => "",
    }
}

/// Whether the tasks of a connection are gone, because the runtime that it was made on is. tonic
/// does not dial again then.
pub(crate) fn runtime_is_gone(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    cause::<tower::buffer::error::Closed>(status).is_some()
}

/// A status that no etcd gives, and what it means.
#[derive(Debug)]
struct Foreign {
    said: String,
    status: Status,
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

impl StdError for Foreign {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.status.source()
    }
}

/// An error for which coord has no word of its own.
pub(crate) fn other(outcome: Outcome, source: impl StdError + Send + Sync + 'static) -> Error {
    Error::Backend { backend: "etcd", outcome, source: Arc::new(source) }
}

const fn unavailable(outcome: Outcome, reason: String, source: Option<Source>) -> Error {
    Error::Unavailable { outcome, reason, source }
}

/// Why there was not even a connection, if that is what went wrong.
///
/// tonic has a [`ConnectError`] for it, but a dial that took too long it cuts short from outside,
/// with an error that is like those of connections which stood, but for what is in it.
fn not_dialled<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(connect) = cause::<ConnectError>(error) {
        return Some(root(connect));
    }
    let late = cause::<io::Error>(error)?.get_ref().filter(|within| within.is::<Elapsed>())?;
    Some(late)
}

#[cfg(test)]
mod tests;
