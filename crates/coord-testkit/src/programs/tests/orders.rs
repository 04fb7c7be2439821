//! Completeness: the exploration has every result that an enumeration of all orders has.
//!
//! The enumeration is independent of the exploration: it knows no sleep sets, and uses replays of
//! single schedules only. After a prefix of turns it tries each process, with each number of
//! revisions that the member may be behind, and keeps the turns that the replay has taken.

use std::collections::BTreeSet;

use super::*;
use crate::history::{EventKind, History};

/// What the transactions of a run have read and written, in which order they ended and began in
/// real time, and whether each level is refuted. The times themselves are no result.
fn result(checked: &Checked) -> String {
    let History(events) = checked.history();
    let mut attempts: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Attempt(attempt) => Some((event.at, attempt)),
            _ => None,
        })
        .collect();
    attempts.sort_by_key(|(_, attempt)| (attempt.transaction, attempt.number));
    let mut text = String::new();
    for (_, attempt) in &attempts {
        let before = attempts.iter().filter(|(ended, _)| *ended < attempt.began);
        let before: Vec<_> = before.map(|(_, other)| (other.transaction, other.number)).collect();
        text += &format!(
            "{} {} {:?} {:?} {:?} {:?} after {before:?}\n",
            attempt.transaction,
            attempt.number,
            attempt.reads,
            attempt.ranges,
            attempt.writes,
            attempt.end,
        );
    }
    let levels: Vec<_> = checked.verdict.levels().collect();
    format!("{text}{:?}\n{levels:?}", checked.outcome.state)
}

/// The results of all orders of turns.
fn enumerate(explorer: &Explorer, case: &Case, window: u32) -> BTreeSet<String> {
    let (mut results, mut prefixes) = (BTreeSet::new(), vec![Vec::new()]);
    while let Some(prefix) = prefixes.pop() {
        let replayed = explorer.replay(case, &Schedule(prefix.clone()));
        if replayed.outcome.schedule.0.len() == prefix.len() {
            results.insert(result(&replayed));
            continue;
        }
        for process in 0..case.programs.len() {
            for behind in 0..=window {
                let mut longer = prefix.clone();
                longer.push(Turn { process, behind });
                let taken = explorer.replay(case, &Schedule(longer.clone())).outcome.schedule;
                // A turn that is not possible is left out, and another one takes its place.
                if taken.0.starts_with(&longer) {
                    prefixes.push(longer);
                }
            }
        }
    }
    results
}

fn explored(explorer: &Explorer, case: &Case) -> BTreeSet<String> {
    let mut results = BTreeSet::new();
    let explored = explorer.explore(case, |checked| {
        results.insert(result(&checked));
        ControlFlow::Continue(())
    });
    assert!(explored.is_complete, "{explored}");
    results
}

#[test]
fn exploration_has_the_results_of_all_orders() {
    let cases = std::env::var("COORD_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24_u64);
    let mut rng = fastrand::Rng::with_seed(0);
    for number in 0..cases {
        let [first, second] = [0, 1].map(|_| Isolation::ALL[rng.usize(..4)]);
        let window = rng.u32(..3);
        let mut case = Search::new(first).size(2, 2).random_case(&mut rng);
        case.programs[1].isolation = (number % 5 != 0).then_some(second);
        if number % 3 == 0 {
            let third = Search::new(second).size(1, 1).random_case(&mut rng);
            case.programs.extend(third.programs);
        }
        let explorer = Explorer::new().stale_window(window).attempts_max(2);
        let all = enumerate(&explorer, &case, window);
        let some = explored(&explorer, &case);
        let missing: Vec<_> = all.difference(&some).collect();
        assert!(missing.is_empty(), "{number}, window {window}:\n{case}{missing:#?}");
        let extra: Vec<_> = some.difference(&all).collect();
        assert!(extra.is_empty(), "{number}, window {window}:\n{case}{extra:#?}");
    }
}

#[test]
fn distinct_results_do_not_count_the_order_of_ends() {
    // Either transaction may end first, and each reads the same in each order.
    let ends = case("initial: x y\nT1 read-committed: r(x) r(y)\nT2 read-committed: r(x) r(y)");
    let explored = super::explore(&Explorer::new(), &ends).0;
    assert_eq!(explored.distinct, 1, "{explored}");
}
