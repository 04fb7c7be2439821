//! Every schedule of all pairs of small programs, and random larger cases: no level is broken, and
//! the anomalies that occur are those that the level permits.
//!
//! `COORD_CASES` sets the number of random cases without faults; with 1,000 or more, programs of
//! the pairs have up to three operations instead of two.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use coord_core::stm::Isolation;
use coord_testkit::programs::{Alphabet, Explored, Explorer, Search, pairs, simulate};
use coord_testkit::sim::Sweep;

use super::print;
use crate::support::cases;

/// What the attempts of transactions may show at a level, by the names of the checker.
fn permitted(isolation: Isolation) -> &'static [&'static str] {
    match isolation {
        Isolation::SerializableSnapshot | Isolation::Serializable => &[],
        // A stale read is of a range: a transaction that writes does not see a key that was created
        // in the range before it began. Single keys are validated.
        Isolation::RepeatableReads => {
            &["inconsistent attempt", "phantom", "stale read", "stale read-only transaction"]
        }
        // The first has no name of its own: r(x) w(y) with w(x) w(y).
        Isolation::ReadCommitted => &[
            "G-single-item",
            "lost update",
            "phantom",
            "read skew",
            "stale read",
            "stale read-only transaction",
            "write skew",
        ],
    }
}

#[test]
fn pairs_show_exactly_what_their_level_permits() {
    let operations_max = if cases(100) >= 1_000 { 3 } else { 2 };
    let alphabet = Alphabet { operations_max, ..Alphabet::default() };
    for isolation in Isolation::ALL {
        let mut total = Explored::default();
        let mut names = BTreeSet::new();
        let cases = pairs(isolation, alphabet);
        for case in &cases {
            let explored = Explorer::new().explore(case, |checked| {
                assert!(!checked.is_broken(), "{case}{}", checked.verdict);
                let anomalies = checked.verdict.anomalies().iter();
                names.extend(anomalies.filter_map(|anomaly| {
                    anomaly
                        .name
                        .map_or_else(|| Some(anomaly.elle_name()), |name| Some(name.to_owned()))
                }));
                ControlFlow::Continue(())
            });
            assert!(explored.is_complete, "{case}");
            total += explored;
        }
        let (count, all) = (cases.len(), names.iter().cloned().collect::<Vec<_>>().join(", "));
        print(&format!("{isolation}: {count} cases, {total}: {all}"));
        assert!(total.schedules > 1_000, "{total}");
        let expected: BTreeSet<_> =
            permitted(isolation).iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names, expected, "{isolation}");
    }
}

#[test]
fn triples_of_small_programs_keep_their_level() {
    for isolation in Isolation::ALL {
        let search = Search::new(isolation).size(3, 2);
        let (mut rng, mut total) = (fastrand::Rng::with_seed(5), 0);
        for _ in 0..cases(20) {
            let case = search.random_case(&mut rng);
            let explored = Explorer::new().schedules_max(2_000).explore(&case, |checked| {
                assert!(!checked.is_broken(), "{case}{}", checked.verdict);
                ControlFlow::Continue(())
            });
            total += explored.schedules;
        }
        print(&format!("{isolation}: {total} schedules of three programs"));
        assert!(total > 100, "{isolation}: {total}");
    }
}

#[test]
fn random_cases_keep_their_level() {
    for isolation in Isolation::ALL {
        let search = Search::new(isolation).cases(cases(20).into()).schedules(10).seed(3);
        let found = search.find_unshrunk(&Explorer::new(), |checked| checked.is_broken());
        assert_eq!(found, None, "{isolation}");
    }
}

#[test]
fn random_cases_keep_their_level_under_every_fault() {
    let mut rng = fastrand::Rng::with_seed(7);
    for (isolation, number) in Isolation::ALL.into_iter().flat_map(|i| (0..20).map(move |n| (i, n)))
    {
        // In the scenario the generator of the thread would draw the same case in every run.
        let case = Search::new(isolation).random_case(&mut rng);
        let sweep = Sweep::new(&format!("programs-{isolation}-{number}")).seeds(5);
        sweep.without_canary().without_coverage().run(|sim| {
            let case = case.clone();
            async move {
                let verdict = simulate(&sim, &case).await?;
                if verdict.declared().is_refuted() {
                    sim.fail("isolation", format!("{case}{verdict}"));
                }
                Ok::<_, coord_core::Error>(())
            }
        });
    }
}
