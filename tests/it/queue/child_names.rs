//! Child names: keys of the queue `l/below` do not belong to the queue `l`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::{Client, queue::WaitQueue, recipes::MultiLock};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::enqueue;
use crate::support::{intercepted, keys, secs, session, session_on, settle};

/// Keys of a queue with a child name lie between a contender and the holder. From four keys on, the
/// usual read returns no other key of the contender's queue. That does not prove that there is no
/// predecessor.
#[tokio::test(start_paused = true)]
async fn contender_behind_child_name_keys_waits_for_holder() {
    for child_keys in [3, 4, 5, 20] {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        let (queue, child_queue) =
            (WaitQueue::new(&session, "l"), WaitQueue::new(&session, "l/below"));
        let holder = queue.enqueue("").await.unwrap();
        let child_contenders = join_all((0..child_keys).map(|_| child_queue.enqueue(""))).await;
        let mut contender = queue.enqueue("").await.unwrap();
        let acquired = timeout(secs(30), contender.acquired()).await;
        assert!(acquired.is_err(), "acquired behind {child_keys} keys of a child name");
        holder.release().await.unwrap();
        timeout(secs(1), contender.acquired()).await.expect("acquires at once").unwrap();
        drop(child_contenders);
    }
}

/// Puts a key from within a rule, which cannot wait.
fn put_now(store: &Client, key: &str) {
    let put = store.put(key, "").now_or_never().expect("MemBackend responds at once");
    put.expect("the store is available");
}

/// Another contender enqueues between the request that returned only keys of a child name and the
/// request that enqueues.
#[tokio::test(start_paused = true)]
async fn try_enqueue_after_child_names_sees_new_contender() {
    let store = Client::new(MemBackend::new());
    store.put("l/below/key", "").await.unwrap();
    let (other, txns) = (store.clone(), AtomicUsize::new(0));
    let rule = move |call: &Call| {
        if matches!(call, Call::Txn(_)) && txns.fetch_add(1, Ordering::Relaxed) == 1 {
            put_now(&other, "l/other");
        }
        Action::Pass
    };
    let session = session_on(intercepted(&store, rule)).await;
    assert!(WaitQueue::new(&session, "l").try_enqueue("").await.unwrap().is_none());
}

/// Regression: the keys of a child name sort before the holder's key, so a read of a few keys shows
/// none of the queue. The queue was then taken for empty, and `try_enqueue` enqueued as the first.
#[tokio::test(start_paused = true)]
async fn try_enqueue_does_not_take_a_limited_read_for_all_keys() {
    for child_keys in [1, 4, 5, 6, 20] {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        let holder = WaitQueue::new(&session, "l").enqueue("").await.unwrap();
        for n in 0..child_keys {
            store.put(format!("l/0/{n:02}"), "").await.unwrap();
        }
        let queue = WaitQueue::new(&session, "l");
        assert!(queue.try_enqueue("").await.unwrap().is_none(), "behind {child_keys} keys");
        let both = MultiLock::new(&session, ["l", "m"]).unwrap();
        assert!(both.try_lock().await.unwrap().is_none(), "behind {child_keys} keys");
        holder.release().await.unwrap();
        drop(both.try_lock().await.unwrap().expect("both names are free"));
        settle().await;
        assert!(queue.try_enqueue("").await.unwrap().is_some(), "beside {child_keys} keys");
    }
}

/// Before each transaction of `try_enqueue` another client puts a key under a child name, so that
/// no transaction finds its range unchanged since the last read.
#[tokio::test(start_paused = true)]
async fn try_enqueue_returns_while_child_names_change() {
    for is_held in [false, true] {
        let store = Client::new(MemBackend::new());
        let (other, txns) = (store.clone(), AtomicUsize::new(0));
        let rule = move |call: &Call| {
            if matches!(call, Call::Txn(_)) {
                let n = txns.fetch_add(1, Ordering::Relaxed);
                put_now(&other, &format!("l/below/{n}"));
            }
            Action::Delay(Duration::from_millis(1))
        };
        let holder_session = session(&store).await;
        let holder = if is_held { Some(enqueue(&holder_session).await) } else { None };
        let session = session_on(intercepted(&store, rule)).await;
        let contender = timeout(secs(1), WaitQueue::new(&session, "l").try_enqueue("")).await;
        let contender = contender.expect("returns within a second").unwrap();
        assert_eq!(contender.is_none(), is_held);
        drop((contender, holder));
        settle().await;
        let remaining = keys(&store, "l/").await;
        assert!(remaining.iter().all(|key| key.starts_with("l/below/")), "{remaining:?}");
    }
}
