//! What a session is to be like, and the patience to open it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::keeper::Keeper;
use super::numbers::Numbers;
use super::{Epoch, Session, Supervisor};
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{Header, LeaseGrant, LeaseId, TTL_MAX};
use crate::telemetry;

/// How long to leave a store alone that could not open a session.
const PAUSE: Duration = Duration::from_millis(100);

/// Chooses what a session is like.
#[derive(Clone)]
#[must_use = "call `open` to have the session"]
pub struct SessionBuilder {
    backend: Arc<dyn KvBackend>,
    ttl: Duration,
    lease: Option<LeaseId>,
    connect_timeout: Duration,
    /// Which epoch the session begins.
    epoch: Epoch,
}

impl SessionBuilder {
    pub(super) fn new(backend: Arc<dyn KvBackend>) -> Self {
        Self {
            backend,
            ttl: Duration::from_secs(60),
            lease: None,
            connect_timeout: Duration::from_secs(5),
            epoch: Epoch::FIRST,
        }
    }

    /// How long the lease lives without a keep-alive: whole seconds, at least one. 60 s unless
    /// set. The store may grant more, never less.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Adopts a lease that exists, with all keys that hang on it, instead of asking for a new one.
    /// Its time to live is its own; [`ttl`](Self::ttl) is not used.
    pub fn lease(mut self, lease: LeaseId) -> Self {
        self.lease = Some(lease);
        self
    }

    /// How long to try to reach the store. 5 s unless set.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Opens the session: one request, repeated while the store is unavailable.
    ///
    /// # Errors
    /// Before anything is sent: `InvalidTtl` for zero or a fraction of a second, `TtlTooLarge`.
    /// `LeaseNotFound` for an adopted lease that does not exist. When the connect timeout is over:
    /// the last error of the backend, or `Timeout` if it never answered; a lease may then have
    /// been granted, and expires by itself.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a lease granted; it expires by itself.
    pub async fn open(self) -> Result<Session> {
        if self.ttl.is_zero() || self.ttl.subsec_nanos() != 0 {
            return Err(Error::InvalidTtl { ttl: self.ttl });
        }
        if self.ttl > TTL_MAX {
            return Err(Error::TtlTooLarge { ttl: self.ttl });
        }
        let mut last_error = None;
        let connect = async {
            loop {
                match self.attempt().await {
                    Err(error) if error.is_retryable() => {
                        telemetry::open_failed(self.epoch, &error, PAUSE);
                        last_error = Some(error);
                    }
                    answer => break answer,
                }
                sleep(PAUSE).await;
            }
        };
        let opened = timeout(self.connect_timeout, connect).await.unwrap_or_else(|_| {
            Err(last_error.unwrap_or(Error::Timeout { after: self.connect_timeout }))
        });
        opened.inspect_err(|error| telemetry::open_given_up(self.epoch, error))
    }

    /// Opens the session as [`open`](Self::open) does, and another one whenever it is lost, until
    /// the supervisor is closed or dropped. An adopted lease is the first epoch's only; later ones
    /// have leases of their own, with the [`ttl`](Self::ttl) that was set.
    ///
    /// # Errors
    /// As [`open`](Self::open), for the first session. What happens to later ones is told by
    /// [`Supervisor::state`].
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn supervise(self) -> Result<Supervisor> {
        let first = self.clone().open().await?;
        Ok(Supervisor::start(self, first))
    }

    /// Opens the session that follows that of `epoch`: one attempt.
    pub(super) async fn open_after(&self, epoch: Epoch) -> Result<Session> {
        let next = Self { lease: None, epoch: epoch.next(), ..self.clone() };
        let after = self.connect_timeout;
        timeout(after, next.attempt()).await.unwrap_or(Err(Error::Timeout { after }))
    }

    async fn attempt(&self) -> Result<Session> {
        let sent = Instant::now();
        let (opened, lease, ttl) = self.lease_granted().await?;
        let backend = Arc::clone(&self.backend);
        let numbers = match self.lease {
            Some(_) => Numbers::of_adopter(),
            None => Numbers::default(),
        };
        Ok(Keeper::start(backend, opened, (lease, numbers), ttl, sent, self.epoch))
    }

    async fn lease_granted(&self) -> Result<(Header, LeaseId, Duration)> {
        if let Some(lease) = self.lease {
            let response = self.backend.lease_keep_alive(lease).await?;
            return Ok((response.header, lease, response.ttl));
        }
        let response = self.backend.lease_grant(LeaseGrant::new(self.ttl)).await?;
        Ok((response.header, response.id, response.ttl))
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("ttl", &self.ttl)
            .field("lease", &self.lease)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}
