//! Lease keep-alive: a pool of keep-alive streams.
//!
//! etcd refreshes leases over streams: the client sends a lease id, and etcd responds when the
//! lease was refreshed. Only a response proves that, because a dead connection accepts writes too.
//! A stream per refresh would double the cost, and one stream for all leases would let a slow lease
//! (one that has expired and is not yet revoked) delay the others. So there is a **pool of streams,
//! each used by one refresh at a time**, for any lease. A refresh takes an idle stream or opens
//! one, and returns it after the response. A stream with an outstanding response is never returned:
//! the refresh that stopped waiting dropped it, so no refresh receives the response to another.
//!
//! `etcd grpc-proxy` responds to the first refresh of a stream at once, and to later ones on its
//! own schedule, up to a third of the TTL later. So after a stream was silent, the streams of its
//! endpoint are used once, for a while.
//!
//! A refresh never needs two HTTP/2 streams at a time. A server may permit only one per connection,
//! and concurrent refreshes that each hold one stream and wait for another would block each other.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coord_core::{
    Error, Result,
    kv::{LeaseId, LeaseKeepAliveResponse},
};
use etcd_client::proto::PbLeaseKeepAliveResponse;
use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use tokio::time::{Instant, timeout, timeout_at};

use crate::abandoned::report_if_abandoned;
use crate::endpoints::Endpoints;
use crate::error::{Failure, RequestContext};
use crate::link::Link;
use crate::wire::FromWire;

/// The largest number of idle streams.
const MAX_IDLE_STREAMS: usize = 8;

/// How long the streams of an endpoint are used once after one of them was silent.
const SINGLE_USE_PERIOD: Duration = Duration::from_secs(600);

/// How long a new stream has for the response to its second refresh.
const SECOND_REFRESH_TIMEOUT: Duration = Duration::from_millis(250);

/// The pool of idle keep-alive streams.
#[derive(Debug, Default)]
pub(crate) struct KeepAlives {
    idle: Mutex<Vec<KeepAlive>>,
    /// When a stream was last silent, by the number of its endpoint.
    silent: Mutex<BTreeMap<usize, Instant>>,
}

/// A keep-alive stream without an outstanding response.
#[derive(Debug)]
struct KeepAlive {
    sender: LeaseKeeper,
    stream: LeaseKeepAliveStream,
    endpoint: usize,
}

impl KeepAlives {
    /// Refreshes a lease once.
    pub(crate) async fn refresh(
        &self,
        endpoints: &Endpoints,
        id: LeaseId,
    ) -> Result<LeaseKeepAliveResponse> {
        let waited = endpoints.options().request_timeout;
        let context = RequestContext { lease: Some(id), waited, ..RequestContext::default() };
        let start = Instant::now();
        // An idle stream may be dead without the client knowing, so these get half of the time.
        let early = start + waited / 2;
        while Instant::now() < early
            && let Some(mut idle) = self.take()
        {
            let endpoint = idle.endpoint;
            // The next refresh must use neither this endpoint nor another of its streams.
            let avoid = || {
                self.note_silence(endpoint);
                self.drop_all(endpoint);
                endpoints.avoid(endpoint);
            };
            match report_if_abandoned(timeout_at(early, idle.refresh(id)), avoid).await {
                Ok(Ok(response)) => return self.finish(Some(idle), response, &context),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a keep-alive stream is dead");
                    self.drop_all(endpoint);
                }
                Err(_) => avoid(),
            }
        }
        let opened = endpoints
            .call_until(start + waited, &context, |link| async move { self.open(&link, id).await });
        let (stream, response) = opened.await?;
        self.finish(stream, response, &context)
    }

    /// Opens a stream, and refreshes a lease on it. Returns the stream if it can be used again.
    ///
    /// The client crate does not return the first response, so the lease is refreshed once more. If
    /// no response arrives in time, the stream is closed and a separate request reads the TTL.
    async fn open(
        &self,
        link: &Link,
        id: LeaseId,
    ) -> Result<(Option<KeepAlive>, PbLeaseKeepAliveResponse), etcd_client::Error> {
        let mut lease = link.lease.clone();
        let (sender, stream) = lease.keep_alive(id.get()).await?;
        let mut stream = KeepAlive { sender, stream, endpoint: link.endpoint };
        if !self.is_silent(link.endpoint) {
            match timeout(SECOND_REFRESH_TIMEOUT, stream.refresh(id)).await {
                Ok(response) => return Ok((Some(stream), response?)),
                Err(_) => self.note_silence(link.endpoint),
            }
        }
        // The request below may need the HTTP/2 stream that this one occupies.
        drop(stream);
        let status = lease.time_to_live(id.get(), None).await?.0;
        let response = PbLeaseKeepAliveResponse {
            header: status.header,
            id: id.get(),
            // -1 for a lease that does not exist.
            ttl: status.granted_ttl.max(0),
        };
        Ok((None, response))
    }

    /// Reads the response, and returns the stream, if it is still open, to the pool.
    fn finish(
        &self,
        stream: Option<KeepAlive>,
        response: PbLeaseKeepAliveResponse,
        context: &RequestContext,
    ) -> Result<LeaseKeepAliveResponse> {
        if let Some(stream) = stream {
            self.put(stream);
        }
        let response = LeaseKeepAliveResponse::from_wire(response)
            .map_err(|malformed| Failure::from_malformed(malformed, context).error)?;
        if response.ttl.is_zero() {
            return Err(Error::LeaseNotFound { lease: context.lease });
        }
        Ok(response)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<KeepAlive>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<KeepAlive> {
        self.idle().pop()
    }

    fn note_silence(&self, endpoint: usize) {
        self.silent().insert(endpoint, Instant::now());
    }

    /// Whether each stream of an endpoint is used once.
    fn is_silent(&self, endpoint: usize) -> bool {
        self.silent().get(&endpoint).is_some_and(|at| at.elapsed() < SINGLE_USE_PERIOD)
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<usize, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, stream: KeepAlive) {
        if self.is_silent(stream.endpoint) {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE_STREAMS {
            idle.push(stream);
        }
    }

    /// Drops the idle streams of an endpoint, which share a connection with a dead one.
    fn drop_all(&self, endpoint: usize) {
        self.idle().retain(|stream| stream.endpoint != endpoint);
    }
}

impl KeepAlive {
    /// Refreshes a lease. If this fails or is dropped, the stream cannot be used again.
    async fn refresh(
        &mut self,
        id: LeaseId,
    ) -> Result<PbLeaseKeepAliveResponse, etcd_client::Error> {
        self.sender.id = id.get();
        self.sender.keep_alive().await?;
        let ended = || etcd_client::Error::LeaseKeepAliveError("the stream ended".to_owned());
        let response = self.stream.message().await?.ok_or_else(ended)?;
        if response.id() == id.get() {
            return Ok(response.0);
        }
        let reason = "an answer about another lease".to_owned();
        Err(etcd_client::Error::LeaseKeepAliveError(reason))
    }
}

#[cfg(test)]
mod tests;
