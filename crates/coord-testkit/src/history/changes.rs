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
    /// The error that has ended the watch.
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
    /// of the watch, such as `Compacted`, changes are missing, and every call returns that error.
    ///
    /// # Cancel safety
    /// Safe: the next call continues.
    pub async fn catch_up(&mut self) -> Result<Revision> {
        // The read is linearizable, so its revision is not below that of any earlier change.
        let current = self.client.range(Range::new("coord").count_only()).await?.header.revision;
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
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
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
