//! Retries of reads, and of other requests that are safe to repeat, while the store is unavailable.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::telemetry::request as events;

/// The pause after the first failure; it doubles up to [`RETRY_PAUSE_MAX`].
pub(crate) const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
pub(crate) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long one attempt may take. A store that responds at all responds sooner.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Retries a request until it succeeds or fails with an error that is not retryable. An attempt
/// without a response times out after 10 s.
///
/// The request must be safe to repeat, such as a read, the registration of a watch, the revocation
/// of a lease, or a transaction whose condition makes a second application a no-op. The caller
/// bounds the total time, by the life of its session or by dropping the future.
pub(crate) async fn retry_request<T, F>(mut attempt: impl FnMut() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let mut backoff = Backoff::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
    loop {
        let result = timeout(ATTEMPT_TIMEOUT, attempt()).await;
        match result.unwrap_or(Err(Error::Timeout { after: ATTEMPT_TIMEOUT })) {
            Err(error) if error.is_retryable() => {
                let pause = backoff.next();
                events::retrying(&error, pause);
                sleep(pause).await;
            }
            result => return result,
        }
    }
}
