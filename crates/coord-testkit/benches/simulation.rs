//! Speed of the simulator: seeds per second of a lock scenario with three processes, which make 50
//! operations each: in one thread and in two, without faults, and with the store check.

use coord_core::error::PrimitiveError;
use coord_core::{Mutex, Session};
use coord_testkit::sim::{Sim, Sweep};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// The seeds of one iteration: a small sweep.
const SEEDS: u64 = 500;

/// Each process acquires and releases the lock 25 times.
async fn contend(sim: Sim) {
    for name in ["a", "b", "c"] {
        sim.spawn(name, |process| async move {
            let session = Session::builder(process.client()).open().await?;
            let mutex = Mutex::new(&session, "printer");
            for _ in 0..25 {
                mutex.lock().await?.unlock().await?;
            }
            session.close().await?;
            Ok::<_, PrimitiveError>(())
        });
    }
    sim.join().await;
}

fn seeds(c: &mut Criterion) {
    let mut group = c.benchmark_group("lock, 3 processes, 50 operations each");
    group.throughput(Throughput::Elements(SEEDS));
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new("threads", threads), |b| {
            let sweep = Sweep::new("bench").seeds(SEEDS).threads(threads);
            let sweep = sweep.without_canary().without_coverage();
            b.iter(|| sweep.clone().run(contend));
        });
    }
    group.bench_function("store check", |b| {
        let sweep = Sweep::new("bench").seeds(SEEDS).check_store();
        let sweep = sweep.without_canary().without_coverage();
        b.iter(|| sweep.clone().run(contend));
    });
    group.bench_function("no faults", |b| {
        let sweep = Sweep::new("bench").seeds(SEEDS).faults([]);
        let sweep = sweep.without_canary().without_coverage();
        b.iter(|| sweep.clone().run(contend));
    });
    group.finish();
}

criterion_group!(benches, seeds);
criterion_main!(benches);
