//! The keys with a prefix, kept up to date by one read and one watch.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::error::Result;
use crate::key_watch::{next_batch, range_with_retry};
use crate::kv::{EventKind, KeyValue, Range, Revision, Watch, WatchBatch, Watcher};
use crate::retry_read::{RETRY_PAUSE_MIN, retry_read};

/// The keys with a prefix, as of one revision.
#[derive(Debug)]
pub(super) struct LiveKeys {
    client: Client,
    prefix: Bytes,
    /// A watch that delivers nothing for this time may have fallen silent: then the keys are read.
    silent_after: Duration,
    kvs: BTreeMap<Bytes, KeyValue>,
    revision: Revision,
    watcher: Option<Watcher>,
}

impl LiveKeys {
    /// Reads the keys.
    pub(super) async fn open(
        client: &Client,
        prefix: Bytes,
        silent_after: Duration,
    ) -> Result<Self> {
        let (kvs, revision) = (BTreeMap::new(), Revision::ZERO);
        let client = client.clone();
        let mut keys = Self { client, prefix, silent_after, kvs, revision, watcher: None };
        keys.read().await?;
        Ok(keys)
    }

    pub(super) const fn kvs(&self) -> &BTreeMap<Bytes, KeyValue> {
        &self.kvs
    }

    /// The revision of the keys.
    pub(super) const fn revision(&self) -> Revision {
        self.revision
    }

    /// Waits until the keys have changed. If the future is dropped, no change is missed.
    pub(super) async fn changed(&mut self) -> Result<()> {
        loop {
            let Some(watcher) = &mut self.watcher else {
                let watch = Watch::prefix(&self.prefix).start_at(self.revision.next());
                let backend = self.client.backend();
                self.watcher = Some(retry_read(|| backend.watch(watch.clone())).await?);
                continue;
            };
            match timeout(self.silent_after, next_batch(watcher)).await {
                Ok(Ok(Some(batch))) => {
                    if self.apply(batch) {
                        return Ok(());
                    }
                }
                // History may be compacted or replaced, or the store was unavailable.
                Ok(Ok(None)) => {
                    self.watcher = None;
                    sleep(RETRY_PAUSE_MIN).await;
                    if self.read().await? {
                        return Ok(());
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => {
                    if self.read().await? {
                        self.watcher = None;
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads the keys. Returns whether they have changed.
    async fn read(&mut self) -> Result<bool> {
        let read = range_with_retry(&**self.client.backend(), Range::prefix(&self.prefix)).await?;
        let kvs = read.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let is_changed = self.kvs != kvs;
        (self.kvs, self.revision) = (kvs, read.header.revision);
        Ok(is_changed)
    }

    /// Applies the events of one revision, or a progress notification. Returns whether the keys
    /// have changed.
    fn apply(&mut self, batch: WatchBatch) -> bool {
        if batch.revision <= self.revision {
            return false;
        }
        self.revision = batch.revision;
        let is_changed = !batch.events.is_empty();
        for event in batch.events {
            match event.kind {
                EventKind::Put => drop(self.kvs.insert(event.kv.key.clone(), event.kv)),
                EventKind::Delete => drop(self.kvs.remove(&event.kv.key)),
            }
        }
        is_changed
    }
}
