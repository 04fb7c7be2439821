//! Keeping leases alive.
//!
//! etcd refreshes leases over streams: an id goes out, and sooner or later an answer comes back.
//! That a request could be written proves nothing, for a dead connection takes requests too; only
//! an answer does. Opening a stream for every refresh would double its cost, and one stream for
//! all leases would let a lease that is slow to answer (one that is overdue, until it is revoked)
//! hold up the others. So there is a **pool of streams, each used by one refresh at a time**, for
//! whichever lease. A refresh takes an idle stream or opens one, and puts it back once it has its
//! answer. A stream with an answer outstanding is never put back: whoever stopped waiting dropped
//! it, so no answer is ever taken for another's.
//!
//! `etcd grpc-proxy` answers the first refresh of a stream at once, and later ones at its own
//! schedule, up to a third of the time to live later. So where a stream was silent, streams are
//! used once, for a while.
//!
//! A refresh never needs two HTTP/2 streams at a time: a server may permit only one per connection,
//! and concurrent refreshes that each hold one stream and wait for another block each other.

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

use crate::endpoints::Endpoints;
use crate::error::{Asked, Failure};
use crate::link::Link;
use crate::patience::awaited;
use crate::wire::FromWire;

/// How many streams are kept open while nobody uses them.
const IDLE_MAX: usize = 8;

/// For how long streams are used once after an idle one was silent.
const USED_ONCE_FOR: Duration = Duration::from_secs(600);

/// How long a new stream has to answer its second refresh.
const SECOND_ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// The streams that nobody uses.
#[derive(Debug, Default)]
pub(crate) struct KeepAlives {
    idle: Mutex<Vec<KeepAlive>>,
    /// When a stream was silent last, by the number of its endpoint.
    silent: Mutex<BTreeMap<usize, Instant>>,
}

/// A stream with no answer outstanding.
#[derive(Debug)]
struct KeepAlive {
    keeper: LeaseKeeper,
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
        let asked = Asked { lease: Some(id), waited, ..Asked::default() };
        let start = Instant::now();
        // Idle streams may be dead and not know it, so they get half of the time.
        let early = start + waited / 2;
        while Instant::now() < early
            && let Some(mut idle) = self.take()
        {
            let endpoint = idle.endpoint;
            // The next one must not meet the same silence, not here and not elsewhere.
            let learn = || {
                self.note_silence(endpoint);
                self.drop_all(endpoint);
                endpoints.avoid(endpoint);
            };
            match awaited(timeout_at(early, idle.refresh(id)), learn).await {
                Ok(Ok(response)) => return self.answered(Some(idle), response, &asked),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a keep-alive stream is dead");
                    self.drop_all(endpoint);
                }
                Err(_) => learn(),
            }
        }
        let opened = endpoints
            .call_until(start + waited, &asked, |link| async move { self.open(&link, id).await });
        let (stream, response) = opened.await?;
        self.answered(stream, response, &asked)
    }

    /// Opens a stream, and refreshes a lease on it. Returns the stream if it can be used again.
    ///
    /// The client crate does not return the first response, so the lease is refreshed once more. A
    /// stream that does not answer that is closed, and the time to live is read with a request of
    /// its own.
    async fn open(
        &self,
        link: &Link,
        id: LeaseId,
    ) -> Result<(Option<KeepAlive>, PbLeaseKeepAliveResponse), etcd_client::Error> {
        let mut lease = link.lease.clone();
        let (keeper, stream) = lease.keep_alive(id.get()).await?;
        let mut stream = KeepAlive { keeper, stream, endpoint: link.endpoint };
        if !self.is_silent(link.endpoint) {
            match timeout(SECOND_ANSWER_WITHIN, stream.refresh(id)).await {
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
            // A lease that is gone has none.
            ttl: status.granted_ttl.max(0),
        };
        Ok((None, response))
    }

    /// Reads an answer. Its stream, if it is still open, is free again.
    fn answered(
        &self,
        stream: Option<KeepAlive>,
        response: PbLeaseKeepAliveResponse,
        asked: &Asked,
    ) -> Result<LeaseKeepAliveResponse> {
        if let Some(stream) = stream {
            self.put(stream);
        }
        let response = LeaseKeepAliveResponse::from_wire(response)
            .map_err(|malformed| Failure::of_malformed(malformed, asked).error)?;
        if response.ttl.is_zero() {
            return Err(Error::LeaseNotFound { lease: asked.lease });
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

    /// Whether the streams of an endpoint are used once.
    fn is_silent(&self, endpoint: usize) -> bool {
        self.silent().get(&endpoint).is_some_and(|at| at.elapsed() < USED_ONCE_FOR)
    }

    fn silent(&self) -> MutexGuard<'_, BTreeMap<usize, Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, stream: KeepAlive) {
        if self.is_silent(stream.endpoint) {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(stream);
        }
    }

    /// Drops what shares a connection with a stream that turned out to be dead.
    fn drop_all(&self, endpoint: usize) {
        self.idle().retain(|stream| stream.endpoint != endpoint);
    }
}

impl KeepAlive {
    /// Refreshes a lease. When this fails, or is dropped, the stream is of no more use.
    async fn refresh(
        &mut self,
        id: LeaseId,
    ) -> Result<PbLeaseKeepAliveResponse, etcd_client::Error> {
        self.keeper.id = id.get();
        self.keeper.keep_alive().await?;
        let gone = || etcd_client::Error::LeaseKeepAliveError("the stream ended".to_owned());
        let response = self.stream.message().await?.ok_or_else(gone)?;
        if response.id() == id.get() {
            return Ok(response.0);
        }
        let reason = "an answer about another lease".to_owned();
        Err(etcd_client::Error::LeaseKeepAliveError(reason))
    }
}

#[cfg(test)]
mod tests;
