//! Benchmarks: `MemBackend` compared with a bare map, and the cost of idle watchers for writers.
//!
//! The bare map is a `BTreeMap` of keys and values behind one lock. Compare each result of
//! `MemBackend` with the result of the bare map for the same work. Both hold 100,000 keys, which
//! are visited in scattered order.
//!
//! `cargo bench -p coord-mem`

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::RwLock;

use bytes::Bytes;
use coord_core::{
    KvBackend as _,
    kv::{Compact, Put, Range, Watch, Watcher},
};
use coord_mem::MemBackend;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};

const KEY_COUNT: u64 = 100_000;

/// All keys, in an order unrelated to key order.
fn keys() -> Vec<Bytes> {
    // The step and the number of keys are coprime, so each key appears once.
    let scattered = (0..KEY_COUNT).map(|n| n * 61_803_399 % KEY_COUNT);
    scattered.map(|n| Bytes::from(format!("key/{n:08}"))).collect()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime can be built")
}

/// A backend with all keys.
fn filled_backend(runtime: &Runtime) -> MemBackend {
    let store = MemBackend::new();
    runtime.block_on(async {
        for key in keys() {
            store.put(Put::new(key, "value")).await.expect("the put is accepted");
        }
    });
    store
}

/// The bare map, with all keys.
fn bare_map() -> RwLock<BTreeMap<Bytes, Bytes>> {
    RwLock::new(keys().into_iter().map(|key| (key, Bytes::from_static(b"value"))).collect())
}

/// Measures `step` on a hundred keys at a time, and runs `cleanup` between measurements.
fn bench_over_keys(
    criterion: &mut Criterion,
    name: &str,
    cleanup: impl Fn(),
    mut step: impl FnMut(&[Bytes]),
) {
    let keys = keys();
    let mut chunks = keys.chunks(100).cycle();
    criterion.bench_function(name, |bench| {
        bench.iter_batched(
            || {
                cleanup();
                chunks.next().expect("the cycle never ends")
            },
            &mut step,
            BatchSize::PerIteration,
        );
    });
}

/// Compacts the history of the puts, so that memory does not grow with the length of the benchmark.
fn compact(runtime: &Runtime, store: &MemBackend) {
    runtime.block_on(async {
        let newest = store.range(Range::new("none")).await.expect("the store responds");
        let newest = newest.header.revision;
        // The compaction fails if nothing was written since the previous one.
        let _ = store.compact(Compact::new(newest)).await;
    });
}

fn get(criterion: &mut Criterion) {
    let map = bare_map();
    bench_over_keys(
        criterion,
        "get x100, bare map",
        || {},
        |keys| {
            for key in keys {
                let map = map.read().expect("no holder of the lock panics");
                black_box(map.get_key_value(key).map(|(key, value)| (key.clone(), value.clone())));
            }
        },
    );
    let runtime = runtime();
    let store = filled_backend(&runtime);
    bench_over_keys(
        criterion,
        "get x100, MemBackend",
        || {},
        |keys| {
            runtime.block_on(async {
                for key in keys {
                    black_box(store.range(Range::new(key)).await.expect("the store responds"));
                }
            });
        },
    );
}

fn put(criterion: &mut Criterion) {
    let value = Bytes::from_static(b"other");
    let map = bare_map();
    bench_over_keys(
        criterion,
        "put x100, bare map",
        || {},
        |keys| {
            for key in keys {
                black_box(
                    map.write()
                        .expect("no holder of the lock panics")
                        .insert(key.clone(), value.clone()),
                );
            }
        },
    );
    let runtime = runtime();
    let idle = |at| (0..10_000).map(|n| format!("{at}/{n:05}/")).collect();
    let watched = [
        ("no watchers", vec![]),
        ("10,000 idle watchers elsewhere", idle("idle")),
        ("10,000 idle watchers with that prefix", idle("key/000")),
    ];
    for (watchers, names) in watched {
        let store = filled_backend(&runtime);
        let idle: Vec<Watcher> = runtime.block_on(async {
            let mut idle = Vec::new();
            for (name, n) in names.into_iter().zip(0..) {
                // Half of the watchers watch a key, half a prefix. No watched key is written.
                let request = if n % 2 == 0 { Watch::new(name) } else { Watch::prefix(name) };
                idle.push(store.watch(request).await.expect("the watch is accepted"));
            }
            idle
        });
        let name = format!("put x100, MemBackend, {watchers}");
        bench_over_keys(
            criterion,
            &name,
            || compact(&runtime, &store),
            |keys| {
                runtime.block_on(async {
                    for key in keys {
                        black_box(
                            store.put(Put::new(key, &value)).await.expect("the put is accepted"),
                        );
                    }
                });
            },
        );
        drop(idle);
    }
}

/// Puts one key repeatedly, with bounded history. The cost must not depend on the number of
/// retained revisions.
fn put_one_key(criterion: &mut Criterion) {
    let runtime = runtime();
    for retained in [100, 100_000] {
        let store = MemBackend::builder().retain_revisions(retained).build();
        runtime.block_on(async {
            for _ in 0..=retained {
                store.put(Put::new("key", "value")).await.expect("the put is accepted");
            }
        });
        criterion.bench_function(&format!("put, one key with {retained} revisions"), |bench| {
            bench.to_async(&runtime).iter(|| store.put(Put::new("key", "value")));
        });
    }
}

criterion_group!(benches, get, put, put_one_key);
criterion_main!(benches);
