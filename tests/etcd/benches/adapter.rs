//! Benchmark of the adapter against the client crate `etcd-client`.
//!
//! It measures puts and gets on the newest installed etcd, by 1 worker and by 64. Compare each
//! figure of the adapter with the figure of the client crate, which makes the same requests with
//! one client, cloned for each worker.
//!
//! It also measures additions to a counter of one key and to a striped counter, by clients that
//! share no conflict queue, as in as many processes. And it measures messages that are put into a
//! queue and taken, at most once and with an acknowledgement, by the clones of one handle.
//!
//! `cargo bench -p coord-etcd-tests`
#![expect(clippy::unwrap_used, reason = "a call that fails ends the benchmark")]

use std::hint::black_box;

use coord_core::{
    Client, KvBackend as _, Session,
    kv::{Put, Range},
    recipes::{MessageQueue, StripedCounter},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{ClusterBuilder, Release};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use etcd_client::KvClient;
use futures_util::future::join_all;
use tokio::runtime::Runtime;

/// The number of requests that each worker makes in a measurement.
const REQUESTS_PER_WORKER: usize = 10;
/// The numbers of concurrent workers.
const WORKERS: [usize; 2] = [1, 64];

fn key(worker: usize, n: usize) -> String {
    format!("bench/{worker:02}/{n}")
}

/// Measures `work`, called with the number of each worker, by several workers concurrently.
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

async fn client_put(mut client: KvClient, worker: usize) {
    for n in 0..REQUESTS_PER_WORKER {
        black_box(client.put(key(worker, n), "value", None).await.unwrap());
    }
}

async fn adapter_put(etcd: EtcdBackend, worker: usize) {
    for n in 0..REQUESTS_PER_WORKER {
        let put = Put::new(key(worker, n), "value");
        black_box(etcd.put(put).await.unwrap());
    }
}

async fn client_get(mut client: KvClient, worker: usize) {
    for n in 0..REQUESTS_PER_WORKER {
        black_box(client.get(key(worker, n), None).await.unwrap());
    }
}

async fn adapter_get(etcd: EtcdBackend, worker: usize) {
    for n in 0..REQUESTS_PER_WORKER {
        black_box(etcd.range(Range::new(key(worker, n))).await.unwrap());
    }
}

/// Additions to a counter with one stripe for each of 64 workers, or with one stripe.
async fn additions(counter: StripedCounter) {
    for _ in 0..REQUESTS_PER_WORKER {
        counter.add(1).await.unwrap();
    }
}

fn counters(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let cluster = runtime.block_on(ClusterBuilder::new(Release::newest()).start());
    let etcd = runtime.block_on(EtcdBackend::connect(cluster.endpoints())).unwrap();
    let workers = WORKERS[1];
    // Clients that do not share the conflict queues of one process.
    let clients: Vec<_> = (0..workers).map(|_| Client::new(etcd.clone())).collect();
    for (name, stripes) in [("add x10, exact counter", 1), ("add x10, striped counter", workers)] {
        let counters: Vec<_> = clients
            .iter()
            .map(|client| StripedCounter::new(client, name, stripes).unwrap())
            .collect();
        bench(criterion, &runtime, name, |n| additions(counters[n].clone()));
    }
    drop(cluster);
}

/// Puts a message and takes one, in turn.
async fn pass_messages(queue: MessageQueue, acknowledges: bool) {
    for _ in 0..REQUESTS_PER_WORKER {
        queue.put("message").await.unwrap();
        if acknowledges {
            queue.take().await.unwrap().acknowledge().await.unwrap();
        } else {
            black_box(queue.take_at_most_once().await.unwrap());
        }
    }
}

fn message_queues(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let cluster = runtime.block_on(ClusterBuilder::new(Release::newest()).start());
    let queue = runtime.block_on(async {
        let etcd = EtcdBackend::connect(cluster.endpoints()).await.unwrap();
        let session = Session::builder(&Client::new(etcd)).open().await.unwrap();
        MessageQueue::new(&session, "messages")
    });
    for (name, acknowledges) in
        [("put and take x10, at most once", false), ("put, take and acknowledge x10", true)]
    {
        bench(criterion, &runtime, name, |_| pass_messages(queue.clone(), acknowledges));
    }
    drop(cluster);
}

fn adapter(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let cluster = runtime.block_on(ClusterBuilder::new(Release::newest()).start());
    let (etcd, client) = runtime.block_on(async {
        let etcd = EtcdBackend::connect(cluster.endpoints()).await.unwrap();
        let client = etcd_client::Client::connect(cluster.endpoints(), None).await;
        (etcd, client.unwrap().kv_client())
    });
    bench(criterion, &runtime, "put x10, etcd-client", |n| client_put(client.clone(), n));
    bench(criterion, &runtime, "put x10, EtcdBackend", |n| adapter_put(etcd.clone(), n));
    bench(criterion, &runtime, "get x10, etcd-client", |n| client_get(client.clone(), n));
    bench(criterion, &runtime, "get x10, EtcdBackend", |n| adapter_get(etcd.clone(), n));
    drop(cluster);
}

criterion_group!(benches, adapter, counters, message_queues);
criterion_main!(benches);
