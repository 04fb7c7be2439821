//! Swarm testing, measured on the mutants: how many seeds are run until a mutant is caught, when
//! each run enables each fault with a probability of one half, and when each run enables all
//! faults (`docs/decisions/0022-swarm-testing.md`).
//!
//! `COORD_CASES=30 cargo test -p coord-tests --test it swarm -- --nocapture` measures more.

use std::fmt::Write as _;

use super::{Family, Mutant, SEEDS, families, in_two_threads, sweep_of};
use crate::support::cases;

/// By how many seeds the searches are apart.
const SEEDS_APART: u64 = 100_000;

/// How many seeds one search took; [`SEEDS`] if it found nothing.
fn seeds_until_found(family: &Family, mutant: &Mutant, search: u64, is_swarm: bool) -> u64 {
    let first = search * SEEDS_APART;
    let sweep = sweep_of(family, mutant).first_seed(first).shrink_runs(0);
    let sweep = if is_swarm { sweep } else { sweep.without_swarm() };
    match sweep.check(&mutant.scenario) {
        Ok(_) => SEEDS,
        Err(report) => report.seed.map_or(0, |seed| seed - first + 1),
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// The name of a mutant, and the median numbers of seeds with and without the swarm.
fn medians(family: &Family, searches: u64) -> Vec<(String, u64, u64)> {
    let median = |mutant: &Mutant, is_swarm| {
        median((0..searches).map(|i| seeds_until_found(family, mutant, i, is_swarm)).collect())
    };
    let medians =
        |mutant: &Mutant| (mutant.name.clone(), median(mutant, true), median(mutant, false));
    family.mutants.iter().map(medians).collect()
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is kept in docs/decisions")]
fn swarm_finds_mutants_in_fewer_seeds() {
    let searches = u64::from(cases(3));
    let rows = in_two_threads(&families(), |family| medians(family, searches));
    let mut table = String::from("| mutant | swarm | all faults |\n|---|---:|---:|\n");
    for (name, swarm, all) in &rows {
        writeln!(table, "| {name} | {swarm} | {all} |").unwrap();
    }
    println!("{table}");
    let with_faults = rows.iter().filter(|(_, swarm, all)| swarm + all > 0);
    let (swarm, all): (Vec<_>, Vec<_>) = with_faults.map(|(_, swarm, all)| (*swarm, *all)).unzip();
    let (swarm_sum, all_sum) = (swarm.iter().sum::<u64>(), all.iter().sum::<u64>());
    assert!(swarm_sum < all_sum, "swarm {swarm_sum}, all faults {all_sum}:\n{table}");
    println!(
        "upper median of the mutants that need faults: swarm {}, all {}",
        median(swarm),
        median(all)
    );
}
