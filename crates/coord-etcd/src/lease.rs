//! Lease keep-alive: a pool of keep-alive streams.
//!
//! A keep-alive refreshes a lease over a stream: the client sends the lease id, and etcd responds
//! when the TTL was restarted. Only a response proves that, because a dead connection accepts
//! writes too. A stream per keep-alive would double the cost. One stream for all leases would let a
//! slow lease, which has expired and is not yet revoked, delay the others. So there is a **pool of
//! streams, each used by one keep-alive at a time**, for any lease. A keep-alive takes an idle
//! stream or opens one, and returns it to the pool after the response. A stream with an outstanding
//! response is never returned: an abandoned keep-alive drops its stream, so no keep-alive receives
//! the response to another.
//!
//! `etcd grpc-proxy` responds to the first keep-alive of a stream at once, and to later ones on its
//! own schedule, up to a third of the TTL later. So after a stream was silent, each stream of its
//! endpoint serves a single keep-alive, for the time of [`SINGLE_USE_PERIOD`].
//!
//! A keep-alive never needs two HTTP/2 streams at a time. A server may permit only one stream per
//! connection, and concurrent keep-alives that each hold a stream and wait for another would block
//! each other.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use coord_core::{
    Error, Result,
    kv::{LeaseId, LeaseKeepAliveResponse},
    sync,
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

/// How long each stream of an endpoint serves a single keep-alive after one of them was silent.
const SINGLE_USE_PERIOD: Duration = Duration::from_secs(600);

/// How long a new stream has for the response to its second keep-alive.
const SECOND_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(250);

/// The pool of idle keep-alive streams.
#[derive(Debug, Default)]
pub(crate) struct KeepAlivePool {
    idle: Mutex<Vec<KeepAliveStream>>,
    /// When a stream of an endpoint was last silent, by the number of the endpoint.
    silent: Mutex<BTreeMap<usize, Instant>>,
}

/// A keep-alive stream without an outstanding response.
#[derive(Debug)]
struct KeepAliveStream {
    sender: LeaseKeeper,
    stream: LeaseKeepAliveStream,
    /// The number of the endpoint that serves the stream.
    endpoint: usize,
}

impl KeepAlivePool {
    /// Refreshes a lease once, within the request timeout.
    pub(crate) async fn refresh(
        &self,
        endpoints: &Endpoints,
        id: LeaseId,
    ) -> Result<LeaseKeepAliveResponse> {
        let timeout = endpoints.options().request_timeout;
        let context = RequestContext { lease: Some(id), timeout, ..RequestContext::default() };
        let start = Instant::now();
        // An idle stream may be dead although no error was detected. So all idle streams together
        // have half of the time.
        let early = start + timeout / 2;
        while Instant::now() < early
            && let Some(mut idle) = self.take()
        {
            let endpoint = idle.endpoint;
            // The next keep-alive must use neither this endpoint nor another of its streams.
            let avoid = || {
                self.note_silence(endpoint);
                self.drop_all(endpoint);
                endpoints.avoid(endpoint);
            };
            match report_if_abandoned(timeout_at(early, idle.refresh(id)), avoid).await {
                Ok(Ok(response)) => return self.finish(Some(idle), response, &context),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "keep-alive stream lost");
                    self.drop_all(endpoint);
                }
                Err(_) => avoid(),
            }
        }
        let opened = endpoints.call_until(start + timeout, &context, |link| async move {
            self.open(&link, id).await
        });
        let (stream, response) = opened.await?;
        self.finish(stream, response, &context)
    }

    /// Opens a stream, and refreshes a lease on it. Returns the response, and the stream if it can
    /// be used again.
    ///
    /// The client crate checks the first response but does not return it, so the lease is refreshed
    /// once more. If no response arrives in time, or the endpoint was silent before, the stream is
    /// closed, and a separate request reads the TTL.
    async fn open(
        &self,
        link: &Link,
        id: LeaseId,
    ) -> Result<(Option<KeepAliveStream>, PbLeaseKeepAliveResponse), etcd_client::Error> {
        let mut lease = link.lease.clone();
        let (sender, stream) = lease.keep_alive(id.get()).await?;
        let mut stream = KeepAliveStream { sender, stream, endpoint: link.endpoint };
        if !self.is_silent(link.endpoint) {
            match timeout(SECOND_KEEP_ALIVE_TIMEOUT, stream.refresh(id)).await {
                Ok(response) => return Ok((Some(stream), response?)),
                Err(_) => self.note_silence(link.endpoint),
            }
        }
        // The next request may need the HTTP/2 stream that this stream occupies.
        drop(stream);
        let status = lease.time_to_live(id.get(), None).await?.0;
        let response = PbLeaseKeepAliveResponse {
            header: status.header,
            id: id.get(),
            // Never positive for a lease that does not exist.
            ttl: status.granted_ttl.max(0),
        };
        Ok((None, response))
    }

    /// Translates the response, and returns the stream, if it is still open, to the pool.
    fn finish(
        &self,
        stream: Option<KeepAliveStream>,
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

    fn idle(&self) -> MutexGuard<'_, Vec<KeepAliveStream>> {
        sync::lock(&self.idle)
    }

    fn take(&self) -> Option<KeepAliveStream> {
        self.idle().pop()
    }

    fn note_silence(&self, endpoint: usize) {
        self.silent().insert(endpoint, Instant::now());
    }

    /// Whether each stream of an endpoint serves a single keep-alive, because one was silent.
    fn is_silent(&self, endpoint: usize) -> bool {
        self.silent().get(&endpoint).is_some_and(|at| at.elapsed() < SINGLE_USE_PERIOD)
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<usize, Instant>> {
        sync::lock(&self.silent)
    }

    /// Returns a stream to the pool, unless the pool is full or the stream has served its only
    /// keep-alive.
    fn put(&self, stream: KeepAliveStream) {
        if self.is_silent(stream.endpoint) {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE_STREAMS {
            idle.push(stream);
        }
    }

    /// Drops the idle streams of an endpoint. They may share a connection with a dead stream.
    fn drop_all(&self, endpoint: usize) {
        self.idle().retain(|stream| stream.endpoint != endpoint);
    }
}

impl KeepAliveStream {
    /// Refreshes a lease. If the call fails or is dropped, the stream cannot be used again.
    async fn refresh(
        &mut self,
        id: LeaseId,
    ) -> Result<PbLeaseKeepAliveResponse, etcd_client::Error> {
        self.sender.id = id.get();
        self.sender.keep_alive().await?;
        let ended =
            || etcd_client::Error::LeaseKeepAliveError("the keep-alive stream ended".to_owned());
        let response = self.stream.message().await?.ok_or_else(ended)?;
        if response.id() == id.get() {
            return Ok(response.0);
        }
        let reason = format!("a keep-alive response for lease {} instead of {id}", response.id());
        Err(etcd_client::Error::LeaseKeepAliveError(reason))
    }
}

#[cfg(test)]
mod tests;
