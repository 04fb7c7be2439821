//! Resynchronization: after a watch that has ended, a compaction, and a replaced history.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use coord_core::kv::{Compact, Watch, WatchBatch, WatchStream, Watcher};
use coord_core::layer::Layer;
use coord_core::recipes::{GapCause, PrefixCache, PrefixChanges};
use coord_core::{Client, Error, KvBackend as _, Result};
use coord_mem::MemBackend;
use coord_testkit::Recorder;
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Sleep, sleep, timeout};

use super::changes::Replica;
use super::{entries, open, put, stored, with_hanging_ranges};
use crate::support::{ReplaceableStore, intercepted, newest_revision, secs, settle};
use crate::watch_faults::{WatchFaults, short_first_watch};

/// Applies all updates that are available. Returns the causes of their gaps.
async fn replay(changes: &mut PrefixChanges, replica: &mut Replica) -> Vec<GapCause> {
    let mut causes = Vec::new();
    while let Ok(Some(update)) = timeout(secs(1), changes.next()).await {
        let update = update.unwrap();
        replica.apply(&update);
        causes.extend(update.gap().map(|gap| gap.cause));
    }
    replica.assert_is(changes);
    causes
}

/// A watch that ends, with an error or without, is resumed, and no change is missing.
#[tokio::test(start_paused = true)]
async fn watch_that_ends_is_resumed_without_a_gap() {
    for error in [None, Some(Error::Timeout { after: secs(1) })] {
        let store = MemBackend::new();
        let lifetime = (Duration::from_millis(30), error);
        let faulty = WatchFaults::new(store.clone(), move || lifetime.clone());
        let cache = open(&Client::new(faulty)).await;
        let mut changes = cache.changes();
        let mut replica = Replica::of(&changes);
        let store = Client::new(store);
        for n in 0..40 {
            put(&store, &format!("p/{}", n % 3), &n.to_string()).await;
            sleep(Duration::from_millis(20)).await;
        }
        let causes = replay(&mut changes, &mut replica).await;
        assert_eq!(causes, []);
        assert_eq!(entries(&cache.read().await.unwrap()), stored(&store, "p/").await);
    }
}

#[tokio::test(start_paused = true)]
async fn compaction_yields_the_difference_with_a_gap() {
    // The first watch ends after a second, without an event.
    let store = MemBackend::new();
    let faulty = WatchFaults::new(store.clone(), short_first_watch(secs(1)));
    let store = Client::new(store);
    for key in ["p/kept", "p/changed", "p/deleted"] {
        put(&store, key, "1").await;
    }
    let cache = open(&Client::new(faulty)).await;
    let mut changes = cache.changes();
    let mut replica = Replica::of(&changes);
    settle().await;
    sleep(Duration::from_millis(820)).await;
    // The watch has ended, and the next watch is not registered yet.
    put(&store, "p/changed", "2").await;
    put(&store, "p/created", "1").await;
    put(&store, "p/short", "1").await;
    store.delete("p/short").await.unwrap();
    store.delete("p/deleted").await.unwrap();
    let revision = put(&store, "other", "").await;
    store.compact(Compact::new(revision)).await.unwrap();

    let update = changes.next().await.unwrap().unwrap();
    let keys: Vec<_> = update.changes().iter().map(|change| &change.key[..]).collect();
    assert_eq!(keys, [&b"p/changed"[..], b"p/created", b"p/deleted"]);
    let gap = update.gap().expect("changes are merged");
    assert_eq!((gap.cause, gap.until), (GapCause::Compacted, revision));
    replica.apply(&update);
    put(&store, "p/changed", "3").await;
    assert_eq!(replay(&mut changes, &mut replica).await, []);
    assert_eq!(entries(changes.snapshot()), stored(&store, "p/").await);
}

/// A layer whose watches deliver events late, and progress notifications at once, as those of an
/// etcd that reports progress that it has not reached.
#[derive(Debug)]
struct UnprovenProgress(MemBackend);

#[async_trait]
impl Layer for UnprovenProgress {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        &self.0
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        let watch = self.0.watch(request).await?;
        Ok(Watcher::new(watch.header(), OvertakenWatch { watch, late: None }))
    }
}

struct OvertakenWatch {
    watch: Watcher,
    late: Option<(WatchBatch, Pin<Box<Sleep>>)>,
}

impl Stream for OvertakenWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while let Poll::Ready(next) = self.watch.poll_next_unpin(cx) {
            match next {
                Some(Ok(batch)) if !batch.events.is_empty() => {
                    let arrives = Box::pin(sleep(Duration::from_millis(300)));
                    self.late = Some((batch, arrives));
                }
                next => return Poll::Ready(next),
            }
        }
        if let Some((_, arrives)) = &mut self.late {
            ready!(arrives.as_mut().poll(cx));
        }
        match self.late.take() {
            Some((batch, _)) => Poll::Ready(Some(Ok(batch))),
            None => Poll::Pending,
        }
    }
}

impl WatchStream for OvertakenWatch {
    fn request_progress(mut self: Pin<&mut Self>) {
        self.watch.request_progress();
    }
}

/// An event of a revision that a progress notification has overtaken.
#[tokio::test(start_paused = true)]
async fn event_after_a_later_progress_notification_is_not_lost() {
    let mem = MemBackend::new();
    let store = Client::new(mem.clone());
    let cache = open(&Client::new(UnprovenProgress(mem))).await;
    let mut changes = cache.changes();
    let mut replica = Replica::of(&changes);
    settle().await;
    let revision = put(&store, "p/a", "1").await;
    put(&store, "other", "1").await;
    assert!(
        cache.read().await.unwrap().is_empty(),
        "the store reports progress that it has not reached"
    );
    let update = changes.next().await.unwrap().unwrap();
    let gap = update.gap().expect("the keys were read again");
    assert_eq!((gap.cause, gap.after.next()), (GapCause::OutOfOrder, revision));
    replica.apply(&update);
    assert_eq!(replay(&mut changes, &mut replica).await, []);
    assert_eq!(entries(&cache.snapshot()), stored(&store, "p/").await);
}

/// An older backup is restored: the revision goes back, and the keys are those of the backup.
#[tokio::test(start_paused = true)]
async fn replaced_history_yields_the_difference_with_a_gap() {
    let mem = MemBackend::new();
    let store = Client::new(mem.clone());
    put(&store, "p/a", "1").await;
    put(&store, "p/b", "1").await;
    let backup = mem.backup();
    let cache = open(&store).await;
    let mut changes = cache.changes();
    let mut replica = Replica::of(&changes);
    put(&store, "p/a", "2").await;
    store.delete("p/b").await.unwrap();
    let before = put(&store, "p/c", "1").await;
    assert_eq!(replay(&mut changes, &mut replica).await, []);

    mem.restore(&backup);
    assert_eq!(replay(&mut changes, &mut replica).await, [GapCause::HistoryReplaced]);
    assert!(cache.revision() < before);
    assert_eq!(entries(&cache.snapshot()), stored(&store, "p/").await);
    let new = put(&store, "p/d", "1").await;
    assert!(cache.wait_for(new).await.unwrap().get("p/d").is_some());
}

/// A cache that is opened after 20 changes, on a store whose watches do not detect that its history
/// is replaced, as those of etcd.
async fn replaceable() -> (ReplaceableStore, PrefixCache) {
    let store = ReplaceableStore::new(MemBackend::new());
    for n in 0..20 {
        put(&store.client(), &format!("p/{}", n % 4), &n.to_string()).await;
    }
    let cache = open(&store.client()).await;
    settle().await;
    (store, cache)
}

/// A consistent read detects at once that the revision of the store went back.
#[tokio::test(start_paused = true)]
async fn consistent_read_detects_a_replaced_history() {
    let (store, cache) = replaceable().await;
    let new = MemBackend::new();
    put(&Client::new(new.clone()), "p/new", "1").await;
    store.replace(new);
    let read = cache.read().await.unwrap();
    assert_eq!(entries(&read), stored(&store.client(), "p/").await);
    assert_eq!(entries(&cache.snapshot()).into_keys().collect::<Vec<_>>(), ["p/new"]);
}

/// The new store has more revisions than the cache has seen. The verification compares the keys as
/// of the revision of the cache.
#[tokio::test(start_paused = true)]
async fn verification_detects_a_replaced_history_that_is_longer() {
    let (store, cache) = replaceable().await;
    let mut changes = cache.changes();
    let mut replica = Replica::of(&changes);
    let longer = MemBackend::new();
    for n in 0..100 {
        put(&Client::new(longer.clone()), &format!("p/{}", n % 5), &n.to_string()).await;
    }
    store.replace(longer);
    sleep(secs(60)).await;
    assert_eq!(replay(&mut changes, &mut replica).await, [GapCause::HistoryReplaced]);
    let store = store.client();
    assert_eq!(entries(&cache.read().await.unwrap()), stored(&store, "p/").await);
    assert_eq!(cache.revision(), newest_revision(&store).await);
}

/// While a verification gets no response, the watch still delivers changes.
#[tokio::test(start_paused = true)]
async fn verification_without_a_response_delays_no_change() {
    let store = Client::new(MemBackend::new());
    let (client, hang) = with_hanging_ranges(&store);
    let cache = open(&client).await;
    hang.store(true, Ordering::Relaxed);
    for n in 0..20 {
        sleep(secs(10)).await;
        put(&store, "p/a", &n.to_string()).await;
        settle().await;
        assert_eq!(cache.get("p/a").unwrap().value, n.to_string(), "after {n} changes");
    }
    assert!(cache.staleness() >= secs(200), "the verification does not succeed");
    hang.store(false, Ordering::Relaxed);
    sleep(secs(15)).await;
    assert!(cache.staleness() <= secs(15), "{:?}", cache.staleness());
}

/// The verification of a cache whose revision is compacted does not read the prefix again.
#[tokio::test(start_paused = true)]
async fn verification_continues_after_a_compaction() {
    let store = Client::new(MemBackend::new());
    put(&store, "p/a", "1").await;
    let recorder = Recorder::new();
    let cache = open(&intercepted(&store, recorder.clone())).await;
    settle().await;
    recorder.take();
    for n in 0..10 {
        put(&store, "other", &n.to_string()).await;
    }
    store.compact(Compact::new(newest_revision(&store).await)).await.unwrap();
    sleep(secs(60)).await;
    assert_eq!(recorder.take().names(), "range range", "the key that was changed last; revision");
    assert_eq!(cache.revision(), newest_revision(&store).await);
    assert!(cache.staleness() < secs(6));
    sleep(secs(55)).await;
    assert_eq!(recorder.take().names(), "range", "one request in 55 s");
}
