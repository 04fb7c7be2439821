//! Tests of closures that break the rules of an exploration, which fail with a message that names
//! the cause, and of unusual closures and cases that the rules permit.

use std::cell::Cell;
use std::time::Duration;

use coord_core::Stm;

use super::*;
use crate::programs::{Program, ProgramOperation};

/// The text of the failure of one process.
fn failure_of(process: impl AsyncFn(Stm) -> Result<(), StmError<Error>> + 'static) -> String {
    let closures = Closures::new(Isolation::ReadCommitted).put("x", "1").process(process);
    closures.check().unwrap_err().text
}

#[test]
fn process_that_never_stops_sending_requests_fails() {
    let text = failure_of(async |stm| {
        loop {
            stm.run(async |tx| tx.get("x").await).await?;
        }
    });
    assert!(text.contains("T1 failed: has not ended after 10000 requests"), "{text}");
}

#[test]
fn process_that_yields_forever_fails() {
    let text = failure_of(async |_| {
        loop {
            tokio::task::yield_now().await;
        }
    });
    assert!(text.contains("T1 failed: "), "{text}");
}

#[test]
fn requests_sent_at_the_same_time_are_refused() {
    let text = failure_of(async |stm| {
        let read = || stm.run(async |tx| tx.get("x").await);
        let _ = futures_util::future::join(read(), read()).await;
        Ok(())
    });
    assert!(text.contains("T1 failed: sends 2 requests at the same time"), "{text}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "closures of a user may spawn tasks")]
fn spawned_task_sends_its_requests_in_turns() {
    let spawns = Closures::new(Isolation::ReadCommitted)
        .process(async |stm| {
            tokio::spawn(async move {
                stm.run(async |tx| {
                    tx.put("x", "1");
                    Ok::<_, Error>(())
                })
                .await
                .map(drop)
            });
            Ok::<_, Error>(())
        })
        .invariant(|state| state.contains("x"));
    let explored = spawns.check().unwrap();
    assert_eq!(explored.schedules, 1);
}

#[test]
fn initial_keys_that_the_store_refuses_panic() {
    let keys = (0..1000).map(|n| format!("k{n:03}"));
    let many = keys.fold(Closures::new(Isolation::ReadCommitted), |all, key| all.put(key, "1"));
    for closures in [many, Closures::new(Isolation::ReadCommitted).put("", "1")] {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| closures.check()));
        let payload = checked.map(drop).unwrap_err();
        let text = payload.downcast_ref::<String>().unwrap();
        assert!(text.contains("the initial keys cannot be put: "), "{text}");
    }
}

#[test]
fn failure_that_a_replay_does_not_repeat_is_reported() {
    let runs = Cell::new(0);
    let closures =
        Closures::new(Isolation::ReadCommitted).transaction(async |tx| tx.get("x").await);
    let failure = closures.invariant(move |_| runs.replace(runs.get() + 1) > 0).check();
    let text = failure.unwrap_err().text;
    assert!(text.contains("the invariant does not hold"), "{text}");
    assert!(text.contains("does not fail again"), "{text}");
}

#[test]
fn invariant_that_panics_fails_with_its_schedule() {
    let closures =
        Closures::new(Isolation::ReadCommitted).transaction(async |tx| tx.get("x").await);
    let failure = closures.invariant(|state| state.get("x").unwrap() == "1").check().unwrap_err();
    assert!(failure.text.contains("the invariant has panicked"), "{failure}");
    assert_eq!(failure.schedule.to_string(), "T1");
}

#[test]
#[should_panic(expected = "only 1 schedule was explored: raise schedules_max")]
fn run_panics_if_schedules_are_left() {
    doctors(Isolation::Serializable).schedules_max(1).run();
}

#[test]
#[should_panic(expected = "T1 sends other requests than in an earlier run")]
fn other_key_in_a_second_run_is_detected() {
    let runs = Cell::new(0);
    let changing = Closures::new(Isolation::ReadCommitted).process(async move |stm| {
        runs.set(runs.get() + 1);
        let key = format!("k{}", runs.get());
        stm.run(async move |tx| tx.get(&key).await).await.map(drop)
    });
    let _ = changing.transaction(async |tx| tx.get("x").await).check();
}

#[test]
fn long_wait_is_named_as_a_cause() {
    let text = failure_of(async |_| {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        Ok(())
    });
    assert!(
        text.contains("waits for something that no turn provides, or longer than 1s"),
        "{text}"
    );
}

#[test]
fn unusual_keys_are_read_again_from_text() {
    let keys =
        [" ", "a b", "é", ")", "(", "x)", "(none)", "schedule:", "initial:", "%", "%41", "\n"];
    let keys = keys.into_iter().chain(["\u{a0}", "\u{1b}[31m", "T1", "\u{2028}x"]);
    for key in keys {
        let get = ProgramOperation::Get(key.to_owned());
        let program =
            Program::new(Isolation::Serializable, [get, ProgramOperation::Range(String::new())]);
        let case = Case { initial: [key.to_owned()].into(), programs: vec![program] };
        let saved = Counterexample { case, schedule: "T1 T1-1".parse().unwrap() };
        let text = saved.to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(text.parse().as_ref(), Ok(&saved), "{text}");
    }
}

#[test]
fn case_without_programs_has_one_schedule() {
    let explored = explore(&Explorer::new(), &Case::default()).0;
    assert!(explored.is_complete && explored.schedules == 1, "{explored}");
    let explored = explore(&Explorer::new().schedules_max(0), &Case::default()).0;
    assert!(!explored.is_complete && explored.schedules == 0, "{explored}");
}

#[test]
fn huge_stale_window_ends_at_the_initial_state() {
    let stale = case("initial: x\nT1 external: w(x) w(x)\nT2 read-committed: r(x)");
    let huge = explore(&Explorer::new().stale_window(u32::MAX), &stale).0;
    let two = explore(&Explorer::new().stale_window(2), &stale).0;
    assert_eq!(huge, two);
    assert!(huge.is_complete);
}
