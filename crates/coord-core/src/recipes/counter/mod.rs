//! Counters: a number that many clients add to, exact in one key, or striped over several keys.
//!
//! A [`Counter`] is one key. Each addition returns the new value. All additions conflict with each
//! other, so the key is the limit of their rate.
//!
//! A [`StripedCounter`] has several keys, its *stripes*, and its value is their sum. Each addition
//! changes one stripe, chosen at random, so additions to different stripes do not conflict.
//!
//! ```text
//! add 5 to a counter, from 4          add 5 to a striped counter, from 4
//! get  hits       4                   get  hits/1    1
//! put  hits       9                   put  hits/1    6
//!                                          hits/0    3
//! the new value is 9                  the new value is not known; a read: 3 + 6 = 9
//! ```
//!
//! | | [`Counter`] | [`StripedCounter`] |
//! |---|---|---|
//! | an addition returns | the new value | nothing |
//! | requests of an addition | 2, and 1 more for each conflict | 2, and 1 more for each conflict |
//! | requests of a read | 1 | 1 |
//! | a read is exact | yes | yes: it reads all stripes at one revision |
//! | an addition that would overflow | is an error | is an error if its stripe would overflow |

mod striped;

use std::fmt;

use bytes::Bytes;

use super::SharedValue;
use crate::client::Client;
use crate::error::{Error, Outcome, PrimitiveError, Result};
use crate::kv::IntoBytes;
use crate::session::Session;
use crate::stm::{Retry, StmError};
pub use striped::StripedCounter;

/// A counter of one key, from 0. Clones share all options.
///
/// ```
/// use coord_core::{Client, recipes::Counter};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let tickets = Counter::new(&client, "tickets");
/// assert_eq!(tickets.get().await?, 0);
/// assert_eq!(tickets.add(1).await?, 1);
/// assert_eq!(tickets.add(10).await?, 11);
/// assert_eq!(tickets.add(-2).await?, 9);
/// # Ok(())
/// # }
/// ```
///
/// The value is decimal text, without a lease. An absent key counts as 0.
///
/// Source: Apache Curator's recipe `DistributedAtomicLong`, with one kind of error, and with
/// additions whose outcome is resolved.
#[derive(Clone)]
pub struct Counter {
    value: SharedValue<i64>,
}

impl Counter {
    /// The counter of `key`.
    pub fn new(client: &Client, key: impl IntoBytes) -> Self {
        Self { value: SharedValue::new(client, key) }
    }

    /// Applies each addition exactly once: resolves an addition whose response was lost, unless the
    /// session is lost, or the store does not respond within the budget of [`retry`](Self::retry):
    /// then the error is [`StmError::OutcomeUnknown`].
    ///
    /// Create this handle once, and clone it. Each call of `exactly_once` stores idempotency keys
    /// of its own, which stay until the session ends: see
    /// [`Stm::exactly_once`](crate::Stm::exactly_once).
    ///
    /// ```
    /// use coord_core::{Client, Session, recipes::Counter};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let session = Session::builder(&client).open().await?;
    /// let tickets = Counter::new(&client, "tickets").exactly_once(&session);
    /// assert_eq!(tickets.add(1).await?, 1);
    /// session.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn exactly_once(self, session: &Session) -> Self {
        Self { value: self.value.exactly_once(session) }
    }

    /// Sets the budget for the attempts of an addition.
    #[must_use]
    pub fn retry(self, retry: Retry) -> Self {
        Self { value: self.value.retry(retry) }
    }

    /// Returns the key.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.value.key()
    }

    /// Reads the value; 0 if the key is absent.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// The error of the backend. `InvalidValue` if the value of the key is not a number.
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn get(&self) -> Result<i64> {
        Ok(self.value.get().await?.unwrap_or_default())
    }

    /// Adds `n`, which may be negative. Returns the new value.
    ///
    /// Cost: 2 requests, and 1 more for each conflict with another addition.
    ///
    /// # Errors
    /// As [`SharedValue::update`]. [`StmError::Aborted`] with [`CounterError::Overflow`] if the new
    /// value is outside of the range of an `i64`, and with [`CounterError::Backend`] and
    /// `InvalidValue` if the value of the key is not a number: nothing was written.
    ///
    /// # Cancel safety
    /// If the future is dropped during the commit, it is unknown whether `n` was added. Otherwise
    /// nothing was written.
    pub async fn add(&self, n: i64) -> Result<i64, StmError<CounterError>> {
        add(&self.value, n).await
    }
}

/// Adds to the number of one key.
async fn add(value: &SharedValue<i64>, n: i64) -> Result<i64, StmError<CounterError>> {
    let key = value.key().clone();
    let update = value.update(move |found| {
        let found = found.unwrap_or_default();
        let overflow = || CounterError::Overflow { key: key.clone(), found, added: n };
        found.checked_add(n).map(Some).ok_or_else(overflow)
    });
    Ok(update.await?.value.unwrap_or_default())
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counter(\"{}\")", self.key().escape_ascii())
    }
}

/// The error of a counter.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CounterError {
    /// The sum is outside of the range of an `i64`. Nothing was written.
    #[error(
        "{found} + {added} overflows the counter \"{}\": its values are from -2^63 to 2^63 - 1",
        key.escape_ascii()
    )]
    Overflow {
        /// The key.
        key: Bytes,
        /// The value that the addition found.
        found: i64,
        /// The number to add.
        added: i64,
    },
    /// The sum of all stripes is outside of the range of an `i64`.
    #[error(
        "the sum of the stripes under \"{}\" is {sum}: it must be from -2^63 to 2^63 - 1",
        prefix.escape_ascii()
    )]
    SumOverflow {
        /// The prefix of the stripes.
        prefix: Bytes,
        /// The sum.
        sum: i128,
    },
    /// A striped counter with no stripe, or with too many.
    #[error("invalid number of stripes {stripes}: must be from 1 to {max}")]
    InvalidStripes {
        /// The number of stripes.
        stripes: usize,
        /// The largest number of stripes.
        max: usize,
    },
    /// The backend failed, or a value is not a number. Nothing was written.
    #[error(transparent)]
    Backend(#[from] Error),
}

impl CounterError {
    /// Returns whether surely nothing was added.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Backend(error) => error.outcome(),
            Self::Overflow { .. } | Self::SumOverflow { .. } | Self::InvalidStripes { .. } => {
                Outcome::NotApplied
            }
        }
    }

    /// Returns whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Backend(error) => error.is_retryable(),
            // The caller must add another number, or change the counter.
            Self::Overflow { .. } | Self::SumOverflow { .. } | Self::InvalidStripes { .. } => false,
        }
    }
}

impl From<CounterError> for PrimitiveError {
    fn from(error: CounterError) -> Self {
        match error {
            CounterError::Backend(error) => error.into(),
            error => Self::of_recipe(error),
        }
    }
}
