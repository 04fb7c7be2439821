//! The ground truth of a recording: the changes of the store, from a watch.
//!
//! ```text
//! revision   4                5           6           7
//! store      x, y exist       delete x    put z       put x
//!            | start                                  | catch_up
//! recorded   x@2, y@4         x deleted   z           x
//! ```
//!
//! A watch reports revisions and no times: an attempt with an unknown outcome that was applied may
//! have been applied at any time after it was sent.

use std::collections::BTreeMap;
use std::time::Duration;

use coord_core::kv::{KeyRange, Range, Revision, Watch, WatchBatch, Watcher};
use coord_core::{Client, Error, Result};
use tokio::time::sleep;

use super::{EventKind, HistoryRecorder, KeyWrite, StoreChange};

/// The pause before progress is requested again from a stale member.
const PROGRESS_PAUSE: Duration = Duration::from_millis(10);

/// Records the changes of a store, with deletions, as [`Changed`](super::EventKind::Changed)
/// events: made by [`HistoryRecorder::watch_changes`].
///
/// The keys that exist at the start are recorded as changes at their mod revisions, without other
/// keys that these revisions have changed. From then on every change of the namespace is recorded,
/// of idempotency keys and queue keys as well.
///
/// Call [`catch_up`](Self::catch_up) at the end of the recording; in a long recording also
/// meanwhile, because the changes wait in the watch until then, and may be compacted in the store.
#[derive(Debug)]
pub struct ChangeRecorder {
    recorder: HistoryRecorder,
    client: Client,
    watch: Watcher,
    /// All changes up to this revision are recorded.
    recorded: Revision,
    /// The error that has ended the recording.
    failure: Option<Error>,
}

impl ChangeRecorder {
    pub(super) async fn start(recorder: HistoryRecorder, client: &Client) -> Result<Self> {
        let watch = client.watch(Watch::new(KeyRange::all())).await?;
        let recorded = watch.header().revision;
        let existing = client.range(Range::new(KeyRange::all()).at(recorded)).await?;
        let mut changes = BTreeMap::<_, Vec<_>>::new();
        for kv in existing.kvs {
            let write = KeyWrite { key: kv.key, value: Some(kv.value) };
            changes.entry(kv.mod_revision).or_default().push(write);
        }
        for (revision, writes) in changes {
            record(&recorder, StoreChange { revision, writes });
        }
        Ok(Self { recorder, client: client.clone(), watch, recorded, failure: None })
    }

    /// Records all changes that were made before this call, and returns the revision up to which
    /// all changes are recorded.
    ///
    /// # Errors
    /// As [`KvBackend::range`](coord_core::KvBackend::range) and [`Watcher::next`]. After an error
    /// of the watch, such as `Compacted`, or `HistoryReplaced` if an older backup of the store was
    /// restored, changes are missing, and every call whose read succeeds returns that error.
    ///
    /// # Cancel safety
    /// Safe: the next call continues.
    pub async fn catch_up(&mut self) -> Result<Revision> {
        // The read is linearizable, so its revision is not below that of any earlier change.
        let current = self.client.range(Range::new("coord").count_only()).await?.header.revision;
        if self.failure.is_none() && current < self.recorded {
            self.failure = Some(Error::HistoryReplaced { newest: self.recorded, found: current });
        }
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        while self.recorded < current {
            self.watch.request_progress();
            while self.recorded < current {
                let batch = self.next_batch().await?;
                self.recorded = self.recorded.max(batch.revision);
                if batch.events.is_empty() {
                    break;
                }
                record(&self.recorder, batch.into());
            }
            if self.recorded < current {
                sleep(PROGRESS_PAUSE).await;
            }
        }
        Ok(self.recorded)
    }

    async fn next_batch(&mut self) -> Result<WatchBatch> {
        match self.watch.next().await {
            Some(Ok(batch)) => Ok(batch),
            Some(Err(error)) => {
                self.failure = Some(error.clone());
                Err(error)
            }
            None => unreachable!("a watch ends only after an error"),
        }
    }
}

fn record(recorder: &HistoryRecorder, change: StoreChange) {
    recorder.push(recorder.now(), None, EventKind::Changed(change));
}

#[cfg(test)]
mod tests {
    use coord_core::error::ErrorKind;
    use coord_mem::MemBackend;

    use super::*;

    /// Regression: after an older backup was restored, `catch_up` returned the newest revision of
    /// the former history until the new one had passed it.
    #[tokio::test(start_paused = true)]
    async fn restored_backup_ends_the_recording() {
        for puts_after_the_restoration in [0, 1, 5] {
            let store = MemBackend::new();
            let client = Client::new(store.clone());
            let recorder = HistoryRecorder::new();
            let mut changes = recorder.watch_changes(&client).await.unwrap();
            let backup = store.backup();
            for _ in 0..3 {
                client.put("x", "1").await.unwrap();
            }
            changes.catch_up().await.unwrap();
            store.restore(&backup);
            for _ in 0..puts_after_the_restoration {
                client.put("x", "2").await.unwrap();
            }
            for _ in 0..2 {
                let error = changes.catch_up().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::HistoryReplaced, "{error}");
            }
        }
    }
}
