//! A cache of configuration that a watch keeps up to date, and its wrong variants.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coord_core::Error;
use coord_core::kv::{EventKind, KeyValue, Range, Revision, Watch};
use coord_testkit::sim::{Process, Sim, Weaken};
use tokio::time::sleep;

use super::{Family, TaskResult, family};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    ResumedAtLast,
    ResumedFromNow,
    CompactionIgnored,
}

pub(super) fn caches() -> Family {
    family("cache kept by a watch", write_and_follow)
        .mutant("the watch is resumed at the last revision", Flaw::ResumedAtLast)
        .mutant("the watch is resumed from now on", Flaw::ResumedFromNow)
        .mutant("a compacted watch is not followed by a read", Flaw::CompactionIgnored)
        .weakened(Weaken::WatchSkipsEvents)
        .weakened(Weaken::WatchRepeatsEvents)
        .done()
}

const CONFIG: &str = "config/";
const LAST: &str = "config/last";

/// How often each key was put, according to the events.
#[derive(Default)]
struct Cache {
    versions: BTreeMap<Bytes, i64>,
    /// The newest revision that the cache includes.
    revision: Revision,
}

impl Cache {
    async fn read(process: &Process) -> Self {
        loop {
            if let Ok(read) = process.client().range(Range::prefix(CONFIG)).await {
                let version = |kv: KeyValue| (kv.key, kv.version);
                let versions = read.kvs.into_iter().map(version).collect();
                return Self { versions, revision: read.header.revision };
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn is_complete(&self) -> bool {
        self.versions.contains_key(LAST.as_bytes())
    }

    /// Applies the batches of a watch until it ends, or the cache is complete.
    async fn follow(&mut self, process: &Process, start: Option<Revision>) -> TaskResult<()> {
        let mut watch = process.client().watch(Watch::prefix(CONFIG).start_at(start)).await?;
        while !self.is_complete() {
            let batch = watch.next().await.ok_or("the watch has ended")??;
            for event in batch.events {
                if event.kind == EventKind::Put {
                    *self.versions.entry(event.kv.key).or_default() += 1;
                }
            }
            self.revision = batch.revision;
        }
        Ok(())
    }
}

/// Keeps a cache until it has the last key.
async fn keep_cache(process: &Process, flaw: Option<Flaw>) -> Cache {
    let mut cache = Cache::read(process).await;
    let mut start = Some(cache.revision.next());
    while let Err(error) = cache.follow(process, start).await {
        sleep(Duration::from_millis(100)).await;
        let is_compacted = matches!(error.downcast_ref::<Error>(), Some(Error::Compacted { .. }));
        start = match flaw {
            Some(Flaw::ResumedFromNow) => None,
            Some(Flaw::CompactionIgnored) if is_compacted => None,
            Some(Flaw::ResumedAtLast) if !is_compacted => Some(cache.revision),
            _ => {
                if is_compacted {
                    cache = Cache::read(process).await;
                }
                Some(cache.revision.next())
            }
        };
    }
    cache
}

async fn write_and_follow(sim: Sim, flaw: Option<Flaw>) {
    sim.spawn("writer", |process| async move {
        for i in 0..8 {
            sleep(Duration::from_millis(300)).await;
            process.client().put(format!("{CONFIG}{}", i % 3), i.to_string()).await?;
        }
        TaskResult::Ok(())
    });
    let reader = sim.clone();
    sim.spawn("reader", move |process| async move {
        let cache = keep_cache(&process, flaw).await;
        for kv in reader.client().get_prefix(CONFIG).await.unwrap() {
            let counted = cache.versions.get(&kv.key).copied().unwrap_or_default();
            if counted != kv.version {
                let key = kv.key.escape_ascii();
                let text = format!("{counted} puts of {key} were delivered of {}", kv.version);
                reader.fail("cache", text);
            }
        }
    });
    while sim.exit("writer").is_none() {
        sleep(Duration::from_millis(100)).await;
    }
    // A request of the writer may still be on its way, for 10 s at most without faults.
    sim.heal();
    sleep(Duration::from_secs(15)).await;
    sim.client().put(LAST, "").await.unwrap();
    sim.join().await;
}
