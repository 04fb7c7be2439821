//! The builder of a session: its options, and the retries while it is opened.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::asleep::AsleepClock;
use super::deadline::{LeaseTtl, Moment};
use super::handover::current_revision;
use super::key_suffix::KeySuffixes;
use super::task::{OpenedLease, SessionTask};
use super::{Generation, Session, Supervisor};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{LeaseGrant, LeaseId, TTL_MAX};
use crate::telemetry::session as events;

/// The pause between two attempts to open a session.
const OPEN_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The options of a session.
#[derive(Clone)]
#[must_use = "call `open` to open the session"]
pub struct SessionBuilder {
    client: Client,
    ttl: Duration,
    lock_delay: Duration,
    lease: Option<LeaseId>,
    connect_timeout: Duration,
    asleep: Option<AsleepClock>,
    /// The generation of the session that `open` opens.
    generation: Generation,
}

impl SessionBuilder {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            ttl: Duration::from_secs(60),
            lock_delay: Duration::ZERO,
            lease: None,
            connect_timeout: Duration::from_secs(5),
            asleep: None,
            generation: Generation::FIRST,
        }
    }

    /// Sets the time to live (TTL) of the session: how long its lease lives without a keep-alive.
    /// A [`lock_delay`](Self::lock_delay) is added to the TTL of the lease. Whole seconds, at least
    /// one; 60 s unless set. The store may grant more, never less.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the lock-delay: how long the locks and leaderships of the session stay closed after
    /// their holder has *vanished*, for resources that cannot refuse a late write by its fencing
    /// token. Whole seconds; zero unless set.
    ///
    /// A holder that loses its session can have requests in flight, which arrive after its deadline
    /// although it has stopped. With a lock-delay, the next holder acquires at least that much
    /// later than the [`deadline`](Session::deadline) of the former, also if the clock of the store
    /// is a tenth fast. [`Session::close`], a release and a dropped guard free the lock at once,
    /// because then the holder has ended its work; so does a revoked lease.
    ///
    /// The lease is granted for the TTL and the lock-delay, plus a ninth of it for the drift of the
    /// clocks; the session counts its deadline from the TTL alone. So all keys of the session stay
    /// for that time: also the key of a waiter that has vanished, and the keys of the session
    /// before, when a program that has crashed starts again. An adopter of the lease must set the
    /// same lock-delay, because the store does not know which part of a TTL is one.
    ///
    /// ```
    /// use coord_core::{Client, Session, kv::LeaseTimeToLive};
    /// use coord_mem::MemBackend;
    /// use std::time::Duration;
    /// use tokio::time::Instant;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let session = Session::builder(&client)
    ///     .ttl(Duration::from_secs(10))
    ///     .lock_delay(Duration::from_secs(45))
    ///     .open()
    ///     .await?;
    /// assert_eq!(session.deadline() - Instant::now(), Duration::from_secs(9));
    ///
    /// let lease = LeaseTimeToLive::new(session.lease_id());
    /// let lease = client.lease_time_to_live(lease).await?.lease.expect("it is kept alive");
    /// assert_eq!(lease.granted, Duration::from_secs(10 + 50));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Source: M. Burrows, "The Chubby lock service for loosely-coupled distributed systems", OSDI
    /// 2006, section 2.4.
    pub const fn lock_delay(mut self, lock_delay: Duration) -> Self {
        self.lock_delay = lock_delay;
        self
    }

    /// Adopts an existing lease, with all keys that are attached to it, instead of requesting a new
    /// one. The lease keeps its own TTL; [`ttl`](Self::ttl) is not used.
    pub fn lease(mut self, lease: LeaseId) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Sets how long [`open`](Self::open) retries until the store responds. 5 s unless set.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the clock of the machine's suspension: it returns how long the machine has been
    /// suspended, in total since any moment in the past. The session task reads it at least once a
    /// second, and counts that time against the lease.
    ///
    /// On Linux this need not be set: the session task reads the system's `CLOCK_BOOTTIME`, except
    /// on a paused runtime. On other systems a session does not detect that its machine was
    /// suspended, unless this clock is set.
    ///
    /// ```
    /// use coord_core::error::LossReason;
    /// use coord_core::session::SessionState;
    /// use coord_core::{Client, Session};
    /// use coord_mem::MemBackend;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::{sync::Arc, time::Duration};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> coord_core::Result<()> {
    /// let asleep_secs = Arc::new(AtomicU64::new(0));
    /// let clock = Arc::clone(&asleep_secs);
    /// let session = Session::builder(&Client::new(MemBackend::new()))
    ///     .asleep(move || Duration::from_secs(clock.load(Ordering::Relaxed)))
    ///     .open()
    ///     .await?;
    /// asleep_secs.store(3600, Ordering::Relaxed); // the machine was suspended for an hour
    /// tokio::time::sleep(Duration::from_secs(2)).await;
    /// assert_eq!(session.state(), SessionState::Lost(LossReason::Expired));
    /// # Ok(())
    /// # }
    /// ```
    pub fn asleep(mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.asleep = Some(AsleepClock::new(clock));
        self
    }

    /// Opens the session: sends one request, and retries it while the store is unavailable. To
    /// adopt a lease costs 2 requests: a keep-alive, and a read of the store's revision.
    ///
    /// # Errors
    /// - `InvalidTtl` for a TTL of zero or with a fraction of a second, and `TtlTooLarge`, also for
    ///   the TTL with the lock-delay, unless a lease is adopted: nothing was sent.
    /// - `InvalidLockDelay` for a fraction of a second: nothing was sent. Also if the TTL of the
    ///   lease to adopt is too short for the lock-delay: only a keep-alive was sent.
    /// - `LeaseNotFound` if the lease to adopt does not exist: nothing was applied.
    /// - After the connect timeout, the last error of the backend, or `Timeout` if there was no
    ///   response. The outcome is unknown: the store may have granted a lease, which expires by
    ///   itself.
    /// - The error of the backend, at once, if it is not retryable.
    ///
    /// # Cancel safety
    /// If the future is dropped, a lease may have been granted; it then expires by itself.
    pub async fn open(self) -> Result<Session> {
        self.check_lock_delay()?;
        if self.lease.is_none() {
            self.check_ttl()?;
        }
        let mut last_error = None;
        let connect = async {
            loop {
                match self.attempt().await {
                    Err(error) if error.is_retryable() => {
                        events::open_failed(self.generation, &error, OPEN_RETRY_PAUSE);
                        last_error = Some(error);
                    }
                    result => break result,
                }
                sleep(OPEN_RETRY_PAUSE).await;
            }
        };
        let opened = timeout(self.connect_timeout, connect).await.unwrap_or_else(|_| {
            Err(last_error.unwrap_or(Error::Timeout { after: self.connect_timeout }))
        });
        opened.inspect_err(|error| events::not_opened(self.generation, error))
    }

    /// Opens the session as [`open`](Self::open) does, and starts a supervisor, which opens the
    /// next session whenever one is lost, until the supervisor
    /// [ends or fails](super::SupervisorState). Only the first session adopts the lease that was
    /// set; later sessions have leases of their own, with the [`ttl`](Self::ttl) that was set.
    ///
    /// # Errors
    /// As [`open`](Self::open), for the first session. `InvalidTtl` and `TtlTooLarge` also if a
    /// lease is adopted, because later sessions use the TTL. [`Supervisor::state`] reports the
    /// error of a later session, unless it is retryable.
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn supervise(self) -> Result<Supervisor> {
        self.check_lock_delay()?;
        self.check_ttl()?;
        let first = self.clone().open().await?;
        Ok(Supervisor::start(self, first))
    }

    fn check_ttl(&self) -> Result<()> {
        let ttl = self.ttl;
        if ttl.is_zero() || ttl.subsec_nanos() != 0 {
            return Err(Error::InvalidTtl { ttl });
        }
        let ttl = self.requested().lease();
        if ttl > TTL_MAX {
            return Err(Error::TtlTooLarge { ttl });
        }
        Ok(())
    }

    fn check_lock_delay(&self) -> Result<()> {
        match self.lock_delay {
            delay if delay.subsec_nanos() == 0 => Ok(()),
            lock_delay => Err(Error::InvalidLockDelay { lock_delay, lease_ttl: None }),
        }
    }

    /// The TTL of the lease to request.
    const fn requested(&self) -> LeaseTtl {
        LeaseTtl { session: self.ttl, reserved: LeaseTtl::reserved_for(self.lock_delay) }
    }

    /// The TTL of a lease that the store has granted or confirmed: what it grants beyond the
    /// request belongs to the session.
    fn granted(&self, lease_ttl: Duration) -> Result<LeaseTtl> {
        let reserved = self.requested().reserved;
        let (lock_delay, too_short) = (self.lock_delay, Some(lease_ttl));
        match lease_ttl.checked_sub(reserved).filter(|session| !session.is_zero()) {
            Some(session) => Ok(LeaseTtl { session, reserved }),
            None => Err(Error::InvalidLockDelay { lock_delay, lease_ttl: too_short }),
        }
    }

    /// Opens the session of the generation after `last`: one attempt.
    pub(super) async fn open_next(&self, last: Generation) -> Result<Session> {
        let next = Self { lease: None, generation: last.next(), ..self.clone() };
        let after = self.connect_timeout;
        timeout(after, next.attempt()).await.unwrap_or(Err(Error::Timeout { after }))
    }

    /// Sends one request for a lease; or one keep-alive of the lease to adopt, and then a read of
    /// the revision: the keys that exist then belong to former owners.
    async fn attempt(&self) -> Result<Session> {
        let asleep = self.asleep.clone().unwrap_or_else(AsleepClock::of_system);
        let sent = Moment { at: Instant::now(), asleep: asleep.now() };
        let backend = self.client.backend();
        let lock_delay = self.lock_delay;
        let lease = if let Some(id) = self.lease {
            let ttl = self.granted(backend.lease_keep_alive(id).await?.ttl)?;
            let revision = current_revision(&**backend).await?;
            let suffixes = KeySuffixes::of_adopter();
            OpenedLease { id, ttl, lock_delay, revision, sent, suffixes }
        } else {
            let grant = LeaseGrant::new(self.requested().lease());
            let response = backend.lease_grant(grant).await?;
            let (ttl, revision) = (self.granted(response.ttl)?, response.header.revision);
            let (id, suffixes) = (response.id, KeySuffixes::default());
            OpenedLease { id, ttl, lock_delay, revision, sent, suffixes }
        };
        Ok(SessionTask::start(&self.client, lease, asleep, self.generation))
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("ttl", &self.ttl)
            .field("lock_delay", &self.lock_delay)
            .field("lease", &self.lease)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}
