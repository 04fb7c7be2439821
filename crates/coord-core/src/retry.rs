//! Reads that wait for a store which has just failed to come back.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};

/// How long to leave a store alone that has just failed.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// How long to wait for an answer before asking again: longer than any store takes that answers at
/// all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Repeats a read, or the registration of a watch, while that may help, at growing intervals. One
/// that is never answered is given up and asked again. The caller bounds it all, by the life of its
/// session or by dropping it.
pub(crate) async fn patiently<T, F>(mut call: impl FnMut() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let mut wait = PAUSE;
    loop {
        let answer = timeout(PATIENCE, call()).await;
        match answer.unwrap_or(Err(Error::Timeout { after: PATIENCE })) {
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "trying again");
                sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(1));
            }
            answer => return answer,
        }
    }
}
