//! The guard of an acquired slice of a budget, which is spent in this process.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::RateLimiterError;
use super::bucket::{Bucket, burst_units};
use crate::error::{LossReason, Outcome, ReleaseError};
use crate::kv::Compare;
use crate::queue::{Held as _, Ownership, run_until_lost};
use crate::recipes::SemaphorePermits;
use crate::session::{Session, SessionState};

/// The guard of an acquired slice of the budget of a [`RateLimiter`](super::RateLimiter): a part of
/// the rate, which this process spends without requests.
///
/// The slice accrues [`rate`](Self::rate) units per second, from when it was acquired, and keeps at
/// most [`burst`](Self::burst) units. Dropping it returns its rate to the budget in the background;
/// [`release`](Self::release) waits for the confirmation. To share it between tasks, put it into an
/// [`Arc`](std::sync::Arc).
///
/// # Loss
/// After a loss, [`acquire`](Self::acquire) fails, and calls that wait fail at once. The loss is
/// detected before the store can give the rate to another member. The exceptions: another client
/// deletes the key of the slice or revokes its lease, the store is restored from a backup, or the
/// machine was suspended. Then the slice is spent until the loss is detected, usually after one
/// watch event. A program that is suspended after `acquire` has returned may do its work late, as
/// with [a lock](crate::mutex::MutexGuard).
///
/// # When the program ends
/// A program that exits without releasing leaves its key in the store, and its rate is free when
/// the session's lease expires. Await [`release`](Self::release) or [`Session::close`], or do the
/// work in [`SessionBuilder::run`](crate::session::SessionBuilder::run).
#[must_use = "dropping the guard returns the slice to the budget"]
pub struct RateSlice {
    permits: SemaphorePermits,
    burst: u32,
    /// Locked by the first waiter; the others wait for the lock, in order.
    bucket: Mutex<Bucket>,
    /// Cancelled when the permits are lost.
    lost: CancellationToken,
    /// Why a failed release has ended the slice, if it has or may have.
    ended: Option<RateLimiterError>,
}

impl RateSlice {
    pub(super) fn new(permits: SemaphorePermits, burst: Duration) -> Self {
        let rate = permits.permits();
        // The clock of the slice starts after the store has admitted it.
        let bucket = Mutex::new(Bucket::new(rate, burst, Instant::now()));
        let lost = permits.cancellation_token();
        let burst = burst_units(rate, burst);
        Self { permits, burst, bucket, lost, ended: None }
    }

    /// Returns the rate of the slice, in units per second.
    #[must_use]
    pub const fn rate(&self) -> u32 {
        self.permits.permits()
    }

    /// Returns the burst: how many units can be spent at once after a pause, and the most that one
    /// call can acquire.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// Returns the key of the slice.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.permits.key()
    }

    /// Returns the session that holds the slice.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.permits.session()
    }

    /// Returns a compare, for a transaction, that holds as long as the slice is held.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        self.permits.held_condition()
    }

    /// Waits until the slice has `units` units, and spends them. It sends no request.
    ///
    /// Waiters are served in the order of their calls, so a wait for many units is not overtaken by
    /// waits for few. To bound the wait, wrap it in `tokio::time::timeout`.
    ///
    /// # Errors
    /// - `InvalidUnits` if `units` is zero or more than the [burst](Self::burst).
    /// - `Lost` as soon as the slice is lost.
    /// - `Released` if an earlier release has failed with an unknown outcome.
    ///
    /// In each case nothing was spent.
    ///
    /// # Cancel safety
    /// Dropping the future spends nothing, and gives up its place among the waiters.
    pub async fn acquire(&self, units: u32) -> Result<(), RateLimiterError> {
        self.check(units)?;
        let take = async {
            let mut bucket = self.bucket.lock().await;
            loop {
                // After a pause of the process, the slice may be lost, and another member may spend
                // its rate.
                self.session().check_deadline().await?;
                let now = Instant::now();
                if now < self.session().deadline() {
                    match bucket.take(now, units) {
                        Ok(()) => return Ok(()),
                        Err(at) => sleep_until(at).await,
                    }
                }
            }
        };
        run_until_lost(self.lost(), take).await?
    }

    /// Spends `units` units if the slice has them now and no call of [`acquire`](Self::acquire)
    /// waits. Otherwise it returns `false`, which is no error. It sends no request.
    ///
    /// ```
    /// use coord_core::{Client, Session, recipes::RateLimiter};
    /// use coord_mem::MemBackend;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// let slice = RateLimiter::new(&session, "mail", 10).acquire_slice(10).await?;
    /// assert!(!slice.try_acquire(1)?, "a slice starts empty");
    /// tokio::time::sleep(Duration::from_millis(100)).await;
    /// assert!(slice.try_acquire(1)?);
    /// assert!(!slice.try_acquire(1)?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It also returns `false` while the session has passed its deadline and a keep-alive may still
    /// be confirmed, after a pause of the process.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self, units: u32) -> Result<bool, RateLimiterError> {
        self.check(units)?;
        if self.lost.is_cancelled() {
            return Err(self.loss_reason().into());
        }
        // Whether a waiter has the lock, or waits for it.
        let Ok(mut bucket) = self.bucket.try_lock() else { return Ok(false) };
        let now = Instant::now();
        Ok(now < self.session().deadline() && bucket.take(now, units).is_ok())
    }

    /// Waits until the slice is lost, and returns the reason. It sends no request: the slice
    /// watches its key as long as it exists.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.lost.cancelled().await;
        self.loss_reason()
    }

    /// Runs `future` while the slice is held. If it is lost, `future` is dropped.
    ///
    /// # Errors
    /// The reason of the loss. The side effects of `future` until then remain.
    ///
    /// # Cancel safety
    /// Dropping this future drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        run_until_lost(self.lost(), future).await
    }

    /// Returns the slice to the budget, and waits for the confirmation. Units that were not spent
    /// are gone: the next holder of the rate starts without any.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: release again, or drop it, and the session task
    /// continues to delete the key. If the outcome is unknown, the slice spends nothing more,
    /// because another member may have its rate. The cause is `Lost` if the slice was lost before.
    ///
    /// # Cancel safety
    /// Dropping the future returns the slice all the same, in the background.
    pub async fn release(self) -> Result<(), ReleaseError<Self>> {
        let Self { permits, burst, bucket, lost, ended } = self;
        permits.release().await.map_err(|ReleaseError { held: permits, cause }| {
            let ended = match (cause.loss(), cause.outcome()) {
                (Some(reason), _) => Some(reason.into()),
                (None, Outcome::Unknown) => Some(RateLimiterError::Released),
                (None, _) => ended,
            };
            let slice = Self { permits: *permits, burst, bucket, lost, ended };
            ReleaseError::new(slice, cause)
        })
    }

    /// Checks a number of units, and that no failed release has ended the slice.
    fn check(&self, units: u32) -> Result<(), RateLimiterError> {
        if units == 0 || units > self.burst {
            return Err(RateLimiterError::InvalidUnits { units, burst: self.burst });
        }
        self.ended.clone().map_or(Ok(()), Err)
    }

    /// Why the slice was lost.
    fn loss_reason(&self) -> LossReason {
        let ownership: &Ownership = self.permits.contender();
        match (ownership.reported_loss(), self.session().state()) {
            (Some(reason), _) | (None, SessionState::Lost(reason)) => reason,
            // A release that had failed has deleted the key after all.
            (None, SessionState::Alive | SessionState::Suspect) => LossReason::KeyDeleted,
        }
    }
}

impl fmt::Debug for RateSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateSlice")
            .field("key", &format_args!("\"{}\"", self.key().escape_ascii()))
            .field("rate", &self.rate())
            .field("burst", &self.burst)
            .finish_non_exhaustive()
    }
}
