//! What a session is to be like, and the patience to open it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Session;
use super::keeper::Keeper;
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{Header, LeaseGrant, LeaseId, TTL_MAX};

/// Chooses what a session is like.
#[must_use = "call `open` to have the session"]
pub struct SessionBuilder {
    backend: Arc<dyn KvBackend>,
    ttl: Duration,
    lease: Option<LeaseId>,
    connect_timeout: Duration,
}

impl SessionBuilder {
    pub(super) fn new(backend: Arc<dyn KvBackend>) -> Self {
        Self {
            backend,
            ttl: Duration::from_secs(60),
            lease: None,
            connect_timeout: Duration::from_secs(5),
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
                let sent = Instant::now();
                match self.lease_granted().await {
                    Ok((header, lease, ttl)) => break Ok((header, lease, ttl, sent)),
                    Err(error) if error.is_retryable() => last_error = Some(error),
                    Err(error) => break Err(error),
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        match timeout(self.connect_timeout, connect).await {
            Ok(granted) => {
                let (opened, lease, ttl, sent) = granted?;
                Ok(Keeper::start(self.backend, opened, lease, ttl, sent))
            }
            Err(_) => Err(last_error.unwrap_or(Error::Timeout { after: self.connect_timeout })),
        }
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
