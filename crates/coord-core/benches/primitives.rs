//! Benchmarks of the primitives on `MemBackend`: their overhead over the requests that they send.
//!
//! The benchmark "baseline" sends the two transactions that every lock needs: one that creates a
//! key on a lease and one that deletes it.
//!
//! `cargo bench -p coord-core`

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{self, Arc};
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Client, Election, Mutex, Session, Stm,
    kv::{Compare, CompareOp, Delete, KeyValue, Op, Put, Revision, Txn},
    recipes::PrefixCache,
    recording::{Attempt, AttemptRecorder},
};
use coord_mem::MemBackend;
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime can be built")
}

/// A store that compacts its history by itself, so that memory does not grow with the number of
/// iterations.
fn store() -> Client {
    Client::new(MemBackend::builder().retain_revisions(1_000).build())
}

async fn session(store: &Client) -> Session {
    Session::builder(store).open().await.expect("the store is available")
}

/// Reads of a prefix cache, compared with those of a map behind a lock.
fn cached_reads(criterion: &mut Criterion) {
    let runtime = runtime();
    for keys in [1_000, 10_000, 100_000] {
        let store = store();
        let names: Vec<_> = (0..keys).map(|n| Bytes::from(format!("jobs/{n:08}"))).collect();
        let cache = runtime.block_on(async {
            for chunk in names.chunks(100) {
                let puts = chunk.iter().map(|key| Op::from(Put::new(key, "0123456789abcdef")));
                store.txn(Txn::new().and_then(puts)).await.expect("the store is available");
            }
            PrefixCache::open(&store, "jobs/").await.expect("the store is available")
        });
        let map: BTreeMap<Bytes, KeyValue> =
            cache.snapshot().iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
        let map = sync::Mutex::new(map);
        // Keys in no order, so that one read does not prepare the next.
        let mut rng = fastrand::Rng::with_seed(1);
        let probes: Vec<_> = (0..4_096).map(|_| &names[rng.usize(..names.len())]).collect();
        let mut next = probes.iter().cycle();
        criterion.bench_function(&format!("get of a map of {keys} keys behind a lock"), |bench| {
            bench.iter(|| {
                let key = next.next().expect("it has no end");
                let map = map.lock().expect("no panic while locked");
                black_box(map.get(&key[..]).cloned())
            });
        });
        let mut next = probes.iter().cycle();
        criterion.bench_function(&format!("get of a prefix cache of {keys} keys"), |bench| {
            bench.iter(|| black_box(cache.get(next.next().expect("it has no end"))));
        });
    }
}

fn uncontended(criterion: &mut Criterion) {
    let runtime = runtime();
    let store = store();
    let owner = runtime.block_on(session(&store));

    let lease = owner.lease_id();
    criterion.bench_function("baseline: create and delete a key", |bench| {
        bench.to_async(&runtime).iter(async || {
            let create = Txn::new().when([Compare::absent("k")]);
            let created = store.txn(create.and_then([Put::new("k", "").lease(lease)])).await;
            let created = created.expect("the store is available").header.revision;
            let is_held = Compare::create_revision("k", CompareOp::Equal, created);
            let deleted = store.txn(Txn::new().when([is_held]).and_then([Delete::new("k")])).await;
            assert!(deleted.expect("the store is available").succeeded);
        });
    });

    let mutex = Mutex::new(&owner, "mutex");
    criterion.bench_function("lock and unlock, uncontended", |bench| {
        bench.to_async(&runtime).iter(async || {
            let guard = mutex.lock().await.expect("the store is available");
            guard.unlock().await.expect("still held");
        });
    });

    let election = Election::new(&owner, "election");
    criterion.bench_function("campaign and resign, uncontended", |bench| {
        bench.to_async(&runtime).iter(async || {
            let leadership = election.campaign("me").await.expect("the store is available");
            leadership.resign().await.expect("still leads");
        });
    });

    criterion.bench_function("open and close a session", |bench| {
        bench.to_async(&runtime).iter(async || {
            session(&store).await.close().await.expect("the store is available");
        });
    });
}

/// A recorder that discards the records: the cost is that of making them.
#[derive(Debug)]
struct Discard(Instant);

impl AttemptRecorder for Discard {
    fn transaction_number(&self) -> u64 {
        1
    }

    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn record(&self, attempt: Attempt, _: Duration) {
        drop(attempt);
    }
}

/// A transaction that reads and writes two keys, without and with records of its attempts.
fn transactions(criterion: &mut Criterion) {
    let runtime = runtime();
    let recorded = store().record_transactions(Discard(Instant::now()));
    for (name, client) in [("transaction", store()), ("transaction, recorded", recorded)] {
        let stm = Stm::new(&client);
        criterion.bench_function(name, |bench| {
            bench.to_async(&runtime).iter(async || {
                let run = stm.run(async |tx| {
                    let read = tx.get_many(["a", "b"]).await?;
                    tx.put("a", "1");
                    tx.put("b", "2");
                    Ok::<_, coord_core::Error>(read)
                });
                run.await.expect("no other client writes");
            });
        });
    }
}

/// Contenders, each on a session of its own, acquire and release one lock, one contender at a time.
/// The figure is the time of one acquisition and release.
fn contended(criterion: &mut Criterion) {
    for contenders in [2, 64, 1_000] {
        let runtime = runtime();
        let store = store();
        let name = format!("lock and unlock, {contenders} contenders");
        criterion.bench_function(&name, |bench| {
            bench.iter_custom(|count| runtime.block_on(contend(&store, contenders, count)));
        });
    }
}

/// Returns the time that `count` acquisitions take.
async fn contend(store: &Client, contenders: usize, count: u64) -> Duration {
    let mut sessions = Vec::new();
    for _ in 0..contenders {
        sessions.push(session(store).await);
    }
    let started = Arc::new(AtomicU64::new(0));
    let newest_token = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for session in sessions {
        let (started, newest_token) = (Arc::clone(&started), Arc::clone(&newest_token));
        tasks.spawn(async move {
            let mutex = Mutex::new(&session, "mutex");
            while started.fetch_add(1, Ordering::Relaxed) < count {
                let guard = mutex.lock().await.expect("the store is available");
                let Revision(token) = guard.fencing_token().0;
                let token = u64::try_from(token).expect("revisions are positive");
                let previous = newest_token.swap(token, Ordering::Relaxed);
                assert!(previous < token, "one holder at a time, in order");
                // Lets the other contenders enqueue. Otherwise the lock would never be contended.
                yield_now().await;
                guard.unlock().await.expect("still held");
            }
        });
    }
    tasks.join_all().await;
    began.elapsed()
}

criterion_group!(benches, cached_reads, uncontended, transactions, contended);
criterion_main!(benches);
