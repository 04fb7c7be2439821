//! The shared value: reads, swaps, updates and the stream of values.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{Compact, LeaseGrant, Put, WatchBatch};
use coord_core::recipes::{GapCause, SharedValue, ValueSwap, Values};
use coord_core::stm::{Retry, StmError};
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule};
use futures_util::StreamExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{
    intercepted, newest_revision, nth, only, secs, separate_client, session, timed,
};
use crate::watch_faults::{WatchFaults, short_first_watch};

/// The value `limit` of a client.
fn limit(client: &Client) -> SharedValue<i64> {
    SharedValue::new(client, "limit")
}

/// Waits for the next value of a stream.
async fn next(values: &mut Values<i64>) -> Option<i64> {
    let next = timeout(secs(120), values.next()).await.expect("a value is yielded");
    next.expect("the stream continues").expect("the store is available")
}

#[tokio::test(start_paused = true)]
async fn absent_value_is_none_until_set_and_after_clear() {
    let store = Client::new(MemBackend::new());
    let value = limit(&store);
    assert_eq!(value.get().await.unwrap(), None);
    let revision = value.set(&7).await.unwrap();
    assert_eq!(revision, newest_revision(&store).await);
    assert_eq!(limit(&separate_client(&store)).get().await.unwrap(), Some(7));
    assert_eq!(store.get("limit").await.unwrap().unwrap().value, "7", "readable by every client");
    value.clear().await.unwrap();
    assert_eq!(value.get().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn swap_succeeds_only_from_the_expected_value() {
    let store = Client::new(MemBackend::new());
    let value = limit(&store);
    // The value before, the expected value, the new one, and whether they are swapped.
    let rows = [
        (None, None, Some(1), true),
        (None, Some(1), Some(2), false),
        (Some(1), None, Some(2), false),
        (Some(1), Some(1), Some(2), true),
        (Some(1), Some(2), Some(3), false),
        (Some(1), Some(1), None, true),
        (Some(1), Some(2), None, false),
        (None, None, None, true),
    ];
    for (before, expected, new, is_swapped) in rows {
        match before {
            Some(before) => drop(value.set(&before).await.unwrap()),
            None => value.clear().await.unwrap(),
        }
        let swap = value.compare_and_swap(expected.as_ref(), new.as_ref()).await.unwrap();
        let row = format!("{before:?}: {expected:?} to {new:?}");
        match swap {
            ValueSwap::Swapped(revision) => {
                assert_eq!(revision, newest_revision(&store).await, "{row}");
            }
            ValueSwap::Found(found) => assert_eq!(found, before, "{row}"),
        }
        assert_eq!(swap.is_swapped(), is_swapped, "{row}");
        let after = if is_swapped { new } else { before };
        assert_eq!(value.get().await.unwrap(), after, "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn swap_keeps_the_lease_of_the_key() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    store.put_with(Put::new("limit", "1").lease(lease)).await.unwrap();
    let lease_of_key = async || store.get("limit").await.unwrap().unwrap().lease;
    assert!(limit(&store).compare_and_swap(Some(&1), Some(&2)).await.unwrap().is_swapped());
    assert_eq!(lease_of_key().await, Some(lease));
    limit(&store).set(&3).await.unwrap();
    assert_eq!(lease_of_key().await, None);
}

#[tokio::test(start_paused = true)]
async fn undecodable_value_is_an_error_with_the_key() {
    let store = Client::new(MemBackend::new());
    store.put("limit", "many").await.unwrap();
    let value = limit(&store);
    let is_invalid = |error: &Error| {
        let text = error.to_string();
        assert!(text.contains("key \"limit\"") && text.contains("\"many\""), "{text}");
        matches!(error, Error::InvalidValue { key, .. } if key == "limit")
    };
    assert!(is_invalid(&value.get().await.unwrap_err()));
    assert!(is_invalid(&value.compare_and_swap(Some(&1), None).await.unwrap_err()));
    let update = value.update(|_| Ok::<_, Error>(Some(1))).await.unwrap_err();
    assert!(matches!(&update, StmError::Aborted(error) if is_invalid(error)), "{update}");
    let mut values = value.watch();
    assert!(is_invalid(&values.next().await.unwrap().unwrap_err()));
    value.set(&1).await.unwrap();
    assert_eq!(next(&mut values).await, Some(1), "the stream continues");
}

#[tokio::test(start_paused = true)]
async fn concurrent_updates_lose_no_change() {
    let store = Client::new(MemBackend::new());
    let add = async |client: Client| {
        let value = limit(&client);
        for _ in 0..10 {
            let update = value.update(|n| Ok::<_, Error>(Some(n.unwrap_or_default() + 1)));
            update.await.unwrap();
        }
    };
    let separate = || add(separate_client(&store));
    tokio::join!(separate(), separate(), add(store.clone()), add(store.clone()));
    assert_eq!(limit(&store).get().await.unwrap(), Some(40));
}

#[tokio::test(start_paused = true)]
async fn update_can_delete_abort_and_exhaust_its_budget() {
    let store = Client::new(MemBackend::new());
    let value = limit(&store).retry(Retry { attempts_max: Some(3), ..Retry::default() });
    value.set(&1).await.unwrap();
    assert_eq!(value.update(|_| Ok::<_, Error>(None)).await.unwrap().value, None);
    assert_eq!(store.get("limit").await.unwrap(), None);

    let before = newest_revision(&store).await;
    let refused = value.update(|_| Err::<_, Error>(Error::EmptyKey)).await.unwrap_err();
    assert!(matches!(refused, StmError::Aborted(Error::EmptyKey)), "{refused}");
    assert_eq!(newest_revision(&store).await, before);

    // Another client changes the value before each commit.
    let other = limit(&separate_client(&store));
    let stubborn = intercepted(&store, only("txn", Action::Delay(Duration::from_millis(100))));
    let stubborn = limit(&stubborn).retry(Retry { attempts_max: Some(3), ..Retry::default() });
    let mut attempts = 0;
    let update = stubborn.update(|n| {
        attempts += 1;
        Ok::<_, Error>(n)
    });
    let changes = async {
        loop {
            other.set(&1).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let exhausted = tokio::select! {
        biased;
        error = update => error.unwrap_err(),
        () = changes => unreachable!("it has no end"),
    };
    assert!(matches!(exhausted, StmError::RetriesExhausted { attempts: 3, .. }), "{exhausted}");
    assert_eq!(attempts, 3);
}

/// An update with an unknown outcome is applied exactly once with a session, and is an error
/// without one.
#[tokio::test(start_paused = true)]
async fn update_with_a_lost_response_is_resolved() {
    for (action, with_session) in
        [(Action::DropResponse, true), (Action::DropRequest, true), (Action::DropResponse, false)]
    {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        let value = limit(&intercepted(&store, nth("txn", 1, 1, action)));
        let value = if with_session { value.exactly_once(&session) } else { value };
        let updated = value.update(|n| Ok::<_, Error>(Some(n.unwrap_or_default() + 1))).await;
        match updated {
            Ok(committed) => assert_eq!((committed.value, with_session), (Some(1), true)),
            Err(StmError::OutcomeUnknown(_)) => assert!(!with_session),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(limit(&store).get().await.unwrap(), Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn shared_value_costs_one_request_and_update_two() {
    let recorder = Recorder::new();
    let value = limit(&intercepted(&Client::new(MemBackend::new()), recorder.clone()));
    value.get().await.unwrap();
    assert_eq!(recorder.take().names(), "range");
    value.set(&1).await.unwrap();
    assert_eq!(recorder.take().names(), "put");
    value.compare_and_swap(Some(&1), Some(&2)).await.unwrap();
    value.compare_and_swap(Some(&1), Some(&2)).await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn");
    value.update(Ok::<_, Error>).await.unwrap();
    assert_eq!(recorder.take().names(), "range txn");
    let mut values = value.watch();
    next(&mut values).await;
    value.set(&3).await.unwrap();
    next(&mut values).await;
    value.clear().await.unwrap();
    next(&mut values).await;
    assert_eq!(recorder.take().names(), "range put watch delete", "an item costs no request");
}

/// The futures are `Send`, so that callers can spawn them.
#[tokio::test(start_paused = true)]
async fn update_and_watch_can_be_spawned() {
    let value = limit(&Client::new(MemBackend::new()));
    let (updating, watching) = (value.clone(), value.clone());
    let step = String::from("4");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let step: i64 = step.parse().unwrap();
        let update = updating.update(move |n| Ok::<_, Error>(Some(n.unwrap_or_default() + step)));
        update.await.unwrap().value
    });
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), Some(4));
    tasks.spawn(async move { watching.watch().next().await.unwrap().unwrap() });
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), Some(4));
}

#[tokio::test(start_paused = true)]
async fn watch_yields_every_change_in_order() {
    let store = Client::new(MemBackend::new());
    let value = limit(&store);
    let mut values = value.watch();
    assert_eq!(next(&mut values).await, None);
    for n in 0..5 {
        value.set(&n).await.unwrap();
        store.put("limit/child", "other key").await.unwrap();
        value.set(&n).await.unwrap();
    }
    value.clear().await.unwrap();
    let mut found = Vec::new();
    for _ in 0..11 {
        found.push(next(&mut values).await);
    }
    let twice = |n| [Some(n), Some(n)];
    assert_eq!(found, [&(0..5).flat_map(twice).collect::<Vec<_>>()[..], &[None]].concat());
    assert_eq!((values.gap(), values.revision()), (None, newest_revision(&store).await));
}

/// A watch that ends, with an error or without, is resumed, and no value is missing.
#[tokio::test(start_paused = true)]
async fn watch_resumes_without_a_gap() {
    for error in [None, Some(Error::Timeout { after: secs(1) })] {
        let store = MemBackend::new();
        let lifetime = (Duration::from_millis(30), error);
        let faulty = WatchFaults::new(store.clone(), move || lifetime.clone());
        let mut values = limit(&Client::new(faulty)).watch();
        assert_eq!(next(&mut values).await, None);
        let value = limit(&Client::new(store));
        let sets = async {
            for n in 0..20 {
                value.set(&n).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reads = async {
            for n in 0..20 {
                assert_eq!(next(&mut values).await, Some(n));
                assert_eq!(values.gap(), None);
            }
        };
        tokio::join!(sets, reads);
    }
}

#[tokio::test(start_paused = true)]
async fn watch_continues_with_the_current_value_after_compaction() {
    // The first watch ends after a second, without an event.
    let store = MemBackend::new();
    let faulty = WatchFaults::new(store.clone(), short_first_watch(secs(1)));
    let mut values = limit(&Client::new(faulty)).watch();
    assert_eq!(next(&mut values).await, None);
    // The watch is registered, and ends.
    assert!(timeout(Duration::from_millis(1_020), values.next()).await.is_err());
    let (store, value) = (Client::new(store.clone()), limit(&Client::new(store)));
    for n in 0..5 {
        value.set(&n).await.unwrap();
    }
    let revision = newest_revision(&store).await;
    store.compact(Compact::new(revision)).await.unwrap();
    assert_eq!(next(&mut values).await, Some(4), "the current value");
    let gap = values.gap().expect("four values are missing");
    assert_eq!((gap.cause, gap.until), (GapCause::Compacted, revision));
    value.set(&5).await.unwrap();
    assert_eq!((next(&mut values).await, values.gap()), (Some(5), None));
}

/// A rule under which the first watch delivers nothing.
#[derive(Default)]
struct SilentFirstWatch(AtomicUsize);

impl Rule for SilentFirstWatch {
    fn action(&self, call: &Call) -> Action {
        if matches!(call, Call::Watch(_)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Action::Pass
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

#[tokio::test(start_paused = true)]
async fn silent_watch_delays_a_value_by_a_minute_at_most() {
    let store = Client::new(MemBackend::new());
    let mut values = limit(&intercepted(&store, SilentFirstWatch::default())).watch();
    assert_eq!(next(&mut values).await, None);
    limit(&store).set(&1).await.unwrap();
    limit(&store).set(&2).await.unwrap();
    let (value, waited) = timed(next(&mut values)).await;
    assert_eq!((value, values.gap()), (Some(1), None));
    assert!(waited > secs(50) && waited < secs(65), "{waited:?}");
    assert_eq!(next(&mut values).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn values_of_any_encoding_can_be_shared() {
    let store = Client::new(MemBackend::new());
    let text = SharedValue::<String>::new(&store, "text");
    text.set(&"plain".to_owned()).await.unwrap();
    let raw = SharedValue::<Bytes>::new(&store, "text");
    assert_eq!(raw.get().await.unwrap().unwrap(), "plain");
    raw.set(&Bytes::from_static(b"\xff")).await.unwrap();
    assert!(matches!(text.get().await, Err(Error::InvalidValue { .. })));
    assert_eq!(format!("{text:?}"), "SharedValue(\"text\")");
    let mut values = raw.watch();
    assert!(format!("{values:?}").contains("text"), "{values:?}");
    assert_eq!(values.next().await.unwrap().unwrap().unwrap(), &b"\xff"[..]);
    let two: Vec<_> = raw.watch().take(1).collect().await;
    assert_eq!(two.len(), 1, "it is a stream");
}

#[tokio::test(start_paused = true)]
async fn empty_key_is_refused_by_every_method() {
    let value = SharedValue::<i64>::new(&Client::new(MemBackend::new()), "");
    assert!(matches!(value.get().await, Err(Error::EmptyKey)));
    assert!(matches!(value.set(&1).await, Err(Error::EmptyKey)));
    assert!(matches!(value.clear().await, Err(Error::EmptyKey)));
    assert!(matches!(value.compare_and_swap(None, Some(&1)).await, Err(Error::EmptyKey)));
    let update = value.update(Ok::<_, Error>).await.unwrap_err();
    assert!(matches!(update, StmError::Backend(Error::EmptyKey)), "{update}");
    let mut values = value.watch();
    assert!(matches!(values.next().await, Some(Err(Error::EmptyKey))));
    assert!(values.next().await.is_none(), "the stream has ended");
}
