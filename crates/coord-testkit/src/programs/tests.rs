//! Tests of programs, their text, and the exploration of schedules.

use std::ops::ControlFlow;

use coord_core::Error;
use coord_core::stm::{Isolation, StmError};

use super::*;
use crate::isolation::Level;

mod faulty;
mod orders;

fn case(text: &str) -> Case {
    text.parse().unwrap()
}

/// The exploration of a case, and how many runs refute serializability.
fn explore(explorer: &Explorer, case: &Case) -> (Explored, u64) {
    let mut refuted = 0;
    let explored = explorer.explore(case, |checked| {
        assert!(!checked.is_broken(), "{case}{}", checked.verdict);
        refuted += u64::from(checked.verdict.status(Level::Serializable).is_refuted());
        ControlFlow::Continue(())
    });
    (explored, refuted)
}

#[test]
fn program_text_has_every_operation() {
    let text = "initial: p/a x\nT1 serializable-snapshot: r(x) w(y) d(x) range(p/) rev(x)\n\
                T2 repeatable-reads: append(x) abort\nT3 external: w(x) d(y)\n";
    assert_eq!(case(text).to_string(), text);
    assert_eq!(case("initial: (none)\n").to_string(), "initial: (none)\n");
    for wrong in
        ["T1 serializable r(x)", "T2 serializable: r(x)", "T1 loose: r(x)", "T1 external: f(x)"]
    {
        let error = wrong.parse::<Case>().unwrap_err().to_string();
        assert!(error.contains("must look like"), "{error}");
    }
    assert!("T0".parse::<Schedule>().is_err());
}

#[test]
fn single_requests_have_every_order() {
    let blind = case("initial: (none)\nT1 external: w(x)\nT2 external: w(x)\nT3 external: w(x)");
    let explored = explore(&Explorer::new(), &blind).0;
    assert_eq!((explored.schedules, explored.pruned), (6, 0));
}

#[test]
fn reads_in_the_middle_commute() {
    let reads = case(
        "initial: x y
         T1 read-committed: r(x) r(y) w(a)
         T2 read-committed: r(x) r(y) w(b)",
    );
    let explored = explore(&Explorer::new(), &reads).0;
    // Without sleep sets there are 20 orders of three requests each.
    assert!(explored.schedules < 20, "{explored}");
    assert!(explored.is_complete);
}

/// Sleep sets leave out no result: the distinct results include those of many random schedules.
#[test]
fn sleep_sets_lose_no_result_that_random_schedules_find() {
    let texts = [
        "initial: x y\nT1 read-committed: r(x) r(y) w(x)\nT2 repeatable-reads: r(y) r(x) w(y)",
        "initial: x\nT1 serializable: r(x) r(y) w(y)\nT2 serializable: r(y) w(x) d(y)",
        "initial: x\nT1 repeatable-reads: r(x)\nT2 external: w(x)\nT3 read-committed: range(x) w(y)",
    ];
    for text in texts {
        let (case, explorer) = (case(text), Explorer::new());
        let key = |checked: &Checked| {
            let attempts = checked.history().0.iter().map(|event| event.kind.to_string());
            (attempts.collect::<Vec<_>>().join("\n"), checked.verdict.to_string())
        };
        let (mut explored, mut random) = <(Vec<_>, Vec<_>)>::default();
        explorer.explore(&case, |checked| {
            explored.push(key(&checked));
            ControlFlow::Continue(())
        });
        explorer.random(&case, 1, 2_000, |checked| {
            random.push(key(&checked));
            ControlFlow::Continue(())
        });
        let sorted = |mut keys: Vec<(String, String)>| {
            keys.iter_mut().for_each(|(attempts, verdict)| {
                let mut lines: Vec<_> = attempts.lines().collect();
                lines.sort_unstable();
                *attempts = lines.join("\n");
                // The size of the search depends on the order of ends, which is no result.
                let end = verdict.find("checked ").unwrap_or(verdict.len());
                verdict.truncate(end);
            });
            keys.sort();
            keys.dedup();
            keys
        };
        let (explored, random) = (sorted(explored), sorted(random));
        let missing: Vec<_> = random.iter().filter(|key| !explored.contains(key)).collect();
        assert!(missing.is_empty(), "{text}\n{} of {}: {missing:#?}", missing.len(), random.len());
    }
}

#[test]
fn write_skew_is_found_at_read_committed_only() {
    for isolation in Isolation::ALL {
        let text = format!("initial: x y\nT1 {isolation}: r(x) w(y)\nT2 {isolation}: r(y) w(x)\n");
        let (explored, refuted) = explore(&Explorer::new(), &case(&text));
        assert!(explored.is_complete);
        assert_eq!(refuted > 0, isolation == Isolation::ReadCommitted, "{isolation}: {explored}");
    }
}

#[test]
fn stale_read_needs_a_stale_window() {
    let stale = case("initial: x\nT1 read-committed: w(x)\nT2 read-committed: r(x)");
    let is_stale =
        |checked: &Checked| checked.verdict.status(Level::StrictSerializable).is_refuted();
    let (found, _) = Explorer::new().find(&stale, is_stale);
    let found = found.unwrap();
    assert_eq!(found.schedule.to_string(), "T1 T2-1");
    assert_eq!(found.to_string().parse::<Counterexample>().unwrap(), found);
    let replayed = Explorer::new().replay(&found.case, &found.schedule);
    assert!(is_stale(&replayed));
    let requests = ["T1 put x: revision 3", "T2 read x: x@2, from a member that is 1 behind"];
    assert_eq!(replayed.outcome.requests, requests);
    assert_eq!(Explorer::new().stale_window(0).find(&stale, is_stale).0, None);
}

#[test]
fn retries_are_bounded_and_every_attempt_is_recorded() {
    let hot = case(
        "initial: x
         T1 serializable: r(x) w(x)
         T2 external: w(x) w(x) w(x) w(x)",
    );
    let mut conflicts_max = 0;
    Explorer::new().attempts_max(2).explore(&hot, |checked| {
        let attempts = checked.history().0.iter().map(|event| event.kind.to_string());
        let conflicts = attempts.filter(|text| text.ends_with("conflict")).count();
        conflicts_max = conflicts_max.max(conflicts);
        ControlFlow::Continue(())
    });
    assert_eq!(conflicts_max, 2, "the transaction ends after two attempts");
}

#[test]
fn values_of_appends_are_lists_of_unique_values() {
    let appends = case("initial: (none)\nT1 serializable: append(x)\nT2 serializable: append(x)");
    let checked = Explorer::new().replay(&appends, &"T1 T2 T1 T2".parse().unwrap());
    assert_eq!(checked.outcome.state.get("x").unwrap(), "T1.1.1,T2.2.1");
}

#[test]
fn aborted_transaction_writes_nothing() {
    let aborted = case("initial: (none)\nT1 read-committed: w(x) abort w(y)");
    let checked = Explorer::new().replay(&aborted, &Schedule::default());
    assert_eq!(checked.outcome.state, FinalState::default());
    assert!(!checked.is_broken());
}

fn doctors(isolation: Isolation) -> Closures {
    let leave = |name: &'static str, other: &'static str| {
        async move |tx: &mut coord_core::stm::Transaction| {
            if tx.get(other).await?.is_some() {
                tx.delete(name);
            }
            Ok::<_, Error>(())
        }
    };
    Closures::new(isolation)
        .put("ada", "on duty")
        .put("bob", "on duty")
        .transaction(leave("ada", "bob"))
        .transaction(leave("bob", "ada"))
        .invariant(|state| state.contains("ada") || state.contains("bob"))
}

#[test]
fn closures_with_write_skew_fail_at_read_committed_only() {
    for isolation in Isolation::ALL {
        let checked = doctors(isolation).check();
        assert_eq!(checked.is_err(), isolation == Isolation::ReadCommitted, "{checked:?}");
    }
    let failure = doctors(Isolation::ReadCommitted).replay("T1 T2 T1 T2").unwrap_err();
    assert_eq!(failure.schedule.to_string(), "T1 T2 T1 T2");
    doctors(Isolation::ReadCommitted).replay("T1 T1 T2 T2").unwrap();
}

#[test]
fn closures_report_a_level_that_their_history_refutes() {
    let failure = doctors(Isolation::ReadCommitted).invariant(|_| true);
    failure.check().unwrap();
    let failure = failure.keeps(Level::Serializable).check().unwrap_err();
    assert!(failure.text.starts_with("the transactions are not serializable"), "{failure}");
    assert!(failure.text.contains("write skew (G2-item)"), "{failure}");
}

#[test]
fn closures_report_panics_and_errors_with_the_schedule() {
    let panics = Closures::new(Isolation::ReadCommitted)
        .process(async |stm| {
            let read = stm.run(async |tx| tx.get("x").await).await.unwrap();
            assert!(read.value.is_none(), "x was put");
            Ok::<_, String>(())
        })
        .process(async |stm| {
            stm.run(async |tx| {
                tx.put("x", "1");
                Ok::<_, Error>(())
            })
            .await
            .map(drop)
        });
    let failure = panics.check().unwrap_err();
    assert_eq!(failure.schedule.to_string(), "T2 T1");
    assert!(failure.text.contains("T1 failed") && failure.text.contains("x was put"), "{failure}");
    let waits = Closures::new(Isolation::ReadCommitted).process(async |_| {
        std::future::pending::<()>().await;
        Ok::<_, String>(())
    });
    assert!(waits.check().unwrap_err().text.contains("waits for something"));
}

#[test]
fn closures_may_wait_for_virtual_time() {
    let counted = Closures::new(Isolation::Serializable).put("n", "1");
    let add = async |tx: &mut coord_core::stm::Transaction| {
        let n: u32 = tx.get_as::<String>("n").await?.unwrap_or_default().parse().unwrap_or(0);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        tx.put("n", (n + 1).to_string());
        Ok::<_, Error>(())
    };
    let counted = counted.transaction(add).transaction(add);
    let explored = counted.invariant(|state| state.get("n").as_deref() == Some("3")).run();
    assert!(explored.is_complete && explored.schedules > 1, "{explored}");
}

/// The bar: at least 90 % of random failures end with at most three programs and four operations.
#[test]
#[expect(clippy::print_stdout, reason = "the test reports what it measures")]
fn random_failures_shrink_to_a_few_operations() {
    let (seeds, mut small, mut runs) = (40_u64, 0_u64, Vec::new());
    for seed in 0..seeds {
        let search = Search::new(Isolation::ReadCommitted).seed(seed);
        let shrunk = search.find(&Explorer::new(), |checked| {
            checked.verdict.status(Level::Serializable).is_refuted()
        });
        let Shrunk { counterexample, runs: spent } = shrunk.expect("a random case fails");
        let case = &counterexample.case;
        if case.programs.len() <= 3 && case.operations() <= 4 {
            small += 1;
        } else {
            println!("seed {seed}, {spent} runs:\n{counterexample}");
        }
        runs.push(spent);
    }
    runs.sort_unstable();
    let (median, max) = (runs[runs.len() / 2], runs[runs.len() - 1]);
    println!(
        "{small} of {seeds} end with <= 3 programs, <= 4 operations; runs: median {median}, max {max}"
    );
    assert!(small * 10 >= seeds * 9, "{small} of {seeds}");
}

#[test]
fn search_saves_its_counterexample_and_replays_it_first() {
    let folder = std::env::temp_dir().join(format!("coord-programs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("lost-update.case");
    let search = Search::new(Isolation::ReadCommitted).saved_in(&file);
    let fails = |checked: &Checked| checked.verdict.status(Level::SnapshotIsolation).is_refuted();
    let first = search.find(&Explorer::new(), fails).unwrap();
    let again = search.seed(7).find(&Explorer::new(), fails).unwrap();
    assert_eq!((again.counterexample, again.runs), (first.counterexample, 1));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[should_panic(expected = "T1 sends other requests than in an earlier run")]
fn closures_that_change_from_run_to_run_are_detected() {
    let runs = std::cell::Cell::new(0);
    let changing = Closures::new(Isolation::ReadCommitted).process(async move |stm| {
        runs.set(runs.get() + 1);
        if runs.get() == 1 {
            stm.run(async |tx| tx.get("x").await).await?;
            stm.run(async |tx| tx.get("y").await).await?;
        }
        Ok::<_, StmError<Error>>(())
    });
    let _ = changing.transaction(async |tx| tx.get("x").await).check();
}
