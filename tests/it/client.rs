//! Tests of `Client`: the state that its primitives share, and its convenience methods.
//!
//! A `Client` and its clones model one process. Two clients of one store share nothing but the
//! store: no hand-off and no conflict queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_core::client::Swap;
use coord_core::kv::{Delete, KeyRange, LeaseGrant, Put, Watch};
use coord_core::{Client, Error, Mutex, Stm};
use coord_mem::MemBackend;
use coord_testkit::Recorder;
use tokio::time::timeout;

use crate::support::{intercepted, secs, separate_client, session_on, settle};
use crate::while_waiting::while_waiting_after;

/// Between two clients there is no hand-off: the waiter watches its predecessor and reads the
/// queue.
#[tokio::test(start_paused = true)]
async fn lock_is_handed_over_within_one_client_only() {
    for one_client in [true, false] {
        let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
        let holder_client = intercepted(&store, recorder.clone());
        let waiter_client =
            if one_client { holder_client.clone() } else { intercepted(&store, recorder.clone()) };
        let guard = Mutex::new(&session_on(holder_client).await, "m").lock().await.unwrap();
        let waiter = Mutex::new(&session_on(waiter_client).await, "m");
        recorder.take();
        let unlock = async { guard.unlock().await.unwrap() };
        let (acquired, ()) = while_waiting_after(secs(1) / 10, waiter.lock(), unlock).await;
        let mut calls = recorder.take();
        calls.0.retain(|call| call.name() != "lease_revoke");
        let expected = if one_client { "txn txn" } else { "txn watch txn range" };
        assert_eq!(calls.names(), expected, "one client: {one_client}");
        acquired.unwrap().unlock().await.unwrap();
    }
}

/// A transaction that hangs in a conflict queue delays the transactions of its own client only.
#[tokio::test(start_paused = true)]
async fn conflict_queue_is_not_shared_between_clients() {
    for one_client in [true, false] {
        let store = Client::new(MemBackend::new());
        store.put("n", "0").await.unwrap();
        let (client, has_conflicted) = (separate_client(&store), AtomicBool::new(false));
        let stm = Stm::new(&client);
        // The second attempt holds the conflict queue of `n`, and never ends.
        let hanging = stm.run(async |tx| {
            tx.get("n").await?;
            tx.put("n", "1");
            if has_conflicted.swap(true, Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            store.put("n", "2").await?;
            Ok::<_, Error>(())
        });
        let other_client = if one_client { client.clone() } else { separate_client(&client) };
        let duration_of_other = async {
            settle().await;
            let started = tokio::time::Instant::now();
            let other_stm = Stm::new(&other_client);
            let other = other_stm.run(async |tx| {
                tx.get("n").await?;
                tx.put("n", "3");
                Ok::<_, Error>(())
            });
            other.await.unwrap();
            started.elapsed()
        };
        let (_, waited) = tokio::join!(timeout(secs(10), hanging), duration_of_other);
        assert_eq!(waited > secs(1) / 2, one_client, "waited {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn convenience_methods_read_and_write_as_named() {
    let client = Client::new(MemBackend::new());
    let mut watcher = client.watch("a".."c").await.unwrap();
    assert!(client.put_if_absent("a", "1").await.unwrap());
    assert!(!client.put_if_absent("a", "2").await.unwrap());
    assert!(client.compare_and_swap("a", "1", "3").await.unwrap().is_swapped());
    let Swap::Found(Some(found)) = client.compare_and_swap("a", "1", "4").await.unwrap() else {
        panic!("swapped, although the value is 3")
    };
    assert_eq!(found.value, "3");
    assert_eq!(client.compare_and_swap("none", "1", "4").await.unwrap(), Swap::Found(None));
    for value in ["1", "3"] {
        let batch = watcher.next().await.expect("the watch is open").unwrap();
        assert_eq!(batch.events[0].kv.value, value);
    }
    client.put("b", "5").await.unwrap();
    client.put("c", "6").await.unwrap();
    assert_eq!(client.get_prefix("").await.unwrap().len(), 3);
    let deleted = client.delete(Delete::new("a"..).with_prev_kv()).await.unwrap();
    assert_eq!(deleted.prev_kvs.len(), 3);
    client.put("jobs/1", "").await.unwrap();
    assert_eq!(client.delete_prefix("jobs/").await.unwrap().deleted, 1);
    assert_eq!(client.delete(KeyRange::all()).await.unwrap().deleted, 0);
}

#[tokio::test(start_paused = true)]
async fn compare_and_swap_keeps_the_lease() {
    let client = Client::new(MemBackend::new());
    let lease = client.lease_grant(LeaseGrant::new(secs(10))).await.unwrap().id;
    client.put_with(Put::new("a", "1").lease(lease)).await.unwrap();
    assert!(client.compare_and_swap("a", "1", "2").await.unwrap().is_swapped());
    assert_eq!(client.get("a").await.unwrap().unwrap().lease, Some(lease));
    let mut watcher = client.watch(Watch::new("a")).await.unwrap();
    client.lease_revoke(lease).await.unwrap();
    assert!(watcher.next().await.is_some());
}

/// A client is a backend itself, for layers and for code that takes any backend.
#[tokio::test(start_paused = true)]
async fn nested_client_shares_only_the_store() {
    let client = Client::new(MemBackend::new());
    let nested = Client::new(client.clone());
    nested.put("a", "1").await.unwrap();
    assert_eq!(client.get("a").await.unwrap().unwrap().value, "1");
    assert!(!Arc::ptr_eq(client.backend(), nested.backend()));
}
