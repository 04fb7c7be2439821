//! The prefix cache: reads from memory, waits for a revision, and its requests.

mod changes;
mod consistent_read;
mod resync;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_core::kv::{Op, Put, Revision, Txn};
use coord_core::recipes::{PrefixCache, PrefixCacheError, PrefixSnapshot};
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder};
use tokio::time::{sleep, timeout};

use crate::support::{intercepted, newest_revision, only, secs, separate_client, settle, timed};

/// The keys and values of a snapshot.
fn entries(snapshot: &PrefixSnapshot) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    snapshot.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

/// The keys and values of the store.
async fn stored(store: &Client, prefix: &str) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kvs = store.get_prefix(prefix.to_owned()).await.unwrap();
    kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

/// A client whose ranges get no response while the flag is set.
fn with_hanging_ranges(store: &Client) -> (Client, Arc<AtomicBool>) {
    let hang = Arc::new(AtomicBool::new(false));
    let hangs = Arc::clone(&hang);
    let rule = move |call: &Call| match call {
        Call::Range(_) if hangs.load(Ordering::Relaxed) => Action::Hang,
        _ => Action::Pass,
    };
    (intercepted(store, rule), hang)
}

async fn open(client: &Client) -> PrefixCache {
    PrefixCache::open(client, "p/").await.unwrap()
}

async fn put(store: &Client, key: &str, value: &str) -> Revision {
    store.put(key.to_owned(), value.to_owned()).await.unwrap().header.revision
}

#[tokio::test(start_paused = true)]
async fn cache_has_keys_with_the_prefix_and_their_changes() {
    let store = Client::new(MemBackend::new());
    for key in ["p", "p/", "p/a", "p0", "o/z"] {
        put(&store, key, "1").await;
    }
    let cache = open(&separate_client(&store)).await;
    assert_eq!(cache.revision(), newest_revision(&store).await);
    assert_eq!(entries(&cache.snapshot()).into_keys().collect::<Vec<_>>(), ["p/", "p/a"]);
    assert_eq!(cache.get("p0"), None, "it does not have the prefix");
    assert_eq!(cache.get("p/a"), store.get("p/a").await.unwrap());

    let before = cache.snapshot();
    put(&store, "p/a", "2").await;
    store.delete("p/").await.unwrap();
    let revision = put(&store, "p/b", "7").await;
    let after = cache.wait_for(revision).await.unwrap();
    assert_eq!(entries(&after), stored(&store, "p/").await);
    assert_eq!((after.len(), after.revision()), (2, revision));
    assert_eq!(cache.get_as::<i64>("p/b").unwrap(), Some(7));
    assert_eq!(entries(&before).len(), 2, "a snapshot does not change");
    assert_eq!(before.get("p/a").unwrap().value, "1");
}

#[tokio::test(start_paused = true)]
async fn empty_prefix_covers_all_keys() {
    let store = Client::new(MemBackend::new());
    for key in ["\0", "a", "\u{7f}"] {
        put(&store, key, "").await;
    }
    let cache = PrefixCache::open(&store, "").await.unwrap();
    assert_eq!(cache.snapshot().len(), 3);
    put(&store, "b", "").await;
    assert_eq!(cache.read().await.unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn snapshot_iterates_in_key_order_and_by_prefix() {
    let store = Client::new(MemBackend::new());
    for n in [7, 1, 12, 3, 100] {
        put(&store, &format!("p/{n:03}"), &n.to_string()).await;
    }
    put(&store, "p/x", "many").await;
    let snapshot = open(&store).await.snapshot();
    let keys: Vec<_> = snapshot.iter().map(|kv| kv.key.clone()).collect();
    assert!(keys.is_sorted() && keys.len() == 6 && !snapshot.is_empty(), "{keys:?}");
    let below: Vec<_> = snapshot.with_prefix("p/00").map(|kv| kv.key.clone()).collect();
    assert_eq!(below, ["p/001", "p/003", "p/007"]);
    assert_eq!(snapshot.with_prefix("q").count(), 0);
    assert_eq!(snapshot.get_as::<i64>("p/012").unwrap(), Some(12));
    let invalid = snapshot.get_as::<i64>("p/x").unwrap_err();
    assert!(matches!(&invalid, Error::InvalidValue { key, .. } if key == "p/x"), "{invalid}");
}

#[tokio::test(start_paused = true)]
async fn cache_of_several_pages_is_of_one_revision() {
    let store = Client::new(MemBackend::new());
    for hundred in 0..25 {
        let puts = (0..100).map(|n| Op::from(Put::new(format!("p/{hundred:02}{n:02}"), "")));
        store.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    let recorder = Recorder::new();
    let rule = |call: &Call| match call {
        Call::Range(_) => Action::Delay(secs(1)),
        // So that no event hides what was read.
        Call::Watch(_) => Action::Hang,
        _ => Action::Pass,
    };
    let client = intercepted(&intercepted(&store, rule), recorder.clone());
    let opening = async { (open(&client).await, recorder.take().names()) };
    let writing = async {
        sleep(Duration::from_millis(1_500)).await;
        store.delete("p/2400").await.unwrap();
        put(&store, "p/2500", "").await;
    };
    let ((cache, requests), ()) = tokio::join!(opening, writing);
    assert_eq!((cache.snapshot().len(), cache.revision()), (2_500, Revision(26)));
    assert!(cache.get("p/2400").is_some() && cache.get("p/2500").is_none());
    assert_eq!(requests, "range range range watch");
}

#[tokio::test(start_paused = true)]
async fn reads_of_a_cache_cost_no_request_and_consistent_reads_one() {
    let store = Client::new(MemBackend::new());
    let recorder = Recorder::new();
    let cache = open(&intercepted(&store, recorder.clone())).await;
    settle().await;
    assert_eq!(recorder.take().names(), "range watch");
    for n in 0..10 {
        put(&store, "p/a", &n.to_string()).await;
        put(&store, "other", "").await;
    }
    cache.wait_for(newest_revision(&store).await).await.unwrap();
    assert_eq!(cache.get("p/a").unwrap().value, "9");
    assert_eq!(recorder.take().names(), "", "events, gets and waits cost none");
    put(&store, "other", "").await;
    cache.read().await.unwrap();
    cache.read().await.unwrap();
    assert_eq!(recorder.take().names(), "range range");
}

/// etcd's own cache waits for a revision by comparing it every 10 ms, and requests no progress
/// meanwhile: a change of other keys advances it only with a progress notification.
#[tokio::test(start_paused = true)]
async fn wait_for_returns_after_a_change_of_other_keys() {
    let store = Client::new(MemBackend::new());
    let cache = open(&store).await;
    let revision = put(&store, "other", "1").await;
    let (snapshot, waited) = timed(cache.wait_for(revision)).await;
    assert!(snapshot.unwrap().revision() >= revision);
    assert_eq!(waited, Duration::ZERO, "without a pause");

    // A revision that the store has not reached.
    let next = revision.next().next();
    let waiting = cache.wait_for(next);
    let writing = async {
        for _ in 0..2 {
            sleep(secs(20)).await;
            put(&store, "other", "2").await;
        }
    };
    let (reached, ()) = tokio::join!(timed(waiting), writing);
    assert_eq!(reached.0.unwrap().revision(), next);
    assert!(reached.1 <= secs(41), "{:?}", reached.1);
}

#[tokio::test(start_paused = true)]
async fn cache_above_its_limit_stops_with_a_typed_error() {
    let store = Client::new(MemBackend::new());
    for n in 0..3_000 {
        put(&store, &format!("p/{n}"), "").await;
    }
    let recorder = Recorder::new();
    let limited = intercepted(&store, recorder.clone());
    let error = PrefixCache::open_with_limit(&limited, "p/", 10_000).await.unwrap_err();
    assert!(
        matches!(&error, PrefixCacheError::TooLarge { prefix, bytes_max: 10_000 } if prefix == "p/"),
        "{error}"
    );
    assert!(!error.is_retryable());
    assert_eq!(recorder.take().names(), "range", "it stops at the page that exceeds the limit");

    let grows = PrefixCache::open_with_limit(&store, "q/", 1_000).await.unwrap();
    let mut changes = grows.changes();
    put(&store, "q/a", "small").await;
    assert_eq!(changes.next().await.unwrap().unwrap().changes().len(), 1);
    put(&store, "q/b", &"x".repeat(1_000)).await;
    let end = changes.next().await.unwrap().unwrap_err();
    assert!(matches!(end, PrefixCacheError::TooLarge { .. }), "{end}");
    assert!(changes.next().await.is_none());
    for error in [
        grows.wait_for(Revision(100_000)).await.unwrap_err(),
        grows.read().await.unwrap_err(),
        grows.error().unwrap(),
        grows.changes().next().await.unwrap().unwrap_err(),
    ] {
        assert!(matches!(error, PrefixCacheError::TooLarge { .. }), "{error}");
    }
    assert_eq!(grows.get("q/a").unwrap().value, "small", "the last state stays readable");
}

#[tokio::test(start_paused = true)]
async fn error_that_is_not_retryable_ends_the_cache() {
    let store = Client::new(MemBackend::new());
    let denied = Error::PermissionDenied { reason: "no".to_owned() };
    let faulty = intercepted(&store, only("range", Action::Fail(denied)));
    let error = PrefixCache::open(&faulty, "p/").await.unwrap_err();
    let expected = PrefixCacheError::Backend(Error::PermissionDenied { reason: "no".to_owned() });
    assert_eq!(error.to_string(), expected.to_string());
}

#[tokio::test(start_paused = true)]
async fn cache_waits_while_the_store_is_unavailable() {
    let store = Client::new(MemBackend::new());
    let hangs = intercepted(&store, only("range", Action::Hang));
    assert!(timeout(secs(100), PrefixCache::open(&hangs, "p/")).await.is_err());
}

#[test]
fn cache_whose_runtime_was_shut_down_is_not_retryable() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let opening = runtime();
    let cache = opening.block_on(open(&Client::new(MemBackend::new())));
    assert!(cache.error().is_none());
    drop(opening);
    let error = cache.error().expect("the task has ended");
    assert!(matches!(error, PrefixCacheError::RuntimeShutDown), "{error}");
    assert!(!error.is_retryable());
    let waited = runtime().block_on(cache.wait_for(Revision(100))).unwrap_err();
    assert!(!waited.is_retryable(), "{waited}");
}

/// Twelve pages that take a second each: longer than one request may take.
#[tokio::test(start_paused = true)]
async fn prefix_that_takes_long_to_read_is_loaded() {
    let store = Client::new(MemBackend::new());
    for n in 0..11_500 {
        put(&store, &format!("p/{n}"), "").await;
    }
    let slow = intercepted(&store, only("range", Action::Delay(secs(1))));
    let opening = timeout(secs(60), timed(open(&slow)));
    let (cache, waited) = opening.await.expect("the read ends");
    assert_eq!((cache.snapshot().len(), waited), (11_500, secs(12)));
}

#[tokio::test(start_paused = true)]
async fn cache_stops_when_its_last_handle_is_dropped() {
    let store = Client::new(MemBackend::new());
    let recorder = Recorder::new();
    let cache = open(&intercepted(&store, recorder.clone())).await;
    let clone = cache.clone();
    let mut changes = cache.changes();
    drop((cache, clone));
    put(&store, "p/a", "1").await;
    assert!(changes.next().await.unwrap().is_ok(), "a stream keeps the cache open");
    drop(changes);
    settle().await;
    recorder.take();
    sleep(secs(300)).await;
    assert_eq!(recorder.take().names(), "", "no verification, because the task has ended");
}

#[tokio::test(start_paused = true)]
async fn cache_prints_its_state_and_not_its_keys() {
    let store = Client::new(MemBackend::new());
    put(&store, "p/a", "secret").await;
    let cache = open(&store).await;
    let changes = cache.changes();
    let text = format!("{cache:?} {changes:?} {:?}", cache.snapshot());
    for part in ["prefix: \"p/\"", "keys: 1", "revision: 2", "subscribers: 1", "1 keys at revision"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
}
