//! What a session is to be like, and the patience to open it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::asleep::AsleepClock;
use super::deadline::{Deadline, Moment};
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
    asleep: Option<AsleepClock>,
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
            asleep: None,
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

    /// Reads from `clock` how long the machine has been suspended, in total since any moment in the
    /// past. The session task reads it once a second, and counts that time against the lease.
    ///
    /// On Linux this need not be set: the system's `CLOCK_BOOTTIME` is read, except on a paused
    /// runtime. Elsewhere a session does not notice that its machine was suspended, unless it is
    /// given a clock.
    ///
    /// ```
    /// use coord_core::{LossReason, Session, SessionState};
    /// use coord_mem::MemBackend;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::{sync::Arc, time::Duration};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> coord_core::Result<()> {
    /// let asleep_secs = Arc::new(AtomicU64::new(0));
    /// let clock = Arc::clone(&asleep_secs);
    /// let session = Session::builder(Arc::new(MemBackend::new()))
    ///     .asleep(move || Duration::from_secs(clock.load(Ordering::Relaxed)))
    ///     .open()
    ///     .await?;
    /// asleep_secs.store(3600, Ordering::Relaxed); // the lid was closed for an hour
    /// tokio::time::sleep(Duration::from_secs(2)).await;
    /// assert_eq!(session.state(), SessionState::Lost(LossReason::Expired));
    /// # Ok(())
    /// # }
    /// ```
    pub fn asleep(mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.asleep = Some(AsleepClock::new(clock));
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
        let asleep = self.asleep.clone().unwrap_or_else(AsleepClock::of_system);
        let sent = Moment { at: Instant::now(), asleep: asleep.now() };
        let (opened, lease, ttl) = self.lease_granted().await?;
        let backend = Arc::clone(&self.backend);
        let numbers = match self.lease {
            Some(_) => Numbers::of_adopter(),
            None => Numbers::default(),
        };
        let deadline = Deadline { confirmed: sent, ttl };
        Ok(Keeper::start(backend, opened, (lease, numbers), (deadline, asleep), self.epoch))
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
