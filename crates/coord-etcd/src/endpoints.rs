//! Several members, each with a connection of its own.
//!
//! etcd-client can balance over endpoints by itself, but hands requests to members that are down
//! and lets them fail. So each endpoint has a client of its own here, dialled when it is first
//! needed. Requests go to the **preferred** endpoint, which stays the same as long as it answers.
//! When it does not, what became of the request decides:
//!
//! ```text
//! not processed, because of the connection (GOAWAY)           send it again, on a new connection
//! surely nothing: refused connection, no leader, overload     ask the next one
//! a read, whatever happened                                   ask the next one
//! perhaps applied                                             tell the caller; prefer the next one
//! anything that the store decided                             tell the caller
//! ```
//!
//! What answers at an endpoint need not be etcd: a proxy in front of a dead member answers with
//! HTTP statuses and error pages, or with gRPC statuses of its own. So a read, a keep-alive or a
//! connect takes no answer as final that etcd does not give. A change has an unknown outcome then:
//! the proxy may have sent it on.
//!
//! When all have been asked in vain, they are asked again after a pause, as long as there is time
//! and at least one of them is there at all: an election takes a second or two. If no member
//! accepts a connection the caller is told at once.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::{Error, Result, error::Outcome};
use etcd_client::{GetOptions, WatchRequestSender, WatchResponseStream};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::delivery::Attempt;
use crate::error::{Asked, Failure, Remedy, runtime_is_gone};
use crate::link::{Endpoint, Link};
use crate::options::Options;
use crate::patience::awaited;

/// The pause after all endpoints were asked in vain, doubled every time up to the other.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(800);

/// How long before its deadline a connect makes its last attempt.
const LAST_ATTEMPT: Duration = Duration::from_millis(50);

/// How often an attempt is repeated at once when the connection did not process the request. Each
/// repetition has a new connection, unless the client has not yet received the end of the last one.
const RESENDS_AT_ONCE: u32 = 3;

/// The endpoints of a cluster.
#[derive(Debug)]
pub(crate) struct Endpoints {
    all: Vec<Endpoint>,
    preferred: AtomicUsize,
    options: Options,
}

/// A watch stream that is open.
#[derive(Debug)]
pub(crate) struct WatchLine {
    pub(crate) sender: WatchRequestSender,
    pub(crate) stream: WatchResponseStream,
    /// Which endpoint serves it, for [`Endpoints::avoid`] and [`Endpoints::name`].
    pub(crate) endpoint: usize,
}

impl Endpoints {
    /// Nothing is dialled yet.
    pub(crate) const fn new(all: Vec<Endpoint>, options: Options) -> Self {
        Self { all, preferred: AtomicUsize::new(0), options }
    }

    /// Finds an endpoint that answers, and logs in. Endpoints that refuse connections are dialled
    /// again until `within` has passed: their members may be about to start.
    ///
    /// That a connection is accepted proves little: with TLS on one side only, or without the
    /// certificate that the server wants, it breaks with the first request. So one is made, for a
    /// key that nobody has; that it may not be read is an answer too.
    pub(crate) async fn reach(&self) -> Result<()> {
        let within = self.options.connect_within();
        let asked = Asked { waited: within, connects: true, ..Asked::default() };
        let answer = self.call_until(Instant::now() + within, &asked, |link| async move {
            let options = GetOptions::new().with_serializable().with_count_only();
            link.kv.clone().get("\0", Some(options)).await
        });
        match answer.await {
            Ok(_) | Err(Error::PermissionDenied { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) const fn options(&self) -> &Options {
        &self.options
    }

    /// The endpoint as errors name it.
    pub(crate) fn name(&self, endpoint: usize) -> &str {
        &self.all[endpoint].name
    }

    /// Prefers another endpoint than this one, which has just failed.
    pub(crate) fn avoid(&self, endpoint: usize) {
        let next = (endpoint + 1) % self.all.len();
        // If another is preferred by now there is nothing to do.
        self.prefer(next, Some(endpoint));
    }

    /// Prefers an endpoint; if `instead_of` is given, only if that one is preferred now.
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

    /// Makes a call on the endpoints in turn until one of them gives an answer.
    pub(crate) async fn call<W, S, F>(&self, asked: &Asked, send: S) -> Result<W>
    where
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        self.call_until(Instant::now() + self.options.request_timeout, asked, send).await
    }

    /// The same, for which there is time up to `deadline`.
    pub(crate) async fn call_until<W, S, F>(
        &self,
        deadline: Instant,
        asked: &Asked,
        send: S,
    ) -> Result<W>
    where
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        let mut pause = PAUSE_FIRST;
        // Each member is spoken to with a login of its own, which may be too old.
        let mut renewed = BTreeSet::new();
        loop {
            let first = self.preferred.load(Ordering::Relaxed);
            let mut failures = Vec::new();
            for turn in 0..self.all.len() {
                let endpoint = &self.all[(first + turn) % self.all.len()];
                let others = self.all.len() - turn - 1;
                let failure = match self.attempt(endpoint, asked, &send, deadline, others).await {
                    Ok(answer) => {
                        self.prefer(endpoint.number, None);
                        return Ok(answer);
                    }
                    Err(failure) => failure,
                };
                let again = match failure.remedy {
                    Remedy::None => false,
                    Remedy::Unreachable | Remedy::Resend | Remedy::Another | Remedy::Elsewhere => {
                        true
                    }
                    Remedy::Login => {
                        self.options.login.is_some() && renewed.insert(endpoint.number)
                    }
                };
                if !again {
                    if is_of_the_way(&failure.error) {
                        self.avoid(endpoint.number);
                    }
                    return Err(failure.error);
                }
                tracing::debug!(endpoint = endpoint.name, error = %failure.error, "passed over");
                failures.push(failure);
            }
            let is_final = |failure: &Failure| match failure.remedy {
                Remedy::Unreachable => !asked.connects,
                remedy => remedy == Remedy::Another,
            };
            let again_at = again_at(asked, pause, deadline);
            let Some(again_at) = again_at.filter(|_| !failures.iter().all(is_final)) else {
                return Err(summary(failures));
            };
            sleep_until(again_at).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Makes a call on one endpoint. While others are left to ask, it gets half of the time for
    /// what can be tried elsewhere.
    async fn attempt<W, S, F>(
        &self,
        endpoint: &Endpoint,
        asked: &Asked,
        send: &S,
        deadline: Instant,
        others: usize,
    ) -> Result<W, Failure>
    where
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        let answer = async {
            let mut resends = RESENDS_AT_ONCE;
            loop {
                match self.ask(endpoint, asked, send, deadline, others).await {
                    Err(failure) if failure.remedy == Remedy::Resend && resends > 0 => {
                        tracing::debug!(endpoint = endpoint.name, error = %failure.error, "resent");
                        resends -= 1;
                    }
                    answer => return answer,
                }
            }
        };
        awaited(answer, || self.avoid(endpoint.number)).await
    }

    async fn ask<W, S, F>(
        &self,
        endpoint: &Endpoint,
        asked: &Asked,
        send: &S,
        deadline: Instant,
        others: usize,
    ) -> Result<W, Failure>
    where
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        // A connect may have more time than a request, for many attempts.
        let deadline = deadline.min(Instant::now() + self.options.request_timeout);
        let left = deadline.saturating_duration_since(Instant::now());
        let early = if others > 0 { Instant::now() + left / 2 } else { deadline };
        let link = match timeout_at(early, endpoint.link(&self.options)).await {
            Ok(link) => link?,
            Err(_) => return Err(Failure::not_reached(&endpoint.name, "no answer in time")),
        };
        let attempt = Attempt::default();
        // On the heap: a call of the client crate is a large future, and this one contains it.
        let sending = Box::pin(attempt.track(send(Arc::clone(&link))));
        let answer = self.answer(&attempt, sending, asked, deadline, early);
        // A caller that gives up sooner tries again, and must not meet the same full connection.
        let learn = || {
            if attempt.withdraw() {
                endpoint.forget(&link);
            }
        };
        match awaited(answer, learn).await {
            Some(Ok(answer)) => {
                link.note_answer();
                Ok(answer)
            }
            Some(Err(error)) => {
                if runtime_is_gone(&error) {
                    endpoint.forget(&link);
                }
                let mut failure = Failure::of_client(error, asked, &endpoint.name);
                if !link.has_answered() {
                    failure = failure.at_first(endpoint.encrypted);
                }
                if failure.remedy == Remedy::Login {
                    endpoint.forget(&link);
                }
                Err(failure)
            }
            None => {
                // The connection may be dead and not yet detected as such, or other requests may
                // hold all streams that the member permits on it.
                endpoint.forget(&link);
                if attempt.withdraw() {
                    return Err(Failure::not_sent(&endpoint.name));
                }
                Err(Failure::timed_out(asked))
            }
        }
    }

    /// The answer to a request, if it comes in time. A request that no connection takes has as much
    /// time as a member has to accept a connection; a change that one has taken, up to `deadline`.
    async fn answer<T>(
        &self,
        attempt: &Attempt,
        mut sending: Pin<Box<impl Future<Output = T> + Send>>,
        asked: &Asked,
        deadline: Instant,
        early: Instant,
    ) -> Option<T> {
        let taken_by = early.min(Instant::now() + self.options.connect_timeout);
        if let Ok(answer) = timeout_at(taken_by, &mut sending).await {
            return Some(answer);
        }
        if attempt.withdraw() {
            return None;
        }
        let limit = if asked.changes { deadline } else { early };
        timeout_at(limit, sending).await.ok()
    }
}

/// When to make the next attempt at all endpoints. A connect uses its time to the end, because its
/// members may be about to start.
fn again_at(asked: &Asked, pause: Duration, deadline: Instant) -> Option<Instant> {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let pause = if asked.connects { pause.min(left.saturating_sub(LAST_ATTEMPT)) } else { pause };
    (!pause.is_zero() && pause < left).then(|| now + pause)
}

/// Whether the member, or the way to it, is what failed.
const fn is_of_the_way(error: &Error) -> bool {
    match error {
        Error::Unavailable { .. } | Error::Timeout { .. } => true,
        Error::Backend { outcome, .. } => matches!(outcome, Outcome::Unknown),
        _ => false,
    }
}

/// What to say when no endpoint could serve: surely nothing was applied, or another way would have
/// been taken.
fn summary(failures: Vec<Failure>) -> Error {
    let errors = failures.into_iter().map(|failure| failure.error);
    let (away, other): (Vec<_>, Vec<_>) =
        errors.partition(|error| matches!(error, Error::Unavailable { .. }));
    if let Some(error) = other.into_iter().next() {
        return error;
    }
    let reasons = away.iter().map(|error| match error {
        Error::Unavailable { reason, .. } => reason.as_str(),
        _ => "",
    });
    let reason = reasons.collect::<Vec<_>>().join("; ");
    let source = away.into_iter().find_map(|error| match error {
        Error::Unavailable { source, .. } => source,
        _ => None,
    });
    Error::Unavailable { outcome: Outcome::NotApplied, reason, source }
}

#[cfg(test)]
mod tests;
