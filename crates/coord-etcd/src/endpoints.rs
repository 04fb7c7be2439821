//! The endpoints of a cluster: failover and retries.
//!
//! etcd-client can balance over endpoints, but it sends requests to members that are down and
//! returns their errors. So each endpoint has a client of its own here, dialled when it is first
//! needed. Requests are sent to the **preferred** endpoint, which stays the same while it responds.
//! The failure of a request decides what happens next:
//!
//! ```text
//! not processed, because the connection ended (GOAWAY)     resend on a new connection
//! not applied: connection refused, no leader, overload     send to the next endpoint
//! unknown outcome of a change                              return the error, prefer the next
//! a decision of the store, such as a missing lease         return the error
//! a response that is too large                             return the error
//! any other failure of a read                              send to the next endpoint
//! ```
//!
//! The server at an endpoint need not be etcd: a proxy in front of a dead member responds with HTTP
//! statuses and error pages, or with gRPC statuses of its own. So a read, a keep-alive or `connect`
//! accepts a final response only from etcd. A change that receives such a response has an unknown
//! outcome, because the proxy may have forwarded it, unless the proxy denied it with a gRPC status.
//!
//! When a request has failed at all endpoints, it is retried after a pause, as long as there is
//! time and at least one member may serve it later: an election takes a second or two. If each
//! endpoint accepts no connection or is not etcd, the error is returned at once; only `connect`
//! waits for endpoints that accept no connection.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::{Error, Result, error::Outcome};
use etcd_client::{GetOptions, WatchRequestSender, WatchResponseStream};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::abandoned::report_if_abandoned;
use crate::delivery::Attempt;
use crate::error::{Failure, RequestContext, RetryDecision, runtime_is_gone};
use crate::link::{Endpoint, Link};
use crate::options::Options;

/// The pause after the first time that a request failed at all endpoints. It doubles each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(25);

/// The longest pause between two rounds over all endpoints.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(800);

/// How long before its deadline `connect` makes its last attempt.
const LAST_CONNECT_BEFORE_DEADLINE: Duration = Duration::from_millis(50);

/// How many times a request that the member did not process is resent to the same endpoint. A
/// resend uses a new connection, unless the client has not yet detected that the old one ended.
const MAX_RESENDS: u32 = 3;

/// The endpoints of a cluster.
#[derive(Debug)]
pub(crate) struct Endpoints {
    all: Vec<Endpoint>,
    preferred: AtomicUsize,
    options: Options,
}

/// An open watch stream.
#[derive(Debug)]
pub(crate) struct OpenWatchStream {
    pub(crate) sender: WatchRequestSender,
    pub(crate) stream: WatchResponseStream,
    /// The number of the endpoint that serves the stream, for [`Endpoints::avoid`] and
    /// [`Endpoints::name`].
    pub(crate) endpoint: usize,
}

impl Endpoints {
    /// The endpoints, none of them dialled.
    pub(crate) const fn new(all: Vec<Endpoint>, options: Options) -> Self {
        Self { all, preferred: AtomicUsize::new(0), options }
    }

    /// Finds an endpoint that responds, and logs in. Endpoints that refuse connections are
    /// redialled for the time of
    /// [`EtcdBuilder::connect_within`](crate::EtcdBuilder::connect_within), because their members
    /// may be about to start.
    ///
    /// An accepted connection proves little: with TLS on one side only, or without the certificate
    /// that the server requires, it breaks at the first request. So a probe reads a key that does
    /// not exist. A permission error is a response too.
    pub(crate) async fn reach(&self) -> Result<()> {
        let within = self.options.connect_within();
        let context =
            RequestContext { timeout: within, is_connect: true, ..RequestContext::default() };
        let response = self.call_until(Instant::now() + within, &context, |link| async move {
            let options = GetOptions::new().with_serializable().with_count_only();
            link.kv.clone().get("\0", Some(options)).await
        });
        match response.await {
            Ok(_) | Err(Error::PermissionDenied { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) const fn options(&self) -> &Options {
        &self.options
    }

    /// The name of an endpoint in error messages.
    pub(crate) fn name(&self, endpoint: usize) -> &str {
        &self.all[endpoint].name
    }

    /// Prefers the next endpoint, because this endpoint has failed.
    pub(crate) fn avoid(&self, endpoint: usize) {
        let next = (endpoint + 1) % self.all.len();
        // No effect if a concurrent request has failed over already.
        self.prefer(next, Some(endpoint));
    }

    /// Prefers an endpoint. With `instead_of`, only if that endpoint is the preferred one now.
    fn prefer(&self, endpoint: usize, instead_of: Option<usize>) {
        let change = |now| {
            (now != endpoint && instead_of.is_none_or(|other| other == now)).then_some(endpoint)
        };
        if let Ok(former) =
            self.preferred.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
        {
            tracing::info!(target: "coord::etcd", from = self.name(former), to = self.name(endpoint),
                "failover");
            #[cfg(feature = "metrics")]
            metrics::counter!("coord_etcd_failovers_total").increment(1);
        }
    }

    /// Calls the endpoints in turn until one of them responds, within the request timeout.
    pub(crate) async fn call<W, S, F>(&self, context: &RequestContext, send: S) -> Result<W>
    where
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        self.call_until(Instant::now() + self.options.request_timeout, context, send).await
    }

    /// Calls the endpoints in turn until one of them responds, up to `deadline`.
    pub(crate) async fn call_until<W, S, F>(
        &self,
        deadline: Instant,
        context: &RequestContext,
        send: S,
    ) -> Result<W>
    where
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        let mut pause = RETRY_PAUSE_MIN;
        // Each endpoint has its own login. An expired login is renewed once.
        let mut renewed = BTreeSet::new();
        loop {
            let first = self.preferred.load(Ordering::Relaxed);
            let mut failures = Vec::new();
            for offset in 0..self.all.len() {
                let endpoint = &self.all[(first + offset) % self.all.len()];
                let others_left = self.all.len() - offset - 1;
                let attempt = self.attempt(endpoint, context, &send, deadline, others_left);
                let failure = match attempt.await {
                    Ok(response) => {
                        self.prefer(endpoint.number, None);
                        return Ok(response);
                    }
                    Err(failure) => failure,
                };
                let retries = match failure.decision {
                    RetryDecision::Final => false,
                    RetryDecision::Unreachable
                    | RetryDecision::Resend
                    | RetryDecision::OtherEndpoint
                    | RetryDecision::Failover => true,
                    RetryDecision::LogIn => {
                        self.options.login.is_some() && renewed.insert(endpoint.number)
                    }
                };
                if !retries {
                    if is_transport_failure(&failure.error) {
                        self.avoid(endpoint.number);
                    }
                    return Err(failure.error);
                }
                tracing::debug!(endpoint = endpoint.name, error = %failure.error, "endpoint skipped");
                failures.push(failure);
            }
            let is_final = |failure: &Failure| match failure.decision {
                RetryDecision::Unreachable => !context.is_connect,
                decision => decision == RetryDecision::OtherEndpoint,
            };
            let retry_at = retry_at(context, pause, deadline);
            let Some(retry_at) = retry_at.filter(|_| !failures.iter().all(is_final)) else {
                return Err(summary(failures));
            };
            sleep_until(retry_at).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Calls one endpoint, and resends a request that the member did not process.
    async fn attempt<W, S, F>(
        &self,
        endpoint: &Endpoint,
        context: &RequestContext,
        send: &S,
        deadline: Instant,
        others_left: usize,
    ) -> Result<W, Failure>
    where
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        let response = async {
            let mut resends_left = MAX_RESENDS;
            loop {
                match self.send_once(endpoint, context, send, deadline, others_left).await {
                    Err(failure)
                        if failure.decision == RetryDecision::Resend && resends_left > 0 =>
                    {
                        tracing::debug!(endpoint = endpoint.name, error = %failure.error,
                            "request resent");
                        resends_left -= 1;
                    }
                    response => return response,
                }
            }
        };
        report_if_abandoned(response, || self.avoid(endpoint.number)).await
    }

    /// Sends a request to one endpoint. While other endpoints are left, a request that can be sent
    /// to them has half of the time: a read, or a change that no connection has taken.
    async fn send_once<W, S, F>(
        &self,
        endpoint: &Endpoint,
        context: &RequestContext,
        send: &S,
        deadline: Instant,
        others_left: usize,
    ) -> Result<W, Failure>
    where
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        // `connect` may have more time than a request, for several attempts.
        let deadline = deadline.min(Instant::now() + self.options.request_timeout);
        let left = deadline.saturating_duration_since(Instant::now());
        let early = if others_left > 0 { Instant::now() + left / 2 } else { deadline };
        let link = match timeout_at(early, endpoint.link(&self.options)).await {
            Ok(link) => link?,
            Err(_) => return Err(Failure::not_reached(&endpoint.name, "no response in time")),
        };
        let attempt = Attempt::default();
        // Boxed, because the future of a call to the client crate is large.
        let sending = Box::pin(attempt.track(send(Arc::clone(&link))));
        let response = self.response(&attempt, sending, context, deadline, early);
        // If the caller stops waiting, its next request must not use the same full connection.
        let discard = || {
            if attempt.withdraw() {
                endpoint.discard(&link);
            }
        };
        match report_if_abandoned(response, discard).await {
            Some(Ok(response)) => {
                link.note_response();
                Ok(response)
            }
            Some(Err(error)) => {
                if runtime_is_gone(&error) {
                    endpoint.discard(&link);
                }
                let mut failure = Failure::from_client(error, context, &endpoint.name);
                if !link.has_responded() {
                    failure = failure.with_tls_hint(endpoint.encrypted);
                }
                if failure.decision == RetryDecision::LogIn {
                    endpoint.discard(&link);
                }
                Err(failure)
            }
            None => {
                // The connection may be dead although no error was detected, or other requests may
                // occupy all streams that the member permits on it.
                endpoint.discard(&link);
                if attempt.withdraw() {
                    return Err(Failure::not_sent(&endpoint.name));
                }
                Err(Failure::timed_out(context))
            }
        }
    }

    /// Waits for the response. Returns `None` if none arrives in time. If no connection has taken
    /// the request within the connect timeout, it is withdrawn. Otherwise a read has time until
    /// `early`, and a change until `deadline`.
    async fn response<T>(
        &self,
        attempt: &Attempt,
        mut sending: Pin<Box<impl Future<Output = T> + Send>>,
        context: &RequestContext,
        deadline: Instant,
        early: Instant,
    ) -> Option<T> {
        let taken_by = early.min(Instant::now() + self.options.connect_timeout);
        if let Ok(response) = timeout_at(taken_by, &mut sending).await {
            return Some(response);
        }
        if attempt.withdraw() {
            return None;
        }
        let limit = if context.is_change { deadline } else { early };
        timeout_at(limit, sending).await.ok()
    }
}

/// When to try all endpoints again; `None` if there is no time. `connect` uses all of its time,
/// because the members may be about to start.
fn retry_at(context: &RequestContext, pause: Duration, deadline: Instant) -> Option<Instant> {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let pause = if context.is_connect {
        pause.min(left.saturating_sub(LAST_CONNECT_BEFORE_DEADLINE))
    } else {
        pause
    };
    (!pause.is_zero() && pause < left).then(|| now + pause)
}

/// Whether the member or the connection failed. Otherwise the store refused the request.
const fn is_transport_failure(error: &Error) -> bool {
    match error {
        Error::Unavailable { .. } | Error::Timeout { .. } => true,
        Error::Backend { outcome, .. } => matches!(outcome, Outcome::Unknown),
        _ => false,
    }
}

/// The error after a request failed at all endpoints: the first that is not `Unavailable`, or one
/// that names all unavailable endpoints. A change was not applied, because an unknown outcome would
/// have ended the attempts.
fn summary(failures: Vec<Failure>) -> Error {
    let errors = failures.into_iter().map(|failure| failure.error);
    let (unavailable, others): (Vec<_>, Vec<_>) =
        errors.partition(|error| matches!(error, Error::Unavailable { .. }));
    if let Some(error) = others.into_iter().next() {
        return error;
    }
    let reasons = unavailable.iter().map(|error| match error {
        Error::Unavailable { reason, .. } => reason.as_str(),
        _ => "",
    });
    let reason = reasons.collect::<Vec<_>>().join("; ");
    let source = unavailable.into_iter().find_map(|error| match error {
        Error::Unavailable { source, .. } => source,
        _ => None,
    });
    Error::Unavailable { outcome: Outcome::NotApplied, reason, source }
}

#[cfg(test)]
mod tests;
