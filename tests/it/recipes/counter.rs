//! Counters: exact and striped.

use coord_core::error::LossReason;
use coord_core::recipes::{Counter, CounterError, StripedCounter};
use coord_core::stm::StmError;
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder};
use futures_util::future::join_all;

use crate::support::{intercepted, keys, newest_revision, nth, separate_client, session};

#[tokio::test(start_paused = true)]
async fn addition_returns_the_new_value() {
    let store = Client::new(MemBackend::new());
    let counter = Counter::new(&store, "n");
    assert_eq!(counter.get().await.unwrap(), 0, "an absent key counts as 0");
    assert_eq!(counter.add(5).await.unwrap(), 5);
    assert_eq!(counter.add(-7).await.unwrap(), -2);
    assert_eq!(counter.get().await.unwrap(), -2);
    assert_eq!(store.get("n").await.unwrap().unwrap().value, "-2");
    assert_eq!(format!("{counter:?}"), "Counter(\"n\")");
}

#[tokio::test(start_paused = true)]
async fn concurrent_additions_return_different_values() {
    let store = Client::new(MemBackend::new());
    let clients = [store.clone(), store.clone(), separate_client(&store), separate_client(&store)];
    let adding = clients.iter().map(async |client| {
        let counter = Counter::new(client, "n");
        let mut values = Vec::new();
        for _ in 0..10 {
            values.push(counter.add(1).await.unwrap());
        }
        values
    });
    let mut values = join_all(adding).await.concat();
    values.sort_unstable();
    assert_eq!(values, (1..=40).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn overflow_is_typed_and_writes_nothing() {
    let store = Client::new(MemBackend::new());
    for (found, added) in [(i64::MAX, 1), (i64::MIN, -1)] {
        let counter = Counter::new(&store, "n");
        store.put("n", found.to_string()).await.unwrap();
        let before = newest_revision(&store).await;
        let error = counter.add(added).await.unwrap_err();
        let StmError::Aborted(CounterError::Overflow { key, found: then, added: n }) = &error
        else {
            panic!("{error}");
        };
        assert_eq!((&key[..], *then, *n), (&b"n"[..], found, added));
        assert!(error.to_string().contains("2^63 - 1"), "{error}");
        assert_eq!(newest_revision(&store).await, before);
        assert_eq!(counter.get().await.unwrap(), found);
    }
}

#[tokio::test(start_paused = true)]
async fn foreign_value_is_an_error_and_is_kept() {
    let store = Client::new(MemBackend::new());
    store.put("n", "many").await.unwrap();
    let counter = Counter::new(&store, "n");
    assert!(matches!(counter.get().await, Err(Error::InvalidValue { .. })));
    let error = counter.add(1).await.unwrap_err();
    let StmError::Aborted(CounterError::Backend(Error::InvalidValue { .. })) = &error else {
        panic!("{error}");
    };
    assert_eq!(store.get("n").await.unwrap().unwrap().value, "many");
}

#[tokio::test(start_paused = true)]
async fn counter_costs_two_requests_and_a_read_one() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let client = intercepted(&store, recorder.clone());
    let counter = Counter::new(&client, "n");
    counter.add(1).await.unwrap();
    assert_eq!(recorder.take().names(), "range txn");
    counter.get().await.unwrap();
    assert_eq!(recorder.take().names(), "range");
    let striped = StripedCounter::new(&client, "s", 64).unwrap();
    striped.add(1).await.unwrap();
    assert_eq!(recorder.take().names(), "range txn");
    striped.get().await.unwrap();
    assert_eq!(recorder.take().names(), "range", "all stripes in one request");
}

#[tokio::test(start_paused = true)]
async fn addition_with_a_lost_response_is_counted_once() {
    for action in [Action::DropResponse, Action::DropRequest] {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        let client = intercepted(&store, nth("txn", 1, 1, action.clone()));
        let counter = Counter::new(&client, "n").exactly_once(&session);
        assert_eq!(counter.add(1).await.unwrap(), 1, "{action:?}");
        let client = intercepted(&store, nth("txn", 1, 1, action.clone()));
        let striped = StripedCounter::new(&client, "s", 4).unwrap().exactly_once(&session);
        striped.add(1).await.unwrap();
        assert_eq!(striped.get().await.unwrap(), 1, "{action:?}");
        // Without a session the outcome is unknown.
        let client = intercepted(&store, nth("txn", 1, 1, action.clone()));
        let error = Counter::new(&client, "n").add(1).await.unwrap_err();
        assert!(matches!(error, StmError::OutcomeUnknown(_)), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn addition_on_a_lost_session_writes_nothing() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let counter = Counter::new(&store, "n").exactly_once(&session);
    counter.add(1).await.unwrap();
    store.lease_revoke(session.lease_id()).await.unwrap();
    let error = counter.add(1).await.unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::Revoked), "{error}");
    assert_eq!(counter.get().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn striped_counter_sums_the_stripes_of_all_clients() {
    let store = Client::new(MemBackend::new());
    let few = StripedCounter::new(&store, "hits", 2).unwrap().seed(1);
    let many = StripedCounter::new(&separate_client(&store), "hits", 8).unwrap().seed(2);
    for n in 1..=20 {
        few.add(n).await.unwrap();
        many.add(-1).await.unwrap();
    }
    assert_eq!(few.get().await.unwrap(), 190);
    assert_eq!(many.get().await.unwrap(), 190);
    let stripes = keys(&store, "hits/").await;
    assert!(stripes.len() > 4, "{stripes:?}");
    assert_eq!(format!("{few:?}"), "StripedCounter(\"hits/\", 2 stripes)");
}

/// The same seed chooses the same stripes.
#[tokio::test(start_paused = true)]
async fn stripe_is_chosen_by_the_seed() {
    let chosen = async |seed| {
        let store = Client::new(MemBackend::new());
        let counter = StripedCounter::new(&store, "hits", 1024).unwrap().seed(seed);
        for _ in 0..5 {
            counter.add(1).await.unwrap();
        }
        keys(&store, "hits/").await
    };
    assert_eq!(chosen(7).await, chosen(7).await);
    assert_ne!(chosen(7).await, chosen(8).await);
}

/// However many stripes there are, they share the idempotency keys of one session.
#[tokio::test(start_paused = true)]
async fn stripes_share_their_idempotency_keys() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let counter = StripedCounter::new(&store, "hits", 100).unwrap().exactly_once(&session);
    for _ in 0..30 {
        counter.add(1).await.unwrap();
    }
    assert_eq!(keys(&store, "coord/stm/").await.len(), 1);
    session.close().await.unwrap();
    assert_eq!(counter.get().await.unwrap(), 30, "the counter outlives the session");
}

#[tokio::test(start_paused = true)]
async fn number_of_stripes_must_be_in_range() {
    let client = Client::new(MemBackend::new());
    for stripes in [0, 1025] {
        let error = StripedCounter::new(&client, "hits", stripes).unwrap_err();
        let CounterError::InvalidStripes { stripes: given, max: 1024 } = error else {
            panic!("{error}");
        };
        assert_eq!(given, stripes);
        assert!(error.to_string().contains("must be from 1 to 1024"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn sum_and_stripe_overflows_are_typed() {
    let store = Client::new(MemBackend::new());
    for stripe in ["hits/0", "hits/1"] {
        store.put(stripe, i64::MAX.to_string()).await.unwrap();
    }
    let counter = StripedCounter::new(&store, "hits", 2).unwrap();
    let error = counter.get().await.unwrap_err();
    let CounterError::SumOverflow { sum, .. } = &error else { panic!("{error}") };
    assert_eq!(*sum, 2 * i128::from(i64::MAX));
    let error = counter.add(1).await.unwrap_err();
    assert!(matches!(error, StmError::Aborted(CounterError::Overflow { .. })), "{error}");
    store.put("hits/other", "text").await.unwrap();
    let error = counter.get().await.unwrap_err();
    assert!(error.to_string().contains("hits/other"), "{error}");
}
