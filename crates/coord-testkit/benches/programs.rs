//! Speed of the exploration of schedules: all pairs of programs with up to three operations, at
//! each level. The number of schedules is printed first; each of them is a run on a fresh store
//! that is recorded and checked.

use std::ops::ControlFlow;

use coord_core::stm::Isolation;
use coord_testkit::programs::{Alphabet, Explorer, pairs};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Explores all pairs, and returns how many schedules they have.
fn explore(isolation: Isolation, alphabet: Alphabet) -> u64 {
    let cases = pairs(isolation, alphabet);
    let explored = cases.iter().map(|case| {
        Explorer::new().explore(case, |checked| {
            assert!(!checked.is_broken(), "{case}{}", checked.verdict);
            ControlFlow::Continue(())
        })
    });
    explored.map(|explored| explored.schedules).sum()
}

#[expect(clippy::print_stdout, reason = "a bench reports what it measures")]
fn all_pairs(c: &mut Criterion) {
    let alphabet = Alphabet::default();
    let mut group = c.benchmark_group("all pairs of programs with up to 3 operations");
    group.sample_size(10);
    for isolation in Isolation::ALL {
        let schedules = explore(isolation, alphabet);
        println!("{isolation}: {} cases, {schedules} schedules", pairs(isolation, alphabet).len());
        group.throughput(Throughput::Elements(schedules));
        group.bench_function(isolation.to_string(), |b| b.iter(|| explore(isolation, alphabet)));
    }
    group.finish();
}

criterion_group!(benches, all_pairs);
criterion_main!(benches);
