//! Watches a key until it is deleted, and detects the end of a watch.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::backend::KvBackend;
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::kv::{Range, RangeResponse, Revision, Watch, WatchBatch, WatchFilter, Watcher};
use crate::retry_request::{RETRY_PAUSE_MIN, retry_request};

/// Waits until the key with the create revision `created` is surely deleted.
///
/// The watch starts after that revision. After a read of the key, a new watch starts after the
/// revision of the read, so no deletion is missed. A watch that delivers nothing for `silent_after`
/// may have fallen silent, so this function then reads the key. If a watch has ended, the function
/// registers another one, after pauses of up to `pause_max`.
pub(crate) async fn wait_deleted(
    backend: &dyn KvBackend,
    key: &Bytes,
    created: Revision,
    silent_after: Duration,
    pause_max: Duration,
) {
    let mut from = created;
    let mut watcher = None;
    let mut backoff = Backoff::new(RETRY_PAUSE_MIN, pause_max);
    loop {
        if watcher.is_none() {
            let watch = Watch::new(key).start_at(from.next());
            watcher = watch_deletions(backend, watch).await.ok();
        }
        let delivered = match &mut watcher {
            Some(watcher) => timeout(silent_after, watcher.next()).await,
            None => Ok(None),
        };
        match delivered {
            Ok(Some(Ok(batch))) if !batch.events.is_empty() => return,
            Ok(Some(Ok(_))) | Err(_) => backoff.reset(),
            Ok(Some(Err(_)) | None) => {
                watcher = None;
                sleep(backoff.next()).await;
            }
        }
        if let Ok(read) = range_with_retry(backend, Range::new(key).keys_only()).await {
            if read.kvs.first().is_none_or(|kv| kv.create_revision != created) {
                return;
            }
            from = read.header.revision;
        }
    }
}

/// Reads a range, with retries while the store is unavailable.
pub(crate) async fn range_with_retry(
    backend: &dyn KvBackend,
    range: Range,
) -> Result<RangeResponse> {
    retry_request(|| backend.range(range.clone())).await
}

/// Registers a watch of deletions, with retries while the store is unavailable.
pub(crate) async fn watch_deletions(backend: &dyn KvBackend, watch: Watch) -> Result<Watcher> {
    let watch = watch.filter(WatchFilter::NoPut);
    retry_request(|| backend.watch(watch.clone())).await
}

/// Waits for the next batch of a watch; `None` if the watch has ended, and the caller must read
/// again: history was compacted or replaced, or the store was unavailable.
pub(crate) async fn next_batch(watcher: &mut Watcher) -> Result<Option<WatchBatch>> {
    match watcher.next().await {
        Some(Ok(batch)) => Ok(Some(batch)),
        None | Some(Err(Error::Compacted { .. } | Error::HistoryReplaced { .. })) => Ok(None),
        Some(Err(error)) if error.is_retryable() => Ok(None),
        Some(Err(error)) => Err(error),
    }
}
