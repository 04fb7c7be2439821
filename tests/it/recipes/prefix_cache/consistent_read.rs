//! Consistent reads: what they contain, how long they take, and what they do about a silent watch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::kv::WatchBatch;
use coord_core::recipes::PrefixCacheError;
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule};
use futures_util::future::join_all;
use tokio::time::sleep;

use super::{open, put, with_hanging_ranges};
use crate::support::{intercepted, only, secs, settle, timed};
use crate::watch_faults::LateWatches;

/// A rule under which the first watch delivers nothing.
struct FirstWatchIsSilent {
    recorder: Recorder,
    watches: AtomicUsize,
}

impl Rule for FirstWatchIsSilent {
    fn action(&self, call: &Call) -> Action {
        if matches!(call, Call::Watch(_)) {
            self.watches.fetch_add(1, Ordering::Relaxed);
        }
        self.recorder.action(call)
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        self.watches.load(Ordering::Relaxed) > 1
    }
}

#[tokio::test(start_paused = true)]
async fn consistent_read_contains_every_confirmed_write() {
    let store = Client::new(MemBackend::new());
    let cache = open(&store).await;
    for n in 0..50 {
        put(&store, "p/a", &n.to_string()).await;
        if n % 3 == 0 {
            put(&store, "other", "").await;
        }
        let read = cache.read().await.unwrap();
        assert_eq!(read.get("p/a").unwrap().value, n.to_string());
    }
}

/// Events arrive 300 ms late, as on a stale member; the read waits for them.
#[tokio::test(start_paused = true)]
async fn consistent_read_waits_for_late_events() {
    let store = MemBackend::new();
    let late = LateWatches::new(store.clone(), Duration::from_millis(300));
    let (cache, store) = (open(&Client::new(late)).await, Client::new(store));
    settle().await;
    put(&store, "p/a", "1").await;
    assert_eq!(cache.get("p/a"), None, "the event is on its way");
    let (read, waited) = timed(cache.read()).await;
    assert_eq!(read.unwrap().get("p/a").unwrap().value, "1");
    assert_eq!(waited, Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn many_consistent_reads_share_requests_for_progress() {
    let store = MemBackend::new();
    let recorder = Recorder::new();
    let late = LateWatches::new(store.clone(), Duration::from_millis(50));
    let progress = late.progress_requests();
    let cache = open(&intercepted(&Client::new(late), recorder.clone())).await;
    settle().await;
    put(&Client::new(store), "other", "").await;
    recorder.take();
    let reads = join_all((0..100).map(|_| cache.read())).await;
    assert!(reads.iter().all(Result::is_ok));
    assert_eq!(recorder.take().count("range"), 100, "one small request each");
    assert!(progress.load(Ordering::Relaxed) <= 2, "{progress:?} requests for progress");
}

/// Reads that begin one after another, while the first request has no response yet.
#[tokio::test(start_paused = true)]
async fn staggered_consistent_reads_share_requests_for_progress() {
    let store = MemBackend::new();
    let late = LateWatches::new(store.clone(), Duration::from_millis(50));
    let progress = late.progress_requests();
    let cache = open(&Client::new(late)).await;
    settle().await;
    put(&Client::new(store), "other", "").await;
    let reads = join_all((0..45).map(async |n| {
        sleep(Duration::from_millis(n)).await;
        cache.read().await
    }));
    assert!(reads.await.iter().all(Result::is_ok));
    assert!(progress.load(Ordering::Relaxed) <= 2, "{progress:?} requests for progress");
}

/// The watch has fallen silent. It is replaced after 5 s, within the bound of the read.
#[tokio::test(start_paused = true)]
async fn consistent_read_replaces_a_silent_watch() {
    let store = Client::new(MemBackend::new());
    let recorder = Recorder::new();
    let rule = FirstWatchIsSilent { recorder: recorder.clone(), watches: AtomicUsize::new(0) };
    let cache = open(&intercepted(&store, rule)).await;
    settle().await;
    put(&store, "p/a", "1").await;
    let (read, waited) = timed(cache.read()).await;
    assert_eq!(read.unwrap().get("p/a").unwrap().value, "1");
    assert!(waited >= secs(5) && waited < secs(6), "{waited:?}");
    assert_eq!(recorder.take().names(), "range watch range watch");
}

#[tokio::test(start_paused = true)]
async fn consistent_read_fails_after_its_bound_and_is_retryable() {
    let store = Client::new(MemBackend::new());
    let (client, hang) = with_hanging_ranges(&store);
    let cache = open(&client).await;
    put(&store, "p/a", "1").await;
    hang.store(true, Ordering::Relaxed);
    let (read, waited) = timed(cache.read()).await;
    let error = read.unwrap_err();
    assert!(matches!(error, PrefixCacheError::Backend(Error::Timeout { .. })), "{error}");
    assert!(error.is_retryable());
    assert_eq!(waited, secs(10));
    hang.store(false, Ordering::Relaxed);
    assert_eq!(cache.read().await.unwrap().len(), 1, "the cache continues");
}

#[tokio::test(start_paused = true)]
async fn staleness_is_the_time_since_the_last_confirmation() {
    let store = Client::new(MemBackend::new());
    let cache = open(&store).await;
    sleep(secs(30)).await;
    assert_eq!(cache.staleness(), secs(30));
    put(&store, "p/a", "1").await;
    settle().await;
    assert!(cache.staleness() > secs(30), "an event confirms nothing");
    cache.read().await.unwrap();
    assert_eq!(cache.staleness(), Duration::ZERO);
    // The verification once in 55 s confirms too.
    for _ in 0..10 {
        sleep(secs(30)).await;
        put(&store, "other", "").await;
        assert!(cache.staleness() <= secs(56), "{:?}", cache.staleness());
    }
    let broken = open(&intercepted(&store, only("watch", Action::Hang))).await;
    put(&store, "p/a", "2").await;
    sleep(secs(200)).await;
    assert_eq!(broken.staleness(), secs(200), "the watch cannot be registered");
}
