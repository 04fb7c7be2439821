//! Keep-alive requests: at most one in flight, and the effect of each result on the lease deadline.
//!
//! [`LeaseDeadline`] decides when the next request is sent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::deadline::{LeaseDeadline, Moment};
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::LeaseId;

/// The keep-alive requests of one lease.
pub(super) struct KeepAlive {
    backend: Arc<dyn KvBackend>,
    lease: LeaseId,
    request_timeout: Duration,
    in_flight: Option<InFlight>,
    /// Whether the request in flight, or the next one, checks that the lease still exists.
    is_checking: bool,
}

struct InFlight {
    sent: Moment,
    result: BoxFuture<'static, Result<()>>,
}

/// The result of one keep-alive.
#[derive(Debug)]
pub(super) struct KeepAliveResult {
    /// When the request was sent.
    pub(super) sent: Moment,
    pub(super) result: Result<()>,
}

impl KeepAlive {
    /// The keep-alives of `lease`, before the first request. A request times out after a quarter of
    /// the TTL, so that several attempts fit into the TTL.
    pub(super) fn new(backend: Arc<dyn KvBackend>, lease: LeaseId, ttl: Duration) -> Self {
        Self { backend, lease, request_timeout: ttl / 4, in_flight: None, is_checking: false }
    }

    /// Sends a request, in place of the request in flight if there is one.
    pub(super) fn send(&mut self, now: Moment) {
        let (backend, lease) = (Arc::clone(&self.backend), self.lease);
        let after = self.request_timeout;
        let result = async move {
            match timeout(after, backend.lease_keep_alive(lease)).await {
                Ok(response) => response.map(|_| ()),
                Err(_) => Err(Error::Timeout { after }),
            }
        };
        self.in_flight = Some(InFlight { sent: now, result: Box::pin(result) });
    }

    /// Waits for the result of the request in flight; never returns while there is none.
    ///
    /// Cancel safe: the request stays in flight.
    pub(super) async fn result(&mut self) -> KeepAliveResult {
        let Some(in_flight) = &mut self.in_flight else {
            return std::future::pending().await;
        };
        let result = in_flight.result.as_mut().await;
        let sent = in_flight.sent;
        self.in_flight = None;
        self.is_checking = false;
        KeepAliveResult { sent, result }
    }

    /// Begins a check that the lease still exists. Returns whether the caller must send a request
    /// for the check; it must not while an earlier check has no result.
    ///
    /// A request in flight is dropped, because the store may have responded to it before the lease
    /// was gone.
    pub(super) fn begin_check(&mut self) -> bool {
        if self.is_checking {
            return false;
        }
        self.is_checking = true;
        self.in_flight = None;
        true
    }
}

impl KeepAliveResult {
    /// Applies the result, which was received at `now`, to the lease deadline.
    pub(super) fn apply(&self, now: Instant, lease: &mut LeaseDeadline) {
        match &self.result {
            Ok(()) => lease.note_confirmed(self.sent),
            Err(Error::LeaseNotFound { .. }) => lease.note_not_found(),
            // The store is unavailable, or refuses the request: the lease may still exist.
            Err(_) => lease.note_failure(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::LossReason;
    use crate::session::SessionState;
    use crate::session::deadline::LeaseTtl;

    #[test]
    fn only_lease_not_found_means_that_the_lease_is_gone() {
        let sent = Moment { at: Instant::now(), asleep: Duration::ZERO };
        let after = Duration::from_secs(30);
        let ttl = LeaseTtl { session: after, reserved: Duration::ZERO };
        let state_after = |result| {
            let mut lease = LeaseDeadline::new(ttl, sent);
            lease.note_sent();
            KeepAliveResult { sent, result }.apply(sent.at, &mut lease);
            lease.state()
        };
        assert_eq!(state_after(Ok(())), SessionState::Alive);
        assert_eq!(state_after(Err(Error::Timeout { after })), SessionState::Suspect);
        assert_eq!(state_after(Err(Error::TooManyRequests)), SessionState::Suspect);
        let not_found = Error::LeaseNotFound { lease: LeaseId::new(7) };
        assert_eq!(state_after(Err(not_found)), SessionState::Lost(LossReason::Revoked));
    }
}
