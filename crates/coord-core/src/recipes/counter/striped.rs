//! A counter whose value is the sum of several keys, so that concurrent additions rarely conflict.

use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{CounterError, add};
use crate::client::Client;
use crate::error::Result;
use crate::kv::{IntoBytes, Value as _};
use crate::recipes::SharedValue;
use crate::session::Session;
use crate::stm::{Retry, Stm, StmError, invalid};
use crate::sync::lock;

/// The largest number of stripes. A read returns all of them in one response.
const STRIPES_MAX: usize = 1024;

/// A counter of several keys, for additions under contention. Clones share all options, and the
/// generator of stripes.
///
/// ```
/// use coord_core::{Client, recipes::StripedCounter};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let hits = StripedCounter::new(&client, "hits", 16)?;
/// for _ in 0..10 {
///     hits.add(1).await?;
/// }
/// assert_eq!(hits.get().await?, 10);
/// # Ok(())
/// # }
/// ```
///
/// The stripes are the keys `name/0`, `name/1` and so on. A read sums all keys under `name/`, so
/// clients may use different numbers of stripes: then the counter has as many as the largest of
/// them. Create no other keys there: another counter must not be named `name/x`.
///
/// What it costs in exactness: [`get`](Self::get) is exact as of its revision. But an addition does
/// not know the value of the whole counter. So it does not return the new value, cannot be made
/// dependent on it, and is refused only if its own stripe would overflow. For tickets, quotas and
/// limits use a [`Counter`](super::Counter).
///
/// Source: Java's `LongAdder`, with keys instead of cells in memory.
#[derive(Clone)]
pub struct StripedCounter {
    client: Client,
    stm: Stm,
    prefix: Bytes,
    stripes: usize,
    generator: Arc<Mutex<fastrand::Rng>>,
}

impl StripedCounter {
    /// The counter `name`, whose additions are spread over `stripes` keys. A good number is the
    /// number of tasks that add at the same time, in all processes.
    ///
    /// # Errors
    /// [`CounterError::InvalidStripes`] unless `stripes` is from 1 to 1024.
    pub fn new(
        client: &Client,
        name: impl IntoBytes,
        stripes: usize,
    ) -> Result<Self, CounterError> {
        if !(1..=STRIPES_MAX).contains(&stripes) {
            return Err(CounterError::InvalidStripes { stripes, max: STRIPES_MAX });
        }
        let prefix: Bytes = [&name.into_bytes()[..], b"/"].concat().into();
        let generator = Arc::new(Mutex::new(fastrand::Rng::new()));
        Ok(Self { client: client.clone(), stm: Stm::new(client), prefix, stripes, generator })
    }

    /// Sets the seed of the generator that chooses the stripe of each addition. Random by default.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { generator: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))), ..self }
    }

    /// Applies each addition exactly once, as
    /// [`Counter::exactly_once`](super::Counter::exactly_once) does: resolves an addition whose
    /// response was lost, unless the session is lost, or the store does not respond within the
    /// budget of [`retry`](Self::retry): then the error is [`StmError::OutcomeUnknown`].
    ///
    /// Create this handle once, and clone it. Each call of `exactly_once` stores idempotency keys
    /// of its own, which stay until the session ends.
    #[must_use]
    pub fn exactly_once(self, session: &Session) -> Self {
        Self { stm: self.stm.exactly_once(session), ..self }
    }

    /// Sets the budget for the attempts of an addition.
    #[must_use]
    pub fn retry(self, retry: Retry) -> Self {
        Self { stm: self.stm.retry(retry), ..self }
    }

    /// Reads the value: the sum of all stripes, at one revision.
    ///
    /// Cost: 1 request, which reads every stripe.
    ///
    /// # Errors
    /// [`CounterError::Backend`] with the error of the backend, or with `InvalidValue` if the value
    /// of a key under `name/` is not a number. [`CounterError::SumOverflow`].
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn get(&self) -> Result<i64, CounterError> {
        let mut sum = 0_i128;
        for kv in self.client.get_prefix(&self.prefix).await? {
            let stripe = i64::decode(kv.value).map_err(|error| invalid(&kv.key, error))?;
            sum += i128::from(stripe);
        }
        let overflow = |_| CounterError::SumOverflow { prefix: self.prefix.clone(), sum };
        i64::try_from(sum).map_err(overflow)
    }

    /// Adds `n`, which may be negative, to one stripe.
    ///
    /// Cost: 2 requests, and 1 more for each conflict with an addition to the same stripe.
    ///
    /// # Errors
    /// As [`Counter::add`](super::Counter::add), for the stripe.
    ///
    /// # Cancel safety
    /// If the future is dropped during the commit, it is unknown whether `n` was added. Otherwise
    /// nothing was written.
    pub async fn add(&self, n: i64) -> Result<(), StmError<CounterError>> {
        let stripe = lock(&self.generator).usize(..self.stripes);
        let key = [&self.prefix[..], stripe.to_string().as_bytes()].concat();
        // All stripes share the idempotency keys of one `Stm`.
        let stripe = SharedValue::with_stm(&self.client, self.stm.clone(), key);
        add(&stripe, n).await.map(drop)
    }
}

impl fmt::Debug for StripedCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, stripes) = (self.prefix.escape_ascii(), self.stripes);
        write!(f, "StripedCounter(\"{prefix}\", {stripes} stripes)")
    }
}
