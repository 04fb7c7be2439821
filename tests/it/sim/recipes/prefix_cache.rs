//! Prefix caches under every fault: two writers, a reader, and a subscriber.
//!
//! At each revision that a subscriber receives, the cache has the keys of the store at that
//! revision, and the changes lead from the snapshot before to it. A consistent read is never older
//! than a write that was confirmed before it began.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{EventKind, KeyValue, Range, Revision, Watch, Watcher};
use coord_core::recipes::PrefixCache;
use coord_core::{Client, Error};
use coord_testkit::sim::{Fault, Process, Sim, Sweep, Weaken};
use tokio::time::{sleep, timeout};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};

const PREFIX: &str = "p/";
const LAST: &str = "p/last";

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    ReadDoesNotWait,
    ResumedAtLast,
    ResumedFromNow,
    DiffForgetsDeletions,
}

fn family_of_caches() -> Family {
    family("prefix cache", write_and_read)
        .mutant("a consistent read does not wait", Flaw::ReadDoesNotWait)
        .mutant("a resumed watch applies an event twice", Flaw::ResumedAtLast)
        .mutant("a resumed watch skips events", Flaw::ResumedFromNow)
        .mutant("the difference after a compaction has no deletions", Flaw::DiffForgetsDeletions)
        .weakened(Weaken::WatchSkipsEvents)
        .weakened(Weaken::StaleReads)
        .done()
}

/// The newest revision of a write that was confirmed.
type Confirmed = Arc<AtomicI64>;

type Keys = BTreeMap<Bytes, KeyValue>;

/// Changes of one key: before and after.
type Changes = Vec<(Bytes, Option<KeyValue>, Option<KeyValue>)>;

async fn write(process: Process, confirmed: Confirmed, first: u32) -> TaskResult {
    let client = process.client();
    for n in 0..8 {
        let (key, other) = (format!("p/{}", (first + n) % 4), format!("p/{}", (first + n + 1) % 4));
        let written = match n % 4 {
            1 => client.delete(other).await.map(|deleted| deleted.header),
            2 => client.put("other", n.to_string()).await.map(|put| put.header),
            _ => client.put(key, n.to_string()).await.map(|put| put.header),
        };
        if let Ok(header) = written {
            confirmed.fetch_max(header.revision.0, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(150)).await;
    }
    Ok(())
}

/// The keys of the store at a revision; `None` if it is compacted.
async fn stored(client: &Client, at: Revision) -> Option<Keys> {
    match client.range(Range::prefix(PREFIX).at(at)).await {
        Ok(read) => Some(read.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect()),
        Err(Error::Compacted { .. }) => None,
        Err(error) => panic!("the store of the run has no faults: {error}"),
    }
}

/// Fails the run unless the keys are those of the store.
async fn check(sim: &Sim, at: Revision, keys: impl Iterator<Item = &KeyValue> + Send) {
    let keys: Vec<_> = keys.cloned().collect();
    if let Some(stored) = stored(sim.client(), at).await
        && !stored.values().eq(&keys)
    {
        let (keys, stored) = (names(keys.iter()), names(stored.values()));
        sim.fail("cache", format!("at revision {at} the cache has {keys}, the store {stored}"));
    }
}

fn names<'a>(keys: impl Iterator<Item = &'a KeyValue>) -> String {
    let name = |kv: &KeyValue| format!("{}@{}", kv.key.escape_ascii(), kv.mod_revision);
    keys.map(name).collect::<Vec<_>>().join(" ")
}

/// Applies changes, which must follow from the keys.
fn replay(sim: &Sim, keys: &mut Keys, changes: Changes) {
    for (key, before, after) in changes {
        if keys.get(&key) != before.as_ref() || before == after {
            let key = key.escape_ascii();
            sim.fail(
                "changes",
                format!("a change of {key} does not follow from the change before"),
            );
        }
        match after {
            Some(kv) => drop(keys.insert(key, kv)),
            None => drop(keys.remove(&key)),
        }
    }
}

/// Fails the run if a consistent read is older than a write that was confirmed before it.
fn check_age(sim: &Sim, read: Revision, confirmed_before: i64) {
    if read.0 < confirmed_before {
        let text = format!("a read at revision {read}, after revision {confirmed_before}");
        sim.fail("consistent read", text);
    }
}

/// Reads consistently until the last key is there.
async fn read(sim: Sim, process: Process, confirmed: Confirmed, flaw: Option<Flaw>) -> TaskResult {
    if flaw.is_some() {
        return follow_wrongly(&sim, &process, &confirmed, flaw).await;
    }
    let cache = PrefixCache::open(process.client(), PREFIX).await?;
    loop {
        let before = confirmed.load(Ordering::Relaxed);
        match cache.read().await {
            Ok(snapshot) => {
                check_age(&sim, snapshot.revision(), before);
                check(&sim, snapshot.revision(), snapshot.iter()).await;
                if snapshot.get(LAST).is_some() {
                    return Ok(());
                }
            }
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error.into()),
        }
        sleep(Duration::from_millis(40)).await;
    }
}

/// Replays the changes until the last key is there.
async fn subscribe(sim: Sim, process: Process) -> TaskResult {
    let cache = PrefixCache::open(process.client(), PREFIX).await?;
    let mut changes = cache.changes();
    let mut keys: Keys = changes.snapshot().iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
    while !keys.contains_key(LAST.as_bytes()) {
        let update = changes.next().await.ok_or("the stream has ended")??;
        sim.sometimes("a gap is reported", update.gap().is_some());
        let change = |change: &coord_core::recipes::KeyChange| {
            (change.key.clone(), change.before.clone(), change.after.clone())
        };
        replay(&sim, &mut keys, update.changes().iter().map(change).collect());
        if !keys.values().eq(changes.snapshot().iter()) {
            sim.fail("changes", "the changes do not lead to the snapshot");
        }
        check(&sim, update.revision(), changes.snapshot().iter()).await;
    }
    Ok(())
}

/// A cache with a flaw, and what a subscriber has replayed.
struct WrongCache {
    keys: Keys,
    replayed: Keys,
    revision: Revision,
}

impl WrongCache {
    /// Reads the keys, with the difference to those before.
    async fn read(&mut self, sim: &Sim, client: &Client, flaw: Option<Flaw>) {
        let read = loop {
            match client.range(Range::prefix(PREFIX)).await {
                Ok(read) => break read,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        self.revision = read.header.revision;
        let new: Keys = read.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let old = std::mem::replace(&mut self.keys, new);
        let mut changed: Vec<_> = self.keys.keys().cloned().collect();
        if flaw != Some(Flaw::DiffForgetsDeletions) {
            changed.extend(old.keys().filter(|key| !self.keys.contains_key(*key)).cloned());
        }
        let change = |key: Bytes| {
            let (before, after) = (old.get(&key).cloned(), self.keys.get(&key).cloned());
            (key, before, after)
        };
        let changes = changed.into_iter().map(change).filter(|(_, a, b)| a != b).collect();
        replay(sim, &mut self.replayed, changes);
        self.check(sim).await;
    }

    /// Applies the next batch of a watch. Returns `None` if the watch has ended.
    async fn apply(&mut self, sim: &Sim, watch: &mut Watcher) -> Option<Result<(), Error>> {
        let batch = match watch.next().await? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error)),
        };
        let mut changes = Changes::new();
        for event in batch.events {
            let key = event.kv.key.clone();
            let after = (event.kind == EventKind::Put).then_some(event.kv);
            let before = match &after {
                Some(kv) => self.keys.insert(key.clone(), kv.clone()),
                None => self.keys.remove(&key),
            };
            changes.push((key, before, after));
        }
        self.revision = batch.revision;
        replay(sim, &mut self.replayed, changes);
        self.check(sim).await;
        Some(Ok(()))
    }

    async fn check(&self, sim: &Sim) {
        if !self.keys.values().eq(self.replayed.values()) {
            sim.fail("changes", "the changes do not lead to the snapshot");
        }
        check(sim, self.revision, self.keys.values()).await;
    }
}

async fn follow_wrongly(
    sim: &Sim,
    process: &Process,
    confirmed: &Confirmed,
    flaw: Option<Flaw>,
) -> TaskResult {
    let client = process.client();
    let mut cache =
        WrongCache { keys: Keys::new(), replayed: Keys::new(), revision: Revision::ZERO };
    cache.read(sim, client, flaw).await;
    let mut start = Some(cache.revision.next());
    while !cache.keys.contains_key(LAST.as_bytes()) {
        let watch = Watch::prefix(PREFIX).start_at(start);
        let end = match client.watch(watch).await {
            Ok(mut watch) => loop {
                if flaw == Some(Flaw::ReadDoesNotWait) {
                    check_age(sim, cache.revision, confirmed.load(Ordering::Relaxed));
                }
                match timeout(Duration::from_millis(40), cache.apply(sim, &mut watch)).await {
                    Ok(Some(Ok(()))) if cache.keys.contains_key(LAST.as_bytes()) => return Ok(()),
                    Ok(Some(Ok(()))) | Err(_) => {}
                    Ok(Some(Err(error))) => break Some(error),
                    Ok(None) => break None,
                }
            },
            Err(error) => Some(error),
        };
        sleep(Duration::from_millis(100)).await;
        if matches!(end, Some(Error::Compacted { .. })) {
            cache.read(sim, client, flaw).await;
        }
        start = match flaw {
            Some(Flaw::ResumedAtLast) => Some(cache.revision),
            Some(Flaw::ResumedFromNow) => None,
            _ => Some(cache.revision.next()),
        };
    }
    Ok(())
}

async fn write_and_read(sim: Sim, flaw: Option<Flaw>) {
    let confirmed = Confirmed::default();
    let writers = ["writer-1", "writer-2"];
    for (name, first) in writers.into_iter().zip(0..) {
        let confirmed = Arc::clone(&confirmed);
        sim.spawn(name, move |process| write(process, confirmed, first));
    }
    let reader = sim.clone();
    sim.spawn("reader", move |process| read(reader, process, confirmed, flaw));
    if flaw.is_none() {
        let subscriber = sim.clone();
        sim.spawn("subscriber", move |process| subscribe(subscriber, process));
    }
    while writers.iter().any(|name| sim.exit(name).is_none()) {
        sleep(Duration::from_millis(100)).await;
    }
    // A delayed request may still arrive.
    sim.heal();
    sleep(Duration::from_secs(30)).await;
    sim.client().put(LAST, "").await.unwrap();
    sim.join().await;
}

#[test]
fn cache_equals_the_store_under_every_fault() {
    let name = "cache_equals_the_store_under_every_fault";
    // No process has a lease.
    let sweep = Sweep::new(name).seeds(SEEDS).check_store();
    let sweep = sweep.without(Fault::LeaderChange).without(Fault::ClockDrift);
    print(name, &sweep.run(|sim| write_and_read(sim, None)));
}

#[test]
fn prefix_cache_mutants_are_caught() {
    assert_caught(&family_of_caches());
}
