//! What the primitives cost above the requests they make, on `MemBackend`.
//!
//! Every figure is to be read against the first: the two transactions that a lock cannot do
//! without, one that creates a key on a lease and one that deletes it.
//!
//! `cargo bench -p coord-core`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_core::{
    Client, Election, Mutex, Session,
    kv::{Compare, CompareOp, Delete, Put, Revision, Txn},
};
use coord_mem::MemBackend;
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime can be built")
}

/// Forgets history by itself, lest memory grow with the length of the benchmark.
fn store() -> Client {
    Client::new(MemBackend::builder().retain_revisions(1_000).build())
}

async fn session(store: &Client) -> Session {
    Session::builder(store).open().await.expect("the store takes it")
}

fn alone(criterion: &mut Criterion) {
    let runtime = runtime();
    let store = store();
    let owner = runtime.block_on(session(&store));

    let lease = owner.lease_id();
    criterion.bench_function("two transactions: create a key, delete it", |bench| {
        bench.to_async(&runtime).iter(async || {
            let create = Txn::new().when([Compare::absent("k")]);
            let created = store.txn(create.and_then([Put::new("k", "").lease(lease)])).await;
            let created = created.expect("the store takes it").header.revision;
            let same = Compare::create_revision("k", CompareOp::Equal, created);
            let deleted = store.txn(Txn::new().when([same]).and_then([Delete::new("k")])).await;
            assert!(deleted.expect("the store takes it").succeeded);
        });
    });

    let mutex = Mutex::new(&owner, "mutex");
    criterion.bench_function("lock, unlock", |bench| {
        bench.to_async(&runtime).iter(async || {
            let guard = mutex.lock().await.expect("the store takes it");
            guard.unlock().await.expect("still held");
        });
    });

    let election = Election::new(&owner, "election");
    criterion.bench_function("campaign, resign", |bench| {
        bench.to_async(&runtime).iter(async || {
            let leadership = election.campaign("me").await.expect("the store takes it");
            leadership.resign().await.expect("still leads");
        });
    });

    criterion.bench_function("open a session, close it", |bench| {
        bench.to_async(&runtime).iter(async || {
            session(&store).await.close().await.expect("the store takes it");
        });
    });
}

/// So many contenders, each on a session of its own, take turns; measured is one turn.
fn contended(criterion: &mut Criterion) {
    for contenders in [2, 64, 1_000] {
        let runtime = runtime();
        let store = store();
        let name = format!("one turn of {contenders} contenders");
        criterion.bench_function(&name, |bench| {
            bench.iter_custom(|turns| runtime.block_on(take_turns(&store, contenders, turns)));
        });
    }
}

async fn take_turns(store: &Client, contenders: usize, turns: u64) -> Duration {
    let mut sessions = Vec::new();
    for _ in 0..contenders {
        sessions.push(session(store).await);
    }
    let taken = Arc::new(AtomicU64::new(0));
    let newest = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut line = JoinSet::new();
    for session in sessions {
        let (taken, newest) = (Arc::clone(&taken), Arc::clone(&newest));
        line.spawn(async move {
            let mutex = Mutex::new(&session, "mutex");
            while taken.fetch_add(1, Ordering::Relaxed) < turns {
                let guard = mutex.lock().await.expect("the store takes it");
                let Revision(token) = guard.fencing_token().0;
                let token = u64::try_from(token).expect("revisions are positive");
                assert!(newest.swap(token, Ordering::Relaxed) < token, "one at a time, in order");
                // Without this nobody would ever find the lock held.
                yield_now().await;
                guard.unlock().await.expect("still held");
            }
        });
    }
    line.join_all().await;
    began.elapsed()
}

criterion_group!(benches, alone, contended);
criterion_main!(benches);
