//! Paired measurement of the cost of recording: the same STM transactions on etcd without and with
//! records of their attempts, in turn.
//!
//! etcd's own speed varies by more than the cost of recording from one second to the next. So each
//! pair of runs is made one right after the other, in alternating order, and the printed figure is
//! the median of the ratios of the pairs. For comparison it also prints the same figure of two runs
//! without records: how far it is from 1 is the error of the measurement.
//!
//! `cargo bench -p coord-etcd-tests --bench recording`
#![expect(clippy::unwrap_used, reason = "a call that fails ends the benchmark")]
#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::hint::black_box;
use std::time::Duration;

use coord_core::{Client, Stm};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{ClusterBuilder, Release};
use coord_testkit::history::HistoryRecorder;
use futures_util::future::join_all;
use tokio::time::Instant;

/// The numbers of concurrent workers, with the number of pairs of runs.
const WORKERS: [(usize, usize); 2] = [(1, 1_000), (64, 200)];
/// The number of transactions that each worker commits in a run.
const TRANSACTIONS_PER_WORKER: usize = 10;

/// Commits transactions that read two keys and write one of them. The keys belong to the worker.
async fn transactions(client: &Client, worker: usize) {
    let stm = Stm::new(client);
    let key = |n: usize| format!("bench/{worker:02}/{n}");
    for n in 0..TRANSACTIONS_PER_WORKER {
        let run = stm.run(async |tx| {
            let read = tx.get_many([key(0), key(1)]).await?;
            tx.put(key(n % 2), "value");
            Ok::<_, coord_core::Error>(read)
        });
        black_box(run.await.unwrap());
    }
}

async fn time_of_run(client: &Client, workers: usize) -> Duration {
    let started = Instant::now();
    join_all((0..workers).map(|worker| transactions(client, worker))).await;
    started.elapsed()
}

/// The median of the ratios of the times of `b` to the times of `a`, in pairs of runs.
async fn median_ratio(
    a: &Client,
    b: &Client,
    recorder: &HistoryRecorder,
    shape: (usize, usize),
) -> f64 {
    let (workers, pairs) = shape;
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        // A test writes what was recorded to a file. That is not part of the cost.
        drop(recorder.take());
        let (time_a, time_b) = if pair % 2 == 0 {
            let time_a = time_of_run(a, workers).await;
            (time_a, time_of_run(b, workers).await)
        } else {
            let time_b = time_of_run(b, workers).await;
            (time_of_run(a, workers).await, time_b)
        };
        ratios.push(time_b.as_secs_f64() / time_a.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

#[tokio::main]
async fn main() {
    let cluster = ClusterBuilder::new(Release::newest()).start().await;
    let client = Client::new(EtcdBackend::connect(cluster.endpoints()).await.unwrap());
    let recorder = HistoryRecorder::new();
    let recorded = client.clone().record_transactions(recorder.process("bench"));
    // A test run, without the argument of `cargo bench`, only checks that the benchmark works.
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    for (workers, pairs) in WORKERS {
        let shape = (workers, if is_measured { pairs } else { 1 });
        let error = median_ratio(&client, &client, &recorder, shape).await;
        let ratio = median_ratio(&client, &recorded, &recorder, shape).await;
        println!(
            "{workers} workers, {} pairs: recorded {ratio:.3}, not recorded {error:.3}",
            shape.1
        );
    }
}
