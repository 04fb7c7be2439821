//! Failures: translates errors of etcd and of the transport into coord's errors, each with a retry
//! decision.
//!
//! [`table`] maps a gRPC status to an error class. This module builds the error of the class, adds
//! the key, the lease or the revision from the [`RequestContext`], which etcd leaves out, and
//! decides whether the request may be sent again. The decision follows from the outcome: a request
//! that was not applied can be resent, a request that may have been applied cannot.

mod context;
mod table;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use coord_core::{
    Error,
    error::{Outcome, Source},
};
use rustls::CertificateError;
use tokio::time::error::Elapsed;
use tonic::{ConnectError, Status};

use crate::causes::{find_cause, root_cause};
use crate::delivery::Unprocessed;
use crate::not_tls;
use crate::wire::Malformed;
pub(crate) use context::RequestContext;
use table::{ErrorClass, classify};

/// A failed call: its error and the retry decision.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) decision: RetryDecision,
}

/// Whether and where a failed request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// The request is not sent again: the store has decided, a retry would fail again, or a retry
    /// could apply the request twice.
    Final,
    /// To another endpoint, because this one cannot be reached.
    Unreachable,
    /// To the same endpoint at once, because the member did not process the request: the connection
    /// ended or was full.
    Resend,
    /// To another endpoint, because this one would fail again: the server is not etcd, a proxy in
    /// front of the member failed, or TLS failed.
    OtherEndpoint,
    /// To another endpoint, or to the same one later, because the member cannot serve requests now.
    Failover,
    /// To another endpoint, or to the same one later after a new login, because the login has
    /// expired.
    LogIn,
}

impl Failure {
    /// The failure of a call to the client crate, made to the member at `endpoint`.
    pub(crate) fn from_client(
        error: etcd_client::Error,
        context: &RequestContext,
        endpoint: &str,
    ) -> Self {
        use etcd_client::Error as Client;
        match error {
            Client::GRpcStatus(status) => Self::from_status(status, context, endpoint),
            Client::LeaseKeepAliveError(reason) if reason == "lease not found" => {
                Self::final_error(Error::LeaseNotFound { lease: context.lease })
            }
            // The server ended the stream, or responded for another lease.
            Client::LeaseKeepAliveError(reason) | Client::WatchError(reason) => {
                let outcome = context.outcome(Outcome::Unknown);
                Self::member_unavailable(outcome, format!("{endpoint}: {reason}"), None)
            }
            // The client crate reports all other errors before it sends a request.
            error => Self::final_error(backend_error(Outcome::NotApplied, error)),
        }
    }

    /// The failure of a request without a response in time, or of a request that timed out at the
    /// member.
    pub(crate) const fn timed_out(context: &RequestContext) -> Self {
        let decision =
            if context.is_change { RetryDecision::Final } else { RetryDecision::Failover };
        Self { error: Error::Timeout { after: context.timeout }, decision }
    }

    /// The failure for a gRPC status from the member at `endpoint`.
    pub(crate) fn from_status(status: Status, context: &RequestContext, endpoint: &str) -> Self {
        if let Some(cause) = dial_error(&status) {
            let reason = dial_reason(endpoint, cause);
            let decision = dial_decision(&status);
            let error = unavailable(Outcome::NotApplied, reason, Some(Arc::new(status)));
            return Self { error, decision };
        }
        if find_cause::<Unprocessed>(&status).is_some() {
            let reason =
                format!("{endpoint}: the request was not processed: {}", root_cause(&status));
            let error = unavailable(Outcome::NotApplied, reason, Some(Arc::new(status)));
            return Self { error, decision: RetryDecision::Resend };
        }
        Self::from_message(status, context, endpoint)
    }

    /// The failure for the reason of a cancelled watch.
    ///
    /// The reason is the message of a status, or a whole status as Go prints it.
    pub(crate) fn from_cancel_reason(
        reason: &str,
        context: &RequestContext,
        endpoint: &str,
    ) -> Self {
        let message = reason.split_once(" desc = ").map_or(reason, |(_, message)| message);
        Self::from_message(Status::unknown(message), context, endpoint)
    }

    /// The failure for a status whose code and message [`table`] classifies.
    fn from_message(status: Status, context: &RequestContext, endpoint: &str) -> Self {
        use ErrorClass as Class;
        let message = status.message();
        let by_etcd = message.contains("etcdserver: ");
        let reason = || message.trim_start_matches("etcdserver: ").to_owned();
        let key = || context.key.clone().unwrap_or_default();
        let requested = context.revision;
        let fail = Self::final_error;
        match classify(status.code(), message) {
            Class::EmptyKey => fail(Error::EmptyKey),
            Class::KeyNotFound => fail(Error::KeyNotFound { key: context.key.clone() }),
            Class::ValueProvided => fail(Error::ValueProvided { key: key() }),
            Class::LeaseProvided => fail(Error::LeaseProvided { key: key() }),
            Class::DuplicateKey => fail(Error::DuplicateKey { key: key() }),
            Class::TooManyOps => {
                let (count, limit) = (context.ops, context.limits.max_txn_ops);
                fail(Error::TooManyOps { count, limit })
            }
            Class::RequestTooLarge => fail(context.too_large(message)),
            Class::ResponseTooLarge => {
                let message = response_too_large(endpoint, message);
                let outcome = context.outcome(Outcome::Unknown);
                fail(backend_error(outcome, ExplainedStatus { message, status }))
            }
            Class::Compacted => fail(Error::Compacted { requested, compact_revision: None }),
            Class::FutureRevision => fail(Error::FutureRevision { requested, current: None }),
            Class::TtlTooLarge => fail(Error::TtlTooLarge { ttl: context.ttl }),
            Class::LeaseNotFound => fail(Error::LeaseNotFound { lease: context.lease }),
            Class::LeaseExists => fail(match context.lease {
                Some(lease) => Error::LeaseExists { lease },
                // The store chose the id, so the caller cannot choose another.
                None => backend_error(Outcome::NotApplied, status),
            }),
            Class::NoSpace => fail(Error::NoSpace { outcome: context.outcome(Outcome::Unknown) }),
            // A proxy denied the request. It did not forward a change; another endpoint may permit
            // a read.
            Class::PermissionDenied | Class::WrongLogin if !by_etcd && !context.is_change => {
                Self::not_by_etcd(Outcome::NotApplied, status, context, endpoint)
            }
            Class::PermissionDenied => fail(Error::PermissionDenied { reason: reason() }),
            Class::WrongLogin => fail(Error::Unauthenticated { reason: reason() }),
            Class::ExpiredLogin => Self {
                error: Error::Unauthenticated { reason: reason() },
                decision: RetryDecision::LogIn,
            },
            Class::TooManyRequests => {
                Self { error: Error::TooManyRequests, decision: RetryDecision::Failover }
            }
            Class::Unavailable(outcome) => {
                let reason = match status.source() {
                    Some(source) => format!("{endpoint}: {}: {}", reason(), root_cause(source)),
                    None => format!("{endpoint}: {}", reason()),
                };
                Self::member_unavailable(context.outcome(outcome), reason, Some(Arc::new(status)))
            }
            Class::TimedOut => Self::timed_out(context),
            Class::Other(outcome) if by_etcd => {
                fail(backend_error(context.outcome(outcome), status))
            }
            Class::Other(outcome) => Self::not_by_etcd(outcome, status, context, endpoint),
        }
    }

    /// Adds a hint about TLS to the failure of the first request over a connection. If a connection
    /// is accepted and then ends, TLS is usually misconfigured on one side: a server reports that
    /// only after the handshake, and often closes the connection before the report can be read.
    ///
    /// After a TLS alert the request is sent to another endpoint, because another attempt at this
    /// one has the same result.
    pub(crate) fn with_tls_hint(mut self, encrypted: bool) -> Self {
        if let Error::Unavailable { reason, source: Some(source), .. } = &mut self.error
            && !matches!(self.decision, RetryDecision::Unreachable | RetryDecision::OtherEndpoint)
            && find_cause::<tonic::transport::Error>(&**source).is_some()
        {
            reason.push_str(if encrypted {
                " (at the first request: the server may require a client certificate that it trusts: configure one)"
            } else {
                " (at the first request: the server may require TLS: write https:// or configure TLS)"
            });
            let retried = matches!(self.decision, RetryDecision::Failover | RetryDecision::Resend);
            if encrypted && retried && is_tls_failure(&**source) {
                self.decision = RetryDecision::OtherEndpoint;
            }
        }
        self
    }

    /// The failure for a response that does not follow etcd's protocol.
    pub(crate) fn from_malformed(malformed: Malformed, context: &RequestContext) -> Self {
        Self::final_error(backend_error(context.outcome(Outcome::Unknown), malformed))
    }

    /// The failure of a dial.
    pub(crate) fn not_connected(endpoint: &str, error: tonic::transport::Error) -> Self {
        let reason = dial_reason(endpoint, root_cause(&error));
        let decision = dial_decision(&error);
        let error = unavailable(Outcome::NotApplied, reason, Some(Arc::new(error)));
        Self { error, decision }
    }

    /// The failure for a member to which no request could be sent.
    pub(crate) fn not_reached(endpoint: &str, reason: &str) -> Self {
        let error = unavailable(Outcome::NotApplied, format!("{endpoint}: {reason}"), None);
        Self { error, decision: RetryDecision::Unreachable }
    }

    /// The failure for a request that no connection to the member took in time.
    pub(crate) fn not_sent(endpoint: &str) -> Self {
        let reason = "the request was not sent: no stream of the connection became free in time";
        let error = unavailable(Outcome::NotApplied, format!("{endpoint}: {reason}"), None);
        Self { error, decision: RetryDecision::Resend }
    }

    /// A failure that is returned to the caller.
    pub(crate) const fn final_error(error: Error) -> Self {
        Self { error, decision: RetryDecision::Final }
    }

    /// The failure for a response that does not come from etcd, with the outcome that it implies
    /// for a change. A read may succeed at another endpoint; a change may have been applied.
    fn not_by_etcd(
        of_a_change: Outcome,
        status: Status,
        context: &RequestContext,
        endpoint: &str,
    ) -> Self {
        let (code, message) = (status.code(), status.message());
        let message = format!("{endpoint}: the response is not from etcd: {code}: {message}");
        let status = ExplainedStatus { message, status };
        let error = backend_error(context.outcome(of_a_change), status);
        let decision =
            if context.is_change { RetryDecision::Final } else { RetryDecision::OtherEndpoint };
        Self { error, decision }
    }

    /// The failure for a member that cannot serve requests. The request is sent to another member,
    /// unless that could apply it twice.
    fn member_unavailable(outcome: Outcome, reason: String, source: Option<Source>) -> Self {
        let decision = match outcome {
            Outcome::NotApplied => RetryDecision::Failover,
            Outcome::Unknown => RetryDecision::Final,
        };
        Self { error: unavailable(outcome, reason, source), decision }
    }
}

/// The reason of a failed dial, with the remedy where one is known.
fn dial_reason(endpoint: &str, root: &(dyn StdError + 'static)) -> String {
    format!("cannot connect to {endpoint}: {}{}", not_tls::reason(root), issuer_remedy(root))
}

/// The retry decision after a failed dial: an endpoint that refuses connections may accept them
/// soon, and a TLS handshake that failed will fail again.
fn dial_decision(error: &(dyn StdError + 'static)) -> RetryDecision {
    if is_tls_failure(error) { RetryDecision::OtherEndpoint } else { RetryDecision::Unreachable }
}

/// Whether TLS failed: the handshake, or a connection that the server ended with an alert.
fn is_tls_failure(error: &(dyn StdError + 'static)) -> bool {
    let io = find_cause::<io::Error>(error).or_else(|| find_cause::<h2::Error>(error)?.get_io());
    io.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// The message for a response that is too large. tonic's message contains two numbers: the size of
/// the response and the limit.
fn response_too_large(endpoint: &str, message: &str) -> String {
    let numbers = message.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
    match numbers.collect::<Vec<_>>()[..] {
        [size, limit] => format!(
            "{endpoint}: the response has {size} bytes, and this client reads at most {limit}: \
             request fewer keys at a time"
        ),
        _ => format!("{endpoint}: the response exceeds the limit of this client: {message}"),
    }
}

/// The remedy for a server certificate that is not trusted; empty for any other cause.
fn issuer_remedy(root: &(dyn StdError + 'static)) -> &'static str {
    let rustls = root.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match rustls.and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ": configure the CA that issued it, or the certificate itself as a CA"
        }
        _ => "",
    }
}

/// Whether the tasks of a connection have ended, because the runtime that dialled it was shut down.
/// tonic does not redial such a connection.
pub(crate) fn runtime_is_gone(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    find_cause::<tower::buffer::error::Closed>(status).is_some()
}

/// A status whose message is replaced by a clearer one.
#[derive(Debug)]
struct ExplainedStatus {
    message: String,
    status: Status,
}

impl std::fmt::Display for ExplainedStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for ExplainedStatus {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.status.source()
    }
}

/// An error without a variant of its own in [`Error`].
pub(crate) fn backend_error(
    outcome: Outcome,
    source: impl StdError + Send + Sync + 'static,
) -> Error {
    Error::Backend { backend: "etcd", outcome, source: Arc::new(source) }
}

const fn unavailable(outcome: Outcome, reason: String, source: Option<Source>) -> Error {
    Error::Unavailable { outcome, reason, source }
}

/// The cause of a failed dial; `None` for any other failure.
///
/// tonic reports a failed dial as a [`ConnectError`]. It reports a dial that exceeds the connect
/// timeout as another error, which differs from errors of an open connection only in its cause.
fn dial_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(connect) = find_cause::<ConnectError>(error) {
        return Some(root_cause(connect));
    }
    let elapsed =
        find_cause::<io::Error>(error)?.get_ref().filter(|inner| inner.is::<Elapsed>())?;
    Some(elapsed)
}
