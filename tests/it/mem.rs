//! Tests of `MemBackend` beyond the contract of all backends: configuration, limits, leases,
//! history.

mod backup;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use coord_core::{
    Client, Error,
    error::ErrorKind,
    kv::{
        Compact, Delete, EventKind, KeyRange, LeaseGrant, Limits, Op, Put, Range, Revision, Txn,
        Watch,
    },
};
use coord_mem::MemBackend;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{secs, settle};

/// The compact revision that an error reports.
fn compact_revision(error: &Error) -> Option<Revision> {
    match error {
        Error::Compacted { compact_revision, .. } => *compact_revision,
        other => panic!("{other} is not a compaction error"),
    }
}

#[tokio::test(start_paused = true)]
async fn clones_share_the_store() {
    let store = Client::new(MemBackend::new());
    store.clone().put("a", "1").await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "1");
}

#[tokio::test(start_paused = true)]
async fn retained_history_is_bounded_and_readable() {
    let store = Client::new(MemBackend::builder().retain_revisions(10).build());
    for n in 0..100 {
        store.put("a", n.to_string()).await.unwrap();
    }
    let newest = store.get("a").await.unwrap().unwrap().mod_revision;
    let oldest = Revision(newest.0 - 10);
    let retained = store.range(Range::new("a").at(oldest)).await.unwrap();
    assert_eq!(retained.kvs[0].mod_revision, oldest);
    let error = store.range(Range::new("a").at(oldest.previous())).await.unwrap_err();
    assert_eq!(compact_revision(&error), Some(oldest));
}

#[tokio::test(start_paused = true)]
async fn lease_clock_runs_at_its_configured_rate() {
    for (rate, expected) in [(1.0, 10.0), (2.0, 5.0), (0.5, 20.0)] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let lease = store.lease_grant(LeaseGrant::new(secs(10))).await.unwrap().id;
        store.put_with(Put::new("a", "1").lease(lease)).await.unwrap();
        let mut watch = store.watch(Watch::new("a")).await.unwrap();
        let began = Instant::now();
        watch.next().await.unwrap().unwrap();
        let expired = began.elapsed().as_secs_f64();
        assert!((expected..expected + 0.01).contains(&expired), "rate {rate}: {expired} s");
    }
    let stopped = Client::new(MemBackend::builder().lease_clock_rate(0.0).build());
    let lease = stopped.lease_grant(LeaseGrant::new(secs(10))).await.unwrap().id;
    stopped.put_with(Put::new("a", "1").lease(lease)).await.unwrap();
    sleep(secs(1_000_000)).await;
    assert!(stopped.get("a").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn leases_expire_in_order_of_deadline_and_id() {
    let store = Client::new(MemBackend::new());
    for (key, ttl, id) in [("a", 9, 3), ("b", 5, 2), ("c", 5, 1), ("d", 5, -4)] {
        let grant = LeaseGrant::new(secs(ttl)).id(coord_core::kv::LeaseId::new(id));
        let lease = store.lease_grant(grant).await.unwrap().id;
        store.put_with(Put::new(key, "").lease(lease)).await.unwrap();
    }
    let mut watch = store.watch(Watch::prefix("")).await.unwrap();
    let mut deleted = String::new();
    while deleted.len() < 4 {
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(batch.events.len(), 1, "two leases expired at one revision");
        deleted += std::str::from_utf8(&batch.events[0].kv.key).unwrap();
    }
    assert_eq!(deleted, "dcba");
}

#[tokio::test(start_paused = true)]
async fn unread_watch_catches_up_without_a_gap() {
    let store = Client::new(MemBackend::new());
    let mut watch = store.watch(Watch::new("a")).await.unwrap();
    for n in 0..5_000 {
        store.put("a", n.to_string()).await.unwrap();
    }
    for n in 0..5_000 {
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(batch.events[0].kv.value, n.to_string());
    }
    store.put("a", "last").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.value, "last");
}

#[tokio::test(start_paused = true)]
async fn watch_behind_a_compaction_ends_with_an_error() {
    let store = Client::new(MemBackend::new());
    let mut watch = store.watch(Watch::new("a")).await.unwrap();
    let mut newest = Revision::ZERO;
    for _ in 0..5_000 {
        newest = store.put("a", "").await.unwrap().header.revision;
    }
    store.compact(Compact::new(newest)).await.unwrap();
    let mut delivered = 0;
    let error = loop {
        match watch.next().await.unwrap() {
            Ok(_) => delivered += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(delivered, 1024, "buffered batches were lost");
    assert_eq!(compact_revision(&error), Some(newest));
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn progress_notifications_are_periodic_without_events() {
    let store = Client::new(MemBackend::builder().progress_interval(secs(60)).build());
    let mut watch = store.watch(Watch::new("a").with_progress_notify()).await.unwrap();
    let began = Instant::now();
    let revision = store.put("b", "").await.unwrap().header.revision;
    let progress = watch.next().await.unwrap().unwrap();
    assert_eq!((progress.revision, progress.events.len()), (revision, 0));
    assert_eq!(began.elapsed(), secs(60));
    sleep(secs(30)).await;
    store.put("a", "").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
    let began = Instant::now();
    assert!(watch.next().await.unwrap().unwrap().events.is_empty());
    assert_eq!(began.elapsed(), secs(60), "the interval does not start at the last event");
}

/// Computing the time of the next progress notification overflowed the clock, and panicked.
#[tokio::test(start_paused = true)]
async fn maximal_progress_interval_disables_notifications() {
    let store = Client::new(MemBackend::builder().progress_interval(Duration::MAX).build());
    let mut watch = store.watch(Watch::new("a").with_progress_notify()).await.unwrap();
    store.put("a", "").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
    timeout(secs(1_000_000), watch.next()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn configured_limits_are_enforced() {
    let limits = Limits { max_txn_ops: 2, max_request_bytes: 1000 };
    let store = Client::new(MemBackend::builder().limits(limits).build());
    assert_eq!(store.limits(), limits);
    let puts = |n: usize| Txn::new().and_then((0..n).map(|n| Put::new(n.to_string(), "")));
    store.txn(puts(2)).await.unwrap();
    assert_eq!(store.txn(puts(3)).await.unwrap_err().kind(), ErrorKind::TooManyOps);
    store.put("a", "x".repeat(900)).await.unwrap();
    let error = store.put("a", "x".repeat(1000)).await.unwrap_err();
    assert!(matches!(error, Error::RequestTooLarge { limit_bytes: 1000, .. }), "{error}");
}

/// The limits of etcd's log and of its transport: see `docs/etcd-contract.md` §8.
#[tokio::test(start_paused = true)]
async fn message_over_etcds_transport_limit_is_rejected() {
    let store = Client::new(MemBackend::new());
    let long = "k".repeat(2 << 20);
    for error in [
        store.get(&long).await.unwrap_err(),
        store.txn(Txn::new().and_then([Range::new(&long)])).await.unwrap_err(),
        store.watch(Watch::new(&long)).await.unwrap_err(),
    ] {
        assert_eq!(limit_in(&error), 2 << 20, "{error}");
    }
    // The transport rejects a write before the store checks anything else.
    let duplicate_puts =
        [Op::from(Put::new("a", "")), Put::new("a", "").into(), Put::new(&long, "").into()];
    for error in [
        store.delete(&long).await.unwrap_err(),
        store.put(&long, "").await.unwrap_err(),
        store.put("", &long).await.unwrap_err(),
        store.txn(Txn::new().and_then(duplicate_puts)).await.unwrap_err(),
    ] {
        assert_eq!(limit_in(&error), 3 << 19, "{error}");
    }
    let readable = "k".repeat((2 << 20) - 100);
    assert!(
        store.get(&readable).await.unwrap().is_none(),
        "the size limit of writes applies to a read"
    );
}

/// The limit that an error reports, which must be a size error.
fn limit_in(error: &Error) -> usize {
    match *error {
        Error::RequestTooLarge { size_bytes, limit_bytes } => {
            assert!(size_bytes > limit_bytes, "{error}");
            limit_bytes
        }
        _ => panic!("{error} is not a size error"),
    }
}

#[tokio::test(start_paused = true)]
async fn write_over_either_limit_reports_the_lower_limit() {
    let store = Client::new(MemBackend::new());
    for bytes in [1_600_000, 2_000_000, 2_100_000, 8_000_000] {
        let error = store.put("abc", vec![0; bytes]).await.unwrap_err();
        assert_eq!(limit_in(&error), 3 << 19, "{bytes} bytes");
    }
    // The envelope, the fields and their lengths take 26 bytes of this put.
    store.put("abc", vec![0; (3 << 19) - 26]).await.unwrap();
}

/// Without cooperative scheduling, the loop would block a runtime with one thread.
#[tokio::test(start_paused = true)]
async fn busy_loop_on_the_store_lets_other_tasks_run() {
    let store = Client::new(MemBackend::new());
    let mut others = tokio::task::JoinSet::new();
    let other = store.clone();
    others.spawn(async move { other.put("go", "1").await.unwrap() });
    while store.get("go").await.unwrap().is_none() {}
    others.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn same_calls_and_seed_give_identical_responses() {
    let run = async |seed| {
        let store = Client::new(MemBackend::builder().seed(seed).build());
        let mut watch = store.watch(Watch::prefix("")).await.unwrap();
        let lease = store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap();
        let mut transcript = format!("{lease:?}");
        for key in ["c", "a", "b"] {
            let put = Put::new(key, "").lease(lease.id).with_prev_kv();
            transcript += &format!("{:?}", store.put_with(put).await.unwrap());
        }
        sleep(secs(6)).await;
        for _ in 0..4 {
            transcript += &format!("{:?}", watch.next().await.unwrap().unwrap());
        }
        transcript
    };
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await, run(8).await);
}

/// A restarted store granted the same lease ids again, so that a client of the earlier store kept
/// the lease of another client alive.
#[tokio::test(start_paused = true)]
async fn each_store_chooses_different_ids() {
    let grant = async || {
        let store = Client::new(MemBackend::new());
        let granted = store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap();
        (granted.header.cluster_id, granted.header.member_id, granted.id)
    };
    let (one, other) = (grant().await, grant().await);
    assert!(one.0 != other.0 && one.1 != other.1 && one.2 != other.2, "{one:?} {other:?}");
    assert_eq!(one.2.to_string().len(), 16);
}

/// Tests on different runtimes may share a store.
#[test]
fn lease_timer_moves_to_a_live_runtime() {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let store = Client::new(MemBackend::new());
    let first = runtime().unwrap();
    first.block_on(async { store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap() });
    drop(first);
    let second = runtime().unwrap();
    second.block_on(async {
        let lease = store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap().id;
        store.put_with(Put::new("a", "").lease(lease)).await.unwrap();
        let mut watch = store.watch(Watch::new("a")).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
    });
}

#[test]
fn store_without_a_runtime_expires_leases_on_the_next_call() {
    let store = Client::new(MemBackend::builder().lease_clock_rate(1e6).build());
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("a call is pending"),
        }
    }
    let lease = now(store.lease_grant(LeaseGrant::new(secs(3_600)))).unwrap().id;
    now(store.put_with(Put::new("a", "1").lease(lease))).unwrap();
    while now(store.get("a")).unwrap().is_some() {
        std::hint::spin_loop();
    }
    assert!(now(store.leases()).unwrap().leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn watch_outlives_the_handle_that_opened_it() {
    let store = Client::new(MemBackend::new());
    let other = store.clone();
    let mut watch = store.watch(Watch::new("a")).await.unwrap();
    drop(store);
    settle().await;
    other.put("a", "1").await.unwrap();
    let batch = tokio::time::timeout(Duration::from_secs(1), watch.next()).await.unwrap();
    assert_eq!(batch.unwrap().unwrap().events.len(), 1);
}

/// A compaction while leases were overdue first expired the leases, and then removed their deletion
/// events before these were delivered. Found by the model test.
#[tokio::test(start_paused = true)]
async fn compaction_keeps_deletion_events_of_expired_leases() {
    let store = Client::new(MemBackend::new());
    for (key, id) in [("a", 1), ("b", 2)] {
        let grant = LeaseGrant::new(secs(2)).id(coord_core::kv::LeaseId::new(id));
        let lease = store.lease_grant(grant).await.unwrap().id;
        store.put_with(Put::new(key, "").lease(lease)).await.unwrap();
    }
    let mut watch = store.watch(Watch::prefix("").with_prev_kv()).await.unwrap();
    tokio::task::yield_now().await;
    // The clock jumps, and the compaction runs before the lease timer.
    tokio::time::advance(secs(3)).await;
    store.compact(Compact::new(Revision(5))).await.unwrap();
    for (revision, key) in [(4, "a"), (5, "b")] {
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(
            (batch.revision, &batch.events[0].kv.key[..]),
            (Revision(revision), key.as_bytes())
        );
        assert!(batch.events[0].prev_kv.is_some());
    }
}

/// Of the compact revision, only the last change of each key is retained. Found by the model
/// test.
#[tokio::test(start_paused = true)]
async fn watch_from_compact_revision_receives_last_changes() {
    let store = Client::new(MemBackend::new());
    let put = Op::from(Put::new("a", ""));
    let delete = Op::from(Delete::new(KeyRange::starting_at("a")));
    let txn = store.txn(Txn::new().and_then([put, delete])).await.unwrap();
    let revision = txn.header.revision;
    store.compact(Compact::new(revision)).await.unwrap();
    let mut watch = store.watch(Watch::new("a").start_at(revision)).await.unwrap();
    let batch = watch.next().await.unwrap().unwrap();
    let kinds: Vec<_> = batch.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Delete]);
}

/// etcd 3.5 checks the start revision before the range.
#[tokio::test(start_paused = true)]
async fn watch_with_invalid_start_and_range_reports_the_start() {
    let store = Client::new(MemBackend::new());
    let request = Watch::new(KeyRange::from_wire("b", "a")).start_at(Revision(-1));
    assert_eq!(store.watch(request).await.unwrap_err().kind(), ErrorKind::Compacted);
}
