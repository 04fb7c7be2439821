//! Reads that wait for a store which has just failed to come back.

use std::time::Duration;

use tokio::time::sleep;

use crate::error::Result;

/// How long to leave a store alone that has just failed.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// Repeats a read while that may help, at growing intervals. The caller bounds it, by the life of
/// its session or by dropping it.
pub(crate) async fn patiently<T, F>(mut call: impl FnMut() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let mut wait = PAUSE;
    loop {
        match call().await {
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "trying again");
                sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(1));
            }
            answer => return answer,
        }
    }
}
