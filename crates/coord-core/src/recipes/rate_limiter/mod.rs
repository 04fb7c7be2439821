//! The distributed rate limiter: a budget of units per second, of which each member holds a slice
//! and spends it locally.
//!
//! A *slice* of `r` units per second is `r` permits of a [`Semaphore`] whose limit is the budget.
//! So the slices together are at most the budget, slices are acquired in order, a disagreement
//! about the budget is an error, and the slice of a member that ends in any way is free again, with
//! its key. The member spends the slice by a token bucket (`bucket.rs`): a request for each slice,
//! and none for each unit.
//!
//! **The bound.** A bucket starts empty and holds at most what it accrues in the *burst* time. So
//! in every interval of `w` seconds, all members together spend at most
//!
//! ```text
//! budget × w  +  burst time × the rates of the slices that are held when the interval starts
//! ```
//!
//! units, and so at most `budget × (w + burst time)`. A slice that is acquired within the interval
//! adds no burst, because it starts empty: also if it has the rate of a member that has crashed.
//! `docs/decisions/0033-rate-limiter.md` has the proof.
//!
//! ```text
//! budget 10     a holds 6, with a TTL of 60 s          b waits for 6
//!    0 s        spends up to 6 per second
//!    5 s        sends its last keep-alive, and is
//!               then partitioned from the store
//!   59 s        deadline: it stops
//!   65 s                                              a's lease ends: b's slice, empty
//!   66 s                                              it has accrued 6 units
//! ```

mod bucket;
mod error;
mod slice;

use std::time::Duration;

use bytes::Bytes;

use crate::kv::IntoBytes;
use crate::recipes::Semaphore;
use crate::session::Session;
use bucket::{burst_units, least_burst};
pub use error::RateLimiterError;
pub use slice::RateSlice;

/// The burst time, unless another one is set.
const DEFAULT_BURST: Duration = Duration::from_secs(1);

/// A distributed rate limiter by name: all processes that use the name share its budget, a number
/// of units per second.
///
/// A process acquires a [slice](RateSlice) of the budget, with one request, and spends it without
/// requests. In every interval of `w` seconds, all processes together spend at most
/// `budget × (w + burst)` units, where `burst` is the longest [burst time](Self::burst) of their
/// handles, also while slices are passed from one process to another, and after crashes. Time is
/// measured by the monotonic clock of each process.
///
/// A `RateLimiter` is a cheap handle. Clones share its budget.
///
/// ```
/// use coord_core::{Client, Session, recipes::RateLimiter};
/// use coord_mem::MemBackend;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let mails = RateLimiter::new(&session, "mails", 100); // per second
///
/// let slice = mails.acquire_slice(40).await?; // 60 are left for other members
/// let start = Instant::now();
/// for _ in 0..80 {
///     slice.acquire(1).await?;
///     // send a mail
/// }
/// assert_eq!(start.elapsed().as_secs(), 2);
/// slice.release().await?; // or drop it: then it is returned in the background
/// # Ok(())
/// # }
/// ```
///
/// # Units
/// For a rate below one per second, count in smaller units: with a budget of 10 units per second,
/// 10 mails a minute are mails that cost 60 units each. The burst time must be long enough for the
/// largest cost, here 6 s for a slice of 10.
///
/// A total per day is no rate, and is not what this type limits: `docs/guide/recipes-locks.md`
/// describes what to use.
///
/// Source: the token bucket, Turner, "New Directions in Communications", IEEE Communications
/// Magazine 1986; slices that are held by leases are coord's own.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    name: Bytes,
    semaphore: Semaphore,
    burst: Duration,
}

impl RateLimiter {
    /// The rate limiter `name` with a budget of `budget` units per second, for slices on `session`.
    /// It sends nothing.
    ///
    /// # Names
    /// The keys are those of the [`Semaphore`] `name/rate`, with its rules for
    /// [names](Semaphore::new). A lock or a semaphore `name` is independent of it.
    pub fn new(session: &Session, name: impl IntoBytes, budget: u32) -> Self {
        let name = name.into_bytes();
        let semaphore = Semaphore::new(session, [&name[..], b"/rate"].concat(), budget);
        Self { name, semaphore, burst: DEFAULT_BURST }
    }

    /// Sets the burst time: a slice that is not spent keeps at most what it accrues in this time. 1
    /// s by default.
    ///
    /// The shorter it is, the more even is the use. The timers of the runtime have a resolution of
    /// 1 ms, so a slice with a burst time of a few milliseconds loses a part of its rate. The burst
    /// time is not stored: give the same one everywhere.
    #[must_use]
    pub fn burst(self, burst: Duration) -> Self {
        Self { burst, ..self }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.name.clone()
    }

    /// Waits for a slice of `rate` units per second, behind all members that requested before.
    ///
    /// To bound the wait, wrap it in `tokio::time::timeout`. While the store is unavailable, a
    /// member that waits keeps waiting until the session is lost.
    ///
    /// # Cost
    /// As [`Semaphore::acquire`]: one request if the budget has the rate, and one more if no budget
    /// is stored yet. The slice then watches its key, and reads it once in each TTL of the session.
    ///
    /// # Errors
    /// - `InvalidRate` if `rate` is zero or larger than the budget, `InvalidBurst` if the slice
    ///   would never have a whole unit, and `InvalidBudget` if the budget of the handle is zero:
    ///   nothing was sent.
    /// - `BudgetDiffers`, or `UnreadableBudget`, if another budget is stored: nothing was written.
    /// - `InvalidRate` also if the budget is lowered below `rate` during the wait.
    /// - `Lost` as soon as the session is lost, or another client deletes this member's key.
    /// - The error of the backend.
    ///
    /// In each case no key stays in the store while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future removes the member from the queue, and leaves no key behind.
    pub async fn acquire_slice(&self, rate: u32) -> Result<RateSlice, RateLimiterError> {
        self.check_burst(rate)?;
        let acquired = self.semaphore.acquire(rate).await;
        let permits = acquired.map_err(|error| self.error(error))?;
        Ok(RateSlice::new(permits, self.burst))
    }

    /// Acquires a slice of `rate` units per second if the budget has it and no member waits.
    /// Otherwise it returns `None`, which is no error, and writes nothing.
    ///
    /// Cost: as [`Semaphore::try_acquire`], 1 or 2 requests.
    ///
    /// # Errors
    /// As [`acquire_slice`](Self::acquire_slice).
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind.
    pub async fn try_acquire_slice(
        &self,
        rate: u32,
    ) -> Result<Option<RateSlice>, RateLimiterError> {
        self.check_burst(rate)?;
        let acquired = self.semaphore.try_acquire(rate).await;
        let permits = acquired.map_err(|error| self.error(error))?;
        Ok(permits.map(|permits| RateSlice::new(permits, self.burst)))
    }

    /// Reads which rate, in units per second, [`try_acquire_slice`](Self::try_acquire_slice) could
    /// acquire now. It costs 1 request.
    ///
    /// # Errors
    /// `UnreadableBudget`; otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn available(&self) -> Result<u32, RateLimiterError> {
        self.semaphore.available().await.map_err(|error| self.error(error))
    }

    /// Reads the stored budget, in units per second: that of this handle, if none is stored yet. It
    /// costs 1 request.
    ///
    /// # Errors
    /// `UnreadableBudget`; otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn budget(&self) -> Result<u32, RateLimiterError> {
        self.semaphore.limit().await.map_err(|error| self.error(error))
    }

    /// Stores another budget, in units per second, and uses it for this handle and its clones. It
    /// costs 1 request.
    ///
    /// A higher budget gives waiting members their slices at once. A lower budget takes nothing
    /// from members: they keep their slices, and the bound holds for the former budget until enough
    /// of them are released. Other handles keep their budget, and their next calls of
    /// `acquire_slice` and `try_acquire_slice` fail with `BudgetDiffers`, as with
    /// [`Semaphore::set_limit`]; so may overlapping calls.
    ///
    /// # Errors
    /// - `InvalidBudget` if the budget is zero: nothing was sent.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the budget was stored: call it again.
    pub async fn set_budget(&self, budget: u32) -> Result<(), RateLimiterError> {
        self.semaphore.set_limit(budget).await.map_err(|error| self.error(error))
    }

    /// Checks that a slice can hold a unit.
    fn check_burst(&self, rate: u32) -> Result<(), RateLimiterError> {
        if rate > 0 && burst_units(rate, self.burst) == 0 {
            let (burst, least) = (self.burst, least_burst(rate));
            return Err(RateLimiterError::InvalidBurst { burst, rate, least });
        }
        Ok(())
    }

    fn error(&self, error: crate::recipes::SemaphoreError) -> RateLimiterError {
        RateLimiterError::of_semaphore(&self.name, error)
    }
}
