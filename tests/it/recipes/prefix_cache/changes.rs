//! The stream of changes: replay, subscribers that read late, and many subscribers.

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_core::Client;
use coord_core::kv::{Delete, KeyValue, Op, Put, Revision, Txn};
use coord_core::recipes::{GapCause, PrefixChanges, PrefixUpdate};
use coord_mem::MemBackend;
use coord_testkit::Recorder;
use fastrand::Rng;
use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{sleep, timeout};

use super::{entries, open, put, stored};
use crate::support::{intercepted, secs, settle};

/// A map to which the changes of a subscriber are applied.
pub(super) struct Replica(BTreeMap<Bytes, KeyValue>);

impl Replica {
    pub(super) fn of(changes: &PrefixChanges) -> Self {
        Self(changes.snapshot().iter().map(|kv| (kv.key.clone(), kv.clone())).collect())
    }

    /// Applies an update, whose changes must follow from the map.
    pub(super) fn apply(&mut self, update: &PrefixUpdate) {
        for change in update.changes() {
            assert_eq!(self.0.get(&change.key), change.before.as_ref(), "{change:?}");
            assert_ne!(change.before, change.after, "no change");
            match &change.after {
                Some(kv) => drop(self.0.insert(change.key.clone(), kv.clone())),
                None => drop(self.0.remove(&change.key)),
            }
        }
    }

    pub(super) fn assert_is(&self, changes: &PrefixChanges) {
        assert!(self.0.values().eq(changes.snapshot().iter()), "{:?}", self.0.keys());
    }
}

async fn next(changes: &mut PrefixChanges) -> PrefixUpdate {
    let next = timeout(secs(120), changes.next()).await.expect("an item is yielded");
    next.expect("the stream continues").expect("the store is available")
}

#[tokio::test(start_paused = true)]
async fn each_revision_with_changes_is_one_update() {
    let store = Client::new(MemBackend::new());
    put(&store, "p/a", "1").await;
    let cache = open(&store).await;
    let mut changes = cache.changes();
    let mut replica = Replica::of(&changes);
    put(&store, "other", "").await;
    let txn = [
        Op::from(Put::new("p/b", "1")),
        Put::new("p/c", "1").into(),
        Delete::new("p/a").into(),
        Put::new("other", "").into(),
    ];
    let both = store.txn(Txn::new().and_then(txn)).await.unwrap().header.revision;
    let again = put(&store, "p/b", "1").await;

    let first = next(&mut changes).await;
    replica.apply(&first);
    let keys: Vec<_> = first.changes().iter().map(|change| change.key.clone()).collect();
    assert_eq!((first.revision(), first.gap()), (both, None));
    assert_eq!(keys, ["p/a", "p/b", "p/c"]);
    let second = next(&mut changes).await;
    replica.apply(&second);
    assert_eq!((second.revision(), second.changes().len()), (again, 1), "a put of the same value");
    replica.assert_is(&changes);
    assert!(timeout(secs(30), changes.next()).await.is_err(), "no item without a change");
}

/// Thousands of puts and deletes, of single keys and of whole ranges, of hundreds of keys: the map
/// of the cache, and its changes, equal a `BTreeMap`.
#[tokio::test(start_paused = true)]
async fn random_changes_of_many_keys_equal_an_ordered_map() {
    for seed in 0..4 {
        let mut rng = Rng::with_seed(seed);
        let store = Client::new(MemBackend::new());
        let cache = open(&store).await;
        let mut changes = cache.changes();
        let mut replica = Replica::of(&changes);
        let mut expected = BTreeMap::new();
        for n in 0..3_000 {
            // The share of deletions changes, so that the map grows and shrinks.
            let key = format!("p/{:03}", rng.u32(0..700));
            let is_put = rng.u32(0..10) < [8, 3][n / 500 % 2];
            let revision = match is_put {
                true => {
                    expected.insert(key.clone(), n.to_string());
                    put(&store, &key, &n.to_string()).await
                }
                false => {
                    // One key, or up to ten.
                    let prefix = key[..key.len() - usize::from(rng.u32(0..20) == 0)].to_owned();
                    expected.retain(|key, _| !key.starts_with(&prefix));
                    store.delete_prefix(prefix).await.unwrap().header.revision
                }
            };
            let snapshot = cache.wait_for(revision).await.unwrap();
            if n % 50 == 0 {
                assert_eq!(entries(&snapshot), expected, "seed {seed}, change {n}");
            }
            let value = snapshot.get(&key).map(|kv| kv.value.clone());
            assert_eq!(value, expected.get(&key).cloned().map(Bytes::from), "seed {seed}, {key}");
            while let Some(update) = changes.next().now_or_never() {
                replica.apply(&update.unwrap().unwrap());
            }
            assert_eq!(changes.snapshot().len(), expected.len(), "seed {seed}, change {n}");
        }
        replica.assert_is(&changes);
        assert_eq!(entries(changes.snapshot()), stored(&store, "p/").await);
    }
}

/// One transaction, with two nested in it, deletes one key and creates two others.
#[tokio::test(start_paused = true)]
async fn nested_transactions_are_one_update() {
    let store = Client::new(MemBackend::new());
    put(&store, "p/a", "old").await;
    let cache = open(&store).await;
    let mut changes = cache.changes();
    let ops = [Op::from(Delete::new("p/a")), Op::from(Put::new("p/b", "1"))];
    let nested = |ops: [Op; 2]| Op::Txn(Txn::new().and_then(ops));
    let again = [Op::from(Delete::prefix("p/none")), Put::new("p/c", "").into()];
    store.txn(Txn::new().and_then([nested(ops), nested(again)])).await.unwrap();
    let update = next(&mut changes).await;
    let kinds: Vec<_> = update
        .changes()
        .iter()
        .map(|change| (&change.key[..], change.before.is_some(), change.after.is_some()))
        .collect();
    assert_eq!(kinds, [(&b"p/a"[..], true, false), (b"p/b", false, true), (b"p/c", false, true)]);
}

#[tokio::test(start_paused = true)]
async fn late_subscriber_receives_the_difference_and_a_gap() {
    let store = Client::new(MemBackend::new());
    let cache = open(&store).await;
    let (mut prompt, mut late) = (cache.changes(), cache.changes());
    let (mut prompt_replica, mut late_replica) = (Replica::of(&prompt), Replica::of(&late));
    let first = cache.revision();
    let mut last = Revision::ZERO;
    for n in 0..1_000 {
        let (key, other) = (format!("p/{}", n % 7), format!("p/{}", (n + 3) % 7));
        last = match n % 5 {
            0 => store.delete(other).await.unwrap().header.revision,
            _ => put(&store, &key, &n.to_string()).await,
        };
        cache.wait_for(last).await.unwrap();
        while prompt.snapshot().revision() < last {
            let Ok(Some(update)) = timeout(secs(1), prompt.next()).await else { break };
            let update = update.unwrap();
            assert_eq!(update.gap(), None);
            prompt_replica.apply(&update);
        }
    }
    prompt_replica.assert_is(&prompt);

    let update = next(&mut late).await;
    let gap = update.gap().expect("most updates are not kept");
    assert_eq!((gap.cause, gap.after, gap.until), (GapCause::Lagged, first, update.revision()));
    assert!(update.changes().len() <= 7, "the changes of a key are merged");
    late_replica.apply(&update);
    let mut updates = 1;
    while late.snapshot().revision() < prompt.snapshot().revision() {
        let update = next(&mut late).await;
        assert_eq!(update.gap(), None, "only the first one");
        late_replica.apply(&update);
        updates += 1;
    }
    assert_eq!(updates, 256, "as many as are kept");
    late_replica.assert_is(&late);
    assert!(prompt.snapshot().iter().eq(late.snapshot().iter()) && last > first);
}

/// 10,000 subscribers have one watch in the store, and each receives every change.
#[tokio::test(start_paused = true)]
async fn ten_thousand_subscribers_share_one_watch() {
    let store = Client::new(MemBackend::new());
    let recorder = Recorder::new();
    let cache = open(&intercepted(&store, recorder.clone())).await;
    let mut subscribers: Vec<_> = (0..10_000).map(|_| cache.changes()).collect();
    let mut idle = cache.changes();
    settle().await;
    let writing = async {
        for n in 0..5 {
            put(&store, "p/a", &n.to_string()).await;
            sleep(secs(1)).await;
        }
    };
    let reading = join_all(subscribers.iter_mut().map(async |changes| {
        let values = changes
            .by_ref()
            .take(5)
            .map(|update| update.unwrap().changes()[0].after.clone().expect("it is a put").value);
        values.collect::<Vec<_>>().await
    }));
    let ((), values) = tokio::join!(writing, reading);
    assert!(values.iter().all(|values| values[..] == ["0", "1", "2", "3", "4"]));
    assert_eq!(recorder.take().names(), "range watch");
    assert!(next(&mut idle).await.gap().is_none(), "a slow subscriber blocks no other");
    assert!(format!("{cache:?}").contains("subscribers: 10001"), "{cache:?}");
}

#[tokio::test(start_paused = true)]
async fn stream_of_changes_starts_at_its_call() {
    let store = Client::new(MemBackend::new());
    let cache = open(&store).await;
    let before = put(&store, "p/a", "1").await;
    cache.wait_for(before).await.unwrap();
    let mut changes = cache.changes();
    let replica = Replica::of(&changes);
    assert_eq!(changes.snapshot().revision(), before);
    replica.assert_is(&changes);
    let after = put(&store, "p/a", "2").await;
    let update = next(&mut changes).await;
    assert_eq!(update.revision(), after);
    assert_eq!(update.changes()[0].before.as_ref().unwrap().value, "1");
}
