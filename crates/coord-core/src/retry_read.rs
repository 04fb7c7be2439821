//! Retrying reads while the store is unavailable.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::error::{Error, Result};

/// The pause after the first failure; it doubles up to [`LONGEST_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long one attempt may take: longer than any store takes that responds at all.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(10);

/// Retries a read, or the registration of a watch, until it succeeds or fails with an error that
/// another attempt cannot help. An attempt without a response is given up after 10 s.
///
/// The caller bounds the whole: by the life of its session, or by dropping the future.
pub(crate) async fn retry_read<T, F>(mut attempt: impl FnMut() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let result = timeout(ATTEMPT_WITHIN, attempt()).await;
        match result.unwrap_or(Err(Error::Timeout { after: ATTEMPT_WITHIN })) {
            Err(error) if error.is_retryable() => {
                let pause = backoff.next();
                tracing::debug!(%error, ?pause, "retrying a read");
                sleep(pause).await;
            }
            result => return result,
        }
    }
}
