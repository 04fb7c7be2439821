//! What the adapter costs above the bare client crate.
//!
//! Puts and gets on one etcd 3.5, by one worker and by 64, each figure to be read against the bare
//! one beside it: the same requests, by a client of `etcd-client` that is cloned for each worker.
//!
//! `cargo bench -p coord-etcd-tests`

use std::hint::black_box;

use coord_core::{
    KvBackend as _,
    kv::{Put, Range},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Release, Setup};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use etcd_client::KvClient;
use futures_util::future::join_all;
use tokio::runtime::Runtime;

/// How many requests each worker makes in a measurement.
const EACH: usize = 10;
const WORKERS: [usize; 2] = [1, 64];

fn key(worker: usize, n: usize) -> String {
    format!("bench/{worker:02}/{n}")
}

/// Measures `work`, given a worker's number, done by many workers at once.
fn bench<F: Future<Output = ()>>(
    criterion: &mut Criterion,
    runtime: &Runtime,
    name: &str,
    work: impl Fn(usize) -> F,
) {
    let mut group = criterion.benchmark_group(name);
    for workers in WORKERS {
        group.bench_function(BenchmarkId::from_parameter(format!("{workers} workers")), |bench| {
            bench.iter(|| runtime.block_on(join_all((0..workers).map(&work))));
        });
    }
    group.finish();
}

async fn put_bare(mut client: KvClient, worker: usize) {
    for n in 0..EACH {
        black_box(client.put(key(worker, n), "value", None).await.expect("etcd is there"));
    }
}

async fn put(etcd: EtcdBackend, worker: usize) {
    for n in 0..EACH {
        let put = Put::new(key(worker, n), "value");
        black_box(etcd.put(put).await.expect("etcd is there"));
    }
}

async fn get_bare(mut client: KvClient, worker: usize) {
    for n in 0..EACH {
        black_box(client.get(key(worker, n), None).await.expect("etcd is there"));
    }
}

async fn get(etcd: EtcdBackend, worker: usize) {
    for n in 0..EACH {
        black_box(etcd.range(Range::new(key(worker, n))).await.expect("etcd is there"));
    }
}

fn adapter(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be had");
    let cluster = runtime.block_on(Setup::new(Release::newest()).start());
    let (etcd, client) = runtime.block_on(async {
        let etcd = EtcdBackend::connect(cluster.endpoints()).await.expect("etcd is there");
        let bare = etcd_client::Client::connect(cluster.endpoints(), None).await;
        (etcd, bare.expect("etcd is there").kv_client())
    });
    bench(criterion, &runtime, "put x10, bare client", |n| put_bare(client.clone(), n));
    bench(criterion, &runtime, "put x10, EtcdBackend", |n| put(etcd.clone(), n));
    bench(criterion, &runtime, "get x10, bare client", |n| get_bare(client.clone(), n));
    bench(criterion, &runtime, "get x10, EtcdBackend", |n| get(etcd.clone(), n));
    drop(cluster);
}

criterion_group!(benches, adapter);
criterion_main!(benches);
